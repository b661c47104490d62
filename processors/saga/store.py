"""All SQL of the saga service's batches: reads and writes of the event store and the withdrawals' states."""

from collections.abc import Sequence
from uuid import UUID

from psycopg import AsyncConnection

from contracts.events import encode
from processors.runtime import outbox_rows
from processors.runtime.database import LostRace
from processors.runtime.rows import Rows, columns, write_rows
from processors.saga.decide import Standing, StoredEvent, Transitions

_COLUMNS = """
payment_id, account_id, amount_minor, currency, state, seen, reason, trace_id, finished_at, finished_by,
requested_at
"""

_READ = f"SELECT {_COLUMNS} FROM withdrawals WHERE payment_id = ANY(%b)"

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
_COUNT_OPEN = """
SELECT state, count(*), count(*) FILTER (WHERE updated_at < now() - make_interval(secs => %s)) FROM withdrawals
WHERE finished_at IS NULL GROUP BY state
"""

# `seen` only grows, so it serves as the version (optimistic locking): no lock is held while the batch is decided.
_UPDATE = """
WITH updated AS (
    UPDATE withdrawals w SET account_id = n.account_id, amount_minor = n.amount_minor, currency = n.currency,
        state = n.state, seen = n.seen, reason = n.reason, trace_id = n.trace_id, finished_at = n.finished_at,
        finished_by = n.finished_by, requested_at = n.requested_at, updated_at = now()
    FROM unnest(
        %b::uuid[], %b::text[], %b::bigint[], %b::text[], %b::text[], %b::integer[], %b::text[], %b::text[],
        %b::timestamptz[], %b::text[], %b::timestamptz[], %b::integer[])
        AS n (payment_id, account_id, amount_minor, currency, state, seen, reason, trace_id, finished_at,
              finished_by, requested_at, seen_before)
    WHERE w.payment_id = n.payment_id AND w.seen = n.seen_before RETURNING 1)
SELECT count(*) FROM updated
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


async def read(connection: AsyncConnection, payment_ids: Sequence[UUID]) -> dict[UUID, Standing]:
    """The states of these withdrawals."""
    cursor = await connection.execute(_READ, (payment_ids,))
    standings = [Standing(*row) for row in await cursor.fetchall()]
    for standing in standings:
        standing.seen_before = standing.seen
    return {standing.payment_id: standing for standing in standings}


async def count_open(connection: AsyncConnection, older_than_s: float) -> dict[str, tuple[int, int]]:
    """By state: how many withdrawals are open, and how many of those had no event for ``older_than_s`` seconds."""
    cursor = await connection.execute(_COUNT_OPEN, (older_than_s,))
    return {state: (open_, stuck) for state, open_, stuck in await cursor.fetchall()}


async def write(connection: AsyncConnection, transitions: Transitions) -> None:
    """Write transitions: events, standings and outbox.

    Raises:
        psycopg.errors.UniqueViolation: another instance inserted one of these withdrawals first.
        LostRace: another instance has updated one of them meanwhile.
    """
    old = [(*_row(s), s.seen_before) for s in transitions.standings if s.seen_before is not None]
    updated = await connection.execute(_UPDATE, columns(old)) if old else None
    await write_rows(
        connection,
        _WITHDRAWALS.insert([_row(s) for s in transitions.standings if s.seen_before is None]),
        _EVENTS.insert([_event(s) for s in transitions.stored]),
        outbox_rows.insert("withdrawal", transitions.emitted),
    )
    # A redelivered message has the same ID; a second one under another ID is stored too.
    await write_rows(connection, _EVENTS.insert_missing([_event(s) for s in transitions.stored_again]))
    if updated is not None:  # read last: in pipeline mode its result arrives with the others
        row = await updated.fetchone()
        if row is None or row[0] != len(old):
            raise LostRace(f"not all of {len(old)} withdrawals are as they were read")


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
