"""All SQL of the saga service's batches: reads and writes of the event store and the withdrawals' states."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from contracts.events import encode
from processors.runtime import outbox_rows
from processors.runtime.rows import Row, Rows, Write, columns, uuid_array, write_rows
from processors.saga.decide import Standing, StoredEvent, Transitions

_COLUMNS = """
payment_id, account_id, amount_minor, currency, state, seen, reason, trace_id, finished_at, finished_by,
requested_at
"""

_READ = f"SELECT {_COLUMNS} FROM withdrawals WHERE payment_id = ANY(%t::uuid[])"  # noqa: S608 made of constants

_WITHDRAWALS = Rows(
    "withdrawals",
    payment_id="uuid",
    account_id="text",
    amount_minor="bigint",
    currency="text",
    state="text",
    seen="integer",
    reason="text",
    trace_id="text",
    finished_at="timestamptz",
    finished_by="text",
    requested_at="timestamptz",
)

# The condition is that of the partial index on open withdrawals: finished ones are never scanned.
COUNT_OPEN = """
SELECT state, count(*), count(*) FILTER (WHERE updated_at < now() - make_interval(secs => %s)) FROM withdrawals
WHERE finished_at IS NULL GROUP BY state
"""

# `seen` only grows, so it serves as the version (optimistic locking): no lock is held while the batch is decided.
# `finished_in`, which new rows have by default, is the transaction of the end, for operations/endings.py.
_UPDATE = """
UPDATE withdrawals w SET account_id = n.account_id, amount_minor = n.amount_minor, currency = n.currency,
    state = n.state, seen = n.seen, reason = n.reason, trace_id = n.trace_id, finished_at = n.finished_at,
    finished_by = n.finished_by, requested_at = n.requested_at, updated_at = now(),
    finished_in = CASE WHEN w.finished_at IS NULL AND n.finished_at IS NOT NULL THEN pg_current_xact_id()
        ELSE w.finished_in END
FROM unnest(
    %b::uuid[], %b::text[], %b::bigint[], %b::text[], %b::text[], %b::integer[], %b::text[], %b::text[],
    %b::timestamptz[], %b::text[], %b::timestamptz[], %b::integer[])
    AS n (payment_id, account_id, amount_minor, currency, state, seen, reason, trace_id, finished_at,
          finished_by, requested_at, seen_before)
WHERE w.payment_id = n.payment_id AND w.seen = n.seen_before RETURNING 1
"""

# Most withdrawals of a batch advance in one of a few ways: one statement for each, to which only IDs travel.
_ADVANCE = """
UPDATE withdrawals w SET state = n.state, seen = n.seen, finished_at = n.finished_at,
    finished_by = n.finished_by, updated_at = now(),
    finished_in = CASE WHEN w.finished_at IS NULL AND n.finished_at IS NOT NULL THEN pg_current_xact_id()
        ELSE w.finished_in END
FROM (VALUES (%b::text, %b::integer, %b::timestamptz, %b::text)) AS n (state, seen, finished_at, finished_by)
WHERE payment_id = ANY(%t::uuid[]) AND w.seen = %b RETURNING 1
"""

_EVENTS = Rows(
    "event_store",
    payment_id="uuid",
    event_id="uuid",
    type="text",
    payload="json",
    topic="text",
    partition="integer",
    offset="bigint",
)

_LOCK = "SELECT FROM withdrawals WHERE payment_id = ANY(%b) ORDER BY payment_id FOR UPDATE"

# The stored events of these withdrawals are read once, however many there are: one may have any number.
_STORE_MISSING = """
WITH again AS (
    SELECT DISTINCT ON (payment_id, type, event_id) * FROM unnest(
        %b::uuid[], %b::uuid[], %b::text[], %b::text[], %b::text[], %b::integer[], %b::bigint[])
        AS n (payment_id, event_id, type, payload, topic, "partition", "offset")),
missing AS (
    SELECT payment_id, event_id, type FROM again
    EXCEPT SELECT payment_id, event_id, type FROM event_store WHERE payment_id = ANY(%b))
INSERT INTO event_store (payment_id, event_id, type, payload, topic, "partition", "offset")
SELECT payment_id, event_id, type, payload::json, topic, "partition", "offset"
FROM again JOIN missing USING (payment_id, event_id, type)
"""


async def read(connection: AsyncConnection, payment_ids: Sequence[UUID]) -> dict[UUID, Standing]:
    """The states of these withdrawals."""
    cursor = await connection.execute(_READ, (uuid_array(payment_ids),))
    standings = [Standing(*row) for row in await cursor.fetchall()]
    for standing in standings:
        standing.seen_before, standing.contents_before = standing.seen, standing.contents
    return {standing.payment_id: standing for standing in standings}


async def count_open(connection: AsyncConnection, older_than_s: float) -> dict[str, tuple[int, int]]:
    """By state: how many withdrawals are open, and how many of those had no event for ``older_than_s`` seconds."""
    cursor = await connection.execute(COUNT_OPEN, (older_than_s,))
    return {state: (open_, stuck) for state, open_, stuck in await cursor.fetchall()}


async def write(connection: AsyncConnection, transitions: Transitions) -> None:
    """Write transitions: events, standings and outbox.

    Raises:
        psycopg.errors.UniqueViolation: another instance inserted one of these withdrawals first.
        psycopg.errors.SerializationFailure: another instance has updated one of them meanwhile.
    """
    await write_rows(
        connection,
        *_updates(one for one in transitions.standings if one.seen_before is not None),
        _WITHDRAWALS.insert([_row(one) for one in transitions.standings if one.seen_before is None]),
        _EVENTS.insert([_event(one) for one in transitions.stored]),
        outbox_rows.insert("withdrawal", transitions.emitted),
    )
    if transitions.stored_again:
        await _store_missing(connection, transitions.stored_again)


async def _store_missing(connection: AsyncConnection, stored: Sequence[StoredEvent]) -> None:
    """Store events of types that are stored already: one that is redelivered has the same ID, and is there.

    No key of the table says so. The first event of a type is stored by whoever moves the withdrawal's version
    on, and these under a lock on its row.
    """
    payment_ids = list({one.event.payment_id for one in stored})
    await connection.execute(_LOCK, (payment_ids,))
    await connection.execute(_STORE_MISSING, (*columns([_event(one) for one in stored]), payment_ids))


def _updates(standings: Iterable[Standing]) -> Iterator[Write]:
    """Updates of standings that are as they were read."""
    advanced = defaultdict[tuple[object, ...], list[tuple[UUID]]](list)
    changed = []
    for standing in standings:
        if standing.contents == standing.contents_before:
            way = (standing.state, standing.seen, standing.finished_at, standing.finished_by, standing.seen_before)
            advanced[way].append((standing.payment_id,))
        else:
            changed.append((*_row(standing), standing.seen_before))
    for alike, rows in advanced.items():
        yield Write(_ADVANCE, rows, partial(_advance, alike), counted=True)
    yield Write(_UPDATE, changed, counted=True)


def _advance(way: tuple[object, ...], rows: Sequence[Row]) -> list[Any]:
    *to, seen_before = way
    return [*to, uuid_array(payment_id for (payment_id,) in rows), seen_before]


def _row(standing: Standing) -> tuple[object, ...]:
    return (
        standing.payment_id,
        standing.account_id,
        standing.amount_minor,
        standing.currency,
        standing.state,
        standing.seen,
        standing.reason,
        standing.trace_id,
        standing.finished_at,
        standing.finished_by,
        standing.requested_at,
    )


def _event(stored: StoredEvent) -> tuple[object, ...]:
    record = stored.record
    return (
        stored.event.payment_id,
        stored.event_id,
        type(stored.event).__name__,
        _body(stored).decode(),
        record.topic if record else None,
        record.partition if record else None,
        record.offset if record else None,
    )


def _body(stored: StoredEvent) -> bytes:
    # The bytes as received: fields that this version does not know are kept too.
    received = stored.record.value if stored.record else None
    return received if received is not None else encode(stored.event)
