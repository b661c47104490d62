"""The events of withdrawals from the event store, in an order that can be followed: none missing, none twice.

An event is followed by its number, the identity column ``sequence``. A number is drawn when a row is inserted, and
transactions may commit in another order; who reads up to number 11 while the transaction with number 10 is still
open would never see that. Between the events of *one* withdrawal it cannot happen: a transaction holds a lock on
the withdrawal before it draws a number for one of its events, and keeps that lock until it has ended.

* The first transaction inserts the withdrawal. Another that inserts it as well waits for the first at the primary
  key, and is undone; whatever numbers it has drawn are never seen.
* A later one updates the row before it stores events (``store.write``), or locks it ``FOR UPDATE`` where it only
  adds an event of a type that is stored already (``store._store_missing``). Either waits for whoever holds the
  row.

So of two transactions with events of a withdrawal, the one that commits first has drawn all of its numbers before
the other draws the first, and whoever sees an event sees all with lower numbers. Over several withdrawals numbers
have no such order: those are followed one by one, each from its own last number (:func:`events_after`), and what
ends anywhere by :mod:`operations.endings`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from contracts.events import EVENT_TYPES
from processors.runtime import utc

# An index has the events of each withdrawal; in order of the numbers, so that a limit leaves out the last ones.
_EVENTS = """
SELECT e.sequence, e.payment_id, e.event_id, e.type, e.payload::text, e.topic, e."partition", e."offset",
    e.recorded_at
FROM unnest(%s::uuid[], %s::bigint[]) AS n (payment_id, after)
CROSS JOIN LATERAL (
    SELECT * FROM event_store WHERE payment_id = n.payment_id AND sequence > n.after
    ORDER BY sequence LIMIT %s) AS e
ORDER BY e.sequence
"""


class Recorded(msgspec.Struct, frozen=True):
    """An event as it is stored.

    Attributes:
        id: its number: to go on after it.
        event_id: the message ID.
        payload: the body, as received.
        topic: where it is published; None for a type that this version does not know.
        partition: with the offset, where it was read; None for the saga service's own, which it stores first.
        recorded_at: when it was stored, UTC.
    """

    id: int
    payment_id: UUID
    event_id: UUID
    type: str
    payload: msgspec.Raw
    topic: str | None
    partition: int | None
    offset: int | None
    recorded_at: datetime


def events_of(
    connection: psycopg.Connection[Any], payment_id: UUID, after: int = 0, limit: int = 1_000
) -> list[Recorded]:
    """The events of one withdrawal in the order in which they were stored; none for an unknown one.

    Args:
        connection: to the saga service's database.
        payment_id: of the withdrawal.
        after: the ID of the last one that is known already.
        limit: events at the most.

    Raises:
        psycopg.OperationalError: the database does not answer.
    """
    return events_after(connection, {payment_id: after}, limit)


def events_after(
    connection: psycopg.Connection[Any], after: Mapping[UUID, int], limit: int = 1_000
) -> list[Recorded]:
    """The same for many withdrawals in one query, for whoever follows them: each after its own last one.

    Args:
        connection: to the saga service's database.
        after: the ID of the last one that is known already, by payment ID; 0 for none.
        limit: events of each withdrawal at the most.
    """
    values = [list(after), list(after.values()), limit]
    return [_recorded(*row) for row in utc.cursor(connection).execute(_EVENTS, values)]


def _recorded(
    number: int, payment_id: UUID, event_id: UUID, event_type: str, body: str, topic: str | None, *rest: Any
) -> Recorded:
    own = EVENT_TYPES.get(event_type)
    where = topic or (own.topic if own is not None else None)
    return Recorded(number, payment_id, event_id, event_type, msgspec.Raw(body.encode()), where, *rest)
