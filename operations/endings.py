"""The endings of withdrawals, in an order that can be followed over all of them: none missing, none twice.

Each ending is written by one transaction, whose ID is in ``withdrawals.finished_in``: the row's default where it
is inserted with its end, else set by the update that ends it, and never changed again. Endings are followed in the
order of (transaction ID, payment ID).

Transactions commit in another order than that of their IDs, so a reader stops before the oldest one that is still
open (``pg_snapshot_xmin`` of the snapshot that its query reads from). Of those below, all have ended: their
endings are in the snapshot, or never will be anywhere. Whatever commits later has an ID at or above, so its place
is after all that was read. (A timestamp or a sequence does not do: a lower one may become visible later.)

What it costs: a transaction that stays open in the saga service's server, and has written something, holds the
stream back until it ends. A transaction ID means something in one server only: after a dump and restore into
another one, earlier endings have IDs of its future. :func:`endings_after` refuses a position of the future, so
that nobody waits there for ever, and docs/operations.md says how to take those out of the stream. A server that
took over without the last transactions (an asynchronous standby, a restore to a point in time) gives their IDs
again: a position among them then looks like one of its own, and what ended in between is not told.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from operations.errors import CursorError
from processors.runtime import utc

_XID_MAX = 2**63 - 1
_LAST_ID = UUID(int=2**128 - 1)

# The first condition is that of the index.
_ENDINGS = """
SELECT finished_in::text AS xid, payment_id, state, account_id, amount_minor, currency, reason, finished_by,
    finished_at, trace_id
FROM withdrawals
WHERE finished_at IS NOT NULL AND finished_in < pg_snapshot_xmin(pg_current_snapshot())
    AND (finished_in, payment_id) > (%s::text::xid8, %s)
ORDER BY finished_in, payment_id LIMIT %s
"""

_NEXT = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, pg_snapshot_xmax(pg_current_snapshot())::text"


class Ending(msgspec.Struct, frozen=True):
    """How a withdrawal ended; the amount in minor units.

    Attributes:
        id: its position in the stream: to go on after it.
        state: ``completed``, ``rejected`` or ``compensated``.
        finished_by: the type of the event that finished it.
        finished_at: when (UTC), by the clock of the service that decided it.
    """

    id: str
    payment_id: UUID
    state: str
    account_id: str
    amount_minor: int
    currency: str
    reason: str | None
    finished_by: str
    finished_at: datetime
    trace_id: str | None


def endings_after(connection: psycopg.Connection[Any], after: str | None, limit: int) -> list[Ending]:
    """The endings after a position, in the order of the stream.

    Args:
        connection: to the saga service's database, in autocommit mode: each call has to see what is new.
        after: the ID of the last one that is known already, or :func:`latest`; None for the first there is.
        limit: endings at the most.

    Raises:
        CursorError: no such position, or one of another server's.
        psycopg.OperationalError: the database does not answer.
    """
    xid, payment_id = order_of(after) if after is not None else (0, UUID(int=0))
    rows = utc.cursor(connection).execute(_ENDINGS, (str(xid), payment_id, limit)).fetchall()
    if not rows and xid > 0 and xid >= _next(connection)[1]:
        raise CursorError(f"{after!r} is a position of another server: begin without one")
    return [Ending(f"{finished_in}-{rest[0]}", *rest) for finished_in, *rest in rows]


def latest(connection: psycopg.Connection[Any]) -> str:
    """The present end of the stream: what is after it is new."""
    return f"{_next(connection)[0] - 1}-{_LAST_ID}"


def order_of(position: str) -> tuple[int, UUID]:
    """What positions are ordered by: the transaction ID and the payment ID.

    Raises:
        CursorError: no such position.
    """
    xid, _, payment_id = position.partition("-")
    try:
        found = int(xid), UUID(payment_id)
    except ValueError:
        raise CursorError(f"{position!r} is no ID of an ending") from None
    if not 0 <= found[0] <= _XID_MAX:
        raise CursorError(f"{position!r} is no ID of an ending")
    return found


def _next(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    """The oldest transaction ID that is still open, and the next one to be given."""
    row = connection.execute(_NEXT).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])
