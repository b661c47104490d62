"""Lists of withdrawals from the saga service's database, newest first, a page at a time.

The order is that in which the saga service recorded them, by its database's clock: a request's own time and
payment ID are its sender's choice. A page costs the same however many withdrawals are stored: it reads an index
from its cursor on, and looks at no more than :data:`EXAMINED_MAX` of them for those that match. So a page may have
few, or none, and a cursor all the same; there are more as long as there is one.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from operations.errors import CursorError
from processors.runtime import utc
from processors.saga.decide import FINISHED, OPEN_STATES
from processors.saga.store import COUNT_OPEN

TRACED_MAX = 20_000
"""The newest withdrawals, which are looked through for a trace ID first: there is no index for it."""

EXAMINED_MAX = 2_000
"""Withdrawals that a page looks at where it wants those of a state or with a reason."""

_COLUMNS = """payment_id, account_id, amount_minor, currency, state, reason, trace_id, requested_at, created_at,
    updated_at, finished_at, finished_by, seen"""

_NEWEST_FIRST = "ORDER BY created_at DESC, payment_id DESC"

# Each part has an index in this order, `withdrawals_open` and `withdrawals_finished`, or `_of_account`. The last
# row of the result is the last one examined, with the number of all of them.
_PAGE = """
WITH examined AS MATERIALIZED (
    SELECT * FROM ({parts}) AS w {order} LIMIT {examined}
), found AS (
    SELECT * FROM examined WHERE {matches} {order} LIMIT {limit}
)
(SELECT {columns}, NULL::bigint FROM found {order})
UNION ALL
(SELECT {columns}, (SELECT count(*) FROM examined) FROM examined ORDER BY created_at, payment_id LIMIT 1)
"""

_PART = "(SELECT {columns} FROM withdrawals WHERE {conditions} {order} LIMIT {examined})"


class Listed(msgspec.Struct, frozen=True):
    """A withdrawal as the saga service knows it; the amount in minor units, times in UTC.

    Attributes:
        requested_at: as its request says; None until that has arrived.
        created_at: when its first event was recorded.
        updated_at: when its last event was recorded.
        seen: the bits of its events (:data:`processors.saga.decide.BITS`).
    """

    payment_id: UUID
    account_id: str
    amount_minor: int
    currency: str
    state: str
    reason: str | None
    trace_id: str | None
    requested_at: datetime | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    finished_by: str | None
    seen: int


class Wanted(msgspec.Struct, frozen=True):
    """A filter of withdrawals; what is left out matches all.

    Attributes:
        states: of :mod:`processors.saga.decide`.
        account_id: the account that the money is taken from.
        since: recorded then or later.
        until: recorded before then.
        reason: of the rejection or the failure, exactly.
        in_flight: only those that are not finished.
        silent_s: only those that are not finished and had no event for so many seconds: the stuck ones.
    """

    states: frozenset[str] = frozenset()
    account_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    reason: str | None = None
    in_flight: bool = False
    silent_s: float | None = None

    @property
    def parts(self) -> list[str]:
        """The halves of the table that can match, as conditions of their indices."""
        may_be_open = not self.states or not self.states <= FINISHED
        may_be_finished = (
            not self.in_flight and self.silent_s is None and (not self.states or self.states & FINISHED)
        )
        conditions = {"finished_at IS NULL": may_be_open, "finished_at IS NOT NULL": may_be_finished}
        return [condition for condition, wanted in conditions.items() if wanted]


class Page(msgspec.Struct, frozen=True):
    """Some withdrawals, and the cursor of the next page; None where there are no more."""

    withdrawals: list[Listed]
    cursor: str | None


_OF_IDS = f"SELECT {_COLUMNS} FROM withdrawals WHERE payment_id = ANY(%s)"  # noqa: S608 made of constants


def of_ids(connection: psycopg.Connection[Any], payment_ids: Sequence[UUID]) -> list[Listed]:
    """Those of some withdrawals that are known, in any order.

    Args:
        connection: to the saga service's database.
        payment_ids: of the withdrawals.

    Raises:
        psycopg.OperationalError: the database does not answer.
    """
    return [Listed(*row) for row in utc.cursor(connection).execute(_OF_IDS.encode(), (list(payment_ids),))]


_OF_TRACE = """
SELECT payment_id FROM (
    (SELECT payment_id, trace_id FROM withdrawals WHERE finished_at IS NULL
        ORDER BY created_at DESC, payment_id DESC LIMIT %(examined)s)
    UNION ALL
    (SELECT payment_id, trace_id FROM withdrawals WHERE finished_at IS NOT NULL
        ORDER BY created_at DESC, payment_id DESC LIMIT %(examined)s)) AS newest
WHERE trace_id = %(trace_id)s ORDER BY payment_id LIMIT %(limit)s
"""


_OF_TRACE_EVER = "SELECT payment_id FROM withdrawals WHERE trace_id = %(trace_id)s LIMIT %(limit)s"


def of_trace(connection: psycopg.Connection[Any], trace_id: str, limit: int = 10) -> list[UUID]:
    """The payment IDs of a trace, of the newest that have it. Where none of them has, all withdrawals are read.

    Args:
        connection: to the saga service's database.
        trace_id: 32 hex digits.
        limit: payment IDs at the most; a trace that a caller began may have many.

    Raises:
        psycopg.errors.QueryCanceled: there are too many for the connection's time limit.
    """
    values = {"examined": TRACED_MAX, "trace_id": trace_id, "limit": limit}
    newest = [payment_id for (payment_id,) in connection.execute(_OF_TRACE, values)]
    return newest or [payment_id for (payment_id,) in connection.execute(_OF_TRACE_EVER, values)]


class OpenOnes(msgspec.Struct, frozen=True):
    """How many withdrawals in a state are not finished, and how many of those had no event for some time."""

    state: str
    open: int
    silent: int


def count_open(connection: psycopg.Connection[Any], silent_s: float) -> list[OpenOnes]:
    """The withdrawals that are not finished, by state, the most advanced last.

    Args:
        connection: to the saga service's database.
        silent_s: the time without an event, seconds.
    """
    found = {row[0]: OpenOnes(*row) for row in connection.execute(COUNT_OPEN.encode(), (silent_s,))}
    return [found.get(state, OpenOnes(state, 0, 0)) for state in OPEN_STATES]


def page(connection: psycopg.Connection[Any], wanted: Wanted, limit: int, cursor: str | None = None) -> Page:
    """A page of the withdrawals that match, newest first.

    A withdrawal keeps its place for good, so following cursors shows each at most once, and each that was recorded
    when the first page was read.

    Args:
        connection: to the saga service's database.
        wanted: the filter.
        limit: withdrawals at the most.
        cursor: of the page before; the same filter belongs to it.

    Raises:
        CursorError: it is none of this list's.
        psycopg.OperationalError: the database does not answer.
    """
    if not wanted.parts:
        return Page([], None)
    few = 2 * (limit + 1)  # enough for a common state
    if few < EXAMINED_MAX:
        found = _page(connection, wanted, limit, cursor, few)
        if found.cursor is None or len(found.withdrawals) == limit:
            return found
    return _page(connection, wanted, limit, cursor, EXAMINED_MAX)


def _page(
    connection: psycopg.Connection[Any], wanted: Wanted, limit: int, cursor: str | None, examined_max: int
) -> Page:
    query, examined = statement(wanted, limit, cursor, examined_max)
    # Not prepared: a plan that is made for any account or state suits none.
    rows = utc.cursor(connection).execute(query.encode(), values(wanted, cursor), prepare=False).fetchall()
    found = [Listed(*row[:-1]) for row in rows if row[-1] is None]
    if len(found) > limit:
        return Page(found[:limit], _cursor_of(found[limit - 1]))
    (last,) = [row for row in rows if row[-1] is not None] or [None]
    is_end = last is None or last[-1] < examined
    return Page(found, None if last is None or is_end else _cursor_of(Listed(*last[:-1])))


def statement(
    wanted: Wanted, limit: int, cursor: str | None = None, examined_max: int | None = None
) -> tuple[str, int]:
    """The query of a page, and how many withdrawals it examines at the most."""
    narrow, matches = _conditions(wanted, cursor)
    examined = (examined_max or EXAMINED_MAX) if matches else limit + 1
    about = {"columns": _COLUMNS, "order": _NEWEST_FIRST, "examined": examined}
    parts = " UNION ALL ".join(
        _PART.format(conditions=" AND ".join([part, *narrow]), **about) for part in wanted.parts
    )
    return _PAGE.format(parts=parts, matches=" AND ".join(matches) or "true", limit=limit + 1, **about), examined


def _conditions(wanted: Wanted, cursor: str | None) -> tuple[list[str], list[str]]:
    """Conditions that an index narrows down, and those that each row examined is checked for."""
    narrow = {
        "account_id = %(account_id)s": wanted.account_id is not None,
        "created_at >= %(since)s": wanted.since is not None,
        "created_at < %(until)s": wanted.until is not None,
        # Who has been silent for so long was recorded before that: the index begins there, past all that move.
        "created_at < now() - make_interval(secs => %(silent_s)s)": wanted.silent_s is not None,
        "(created_at, payment_id) < (%(at)s, %(payment_id)s)": cursor is not None,
    }
    matches = {
        "state = ANY(%(states)s)": bool(wanted.states),
        "reason = %(reason)s": wanted.reason is not None,
        "updated_at < now() - make_interval(secs => %(silent_s)s)": wanted.silent_s is not None,
    }
    return [text for text, is_wanted in narrow.items() if is_wanted], [
        text for text, is_wanted in matches.items() if is_wanted
    ]


def values(wanted: Wanted, cursor: str | None = None) -> dict[str, object]:
    """The values of the query of a page."""
    at, payment_id = _parse(cursor) if cursor is not None else (None, None)
    return {
        "account_id": wanted.account_id,
        "since": wanted.since,
        "until": wanted.until,
        "states": list(wanted.states),
        "reason": wanted.reason,
        "silent_s": wanted.silent_s,
        "at": at,
        "payment_id": payment_id,
    }


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _cursor_of(one: Listed) -> str:
    return f"{(one.created_at - _EPOCH) // _MICROSECOND}.{one.payment_id}"


def _parse(cursor: str) -> tuple[datetime, UUID]:
    microseconds, _, payment_id = cursor.partition(".")
    try:
        return _EPOCH + int(microseconds) * _MICROSECOND, UUID(payment_id)
    except (ValueError, OverflowError):
        raise CursorError(f"{cursor!r} is no cursor of a list of withdrawals") from None
