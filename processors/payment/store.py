"""All SQL of the payment service: how payments are read and written."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from processors.payment.decide import Payment
from processors.runtime import outbox_rows
from processors.runtime.database import LostRace
from processors.runtime.messages import Emitted
from processors.runtime.rows import Rows, Write, columns, uuid_array, write_rows
from tracing import TraceContext

_COLUMNS = """
payment_id, account_id, amount_minor, currency, status, provider_reference, reason, attempts, next_attempt_at,
deadline_at, void_reason, cancel_refused, traceparent, tracestate
"""

_READ = f"SELECT {_COLUMNS} FROM payments WHERE payment_id = ANY(%t::uuid[])"  # noqa: S608 made of constants

_LOCK = f"{_READ} ORDER BY payment_id FOR UPDATE"

_UNNEST = """
unnest(%b::uuid[], %b::text[], %b::bigint[], %b::text[], %b::text[], %b::text[], %b::text[], %b::smallint[],
       %b::timestamptz[], %b::timestamptz[], %b::text[], %b::boolean[], %b::text[], %b::text[])
"""

_PAYMENTS = Rows(
    "payments",
    payment_id="uuid",
    account_id="text",
    amount_minor="bigint",
    currency="text",
    status="text",
    provider_reference="text",
    reason="text",
    attempts="smallint",
    next_attempt_at="timestamptz",
    deadline_at="timestamptz",
    void_reason="text",
    cancel_refused="boolean",
    traceparent="text",
    tracestate="text",
)

_UPDATE = """
UPDATE payments p SET status = n.status, provider_reference = n.provider_reference, reason = n.reason,
    attempts = n.attempts, next_attempt_at = n.next_attempt_at, deadline_at = n.deadline_at,
    void_reason = n.void_reason, cancel_refused = n.cancel_refused, claim = NULL, updated_at = now()
FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::text[], %b::smallint[], %b::timestamptz[], %b::timestamptz[],
            %b::text[], %b::boolean[])
    AS n (payment_id, status, provider_reference, reason, attempts, next_attempt_at, deadline_at, void_reason,
          cancel_refused)
WHERE p.payment_id = n.payment_id
"""

_COMPLETE_AWAITED = f"""
UPDATE payments p SET account_id = n.account_id, amount_minor = n.amount_minor, currency = n.currency,
    status = n.status, next_attempt_at = n.next_attempt_at, deadline_at = n.deadline_at,
    void_reason = n.void_reason, traceparent = n.traceparent, tracestate = n.tracestate, updated_at = now()
FROM {_UNNEST} AS n ({_COLUMNS}) WHERE p.payment_id = n.payment_id AND p.status = 'awaited'
RETURNING p.payment_id
"""  # noqa: S608 made of constants

# As text: in binary format an empty array has no element type.
_DUE = """
SELECT payment_id AS id FROM payments
WHERE status = 'pending' AND next_attempt_at <= %b AND payment_id <> ALL(%t::uuid[])
ORDER BY next_attempt_at LIMIT %b
"""

# Concurrent instances claim different rows, never the same ones; and none that is being worked on, as a claim
# moves the time at which a row is due.
_CLAIM = f"""
WITH due AS (
    {_DUE} FOR UPDATE SKIP LOCKED)
UPDATE payments SET claim = %b, next_attempt_at = %b FROM due WHERE payment_id = due.id RETURNING payment_id
"""  # noqa: S608 made of constants

_CLAIM_THESE = """
WITH due AS (
    SELECT payment_id AS id FROM payments
    WHERE payment_id = ANY(%b) AND status = 'pending' AND next_attempt_at <= %b
    FOR UPDATE SKIP LOCKED)
UPDATE payments SET claim = %b, next_attempt_at = %b FROM due WHERE payment_id = due.id RETURNING payment_id
"""

_PUSH_BACK = """
UPDATE payments SET claim = NULL, reason = %b, next_attempt_at = %b, updated_at = now()
WHERE payment_id = %b AND claim = %b
"""

_LOCK_CLAIMED = """
SELECT payment_id, void_reason FROM payments WHERE payment_id = ANY(%b) AND claim = %b
ORDER BY payment_id FOR UPDATE
"""

# Only a pending payment has a claim; the condition is that of the partial index.
_RELEASE = "UPDATE payments SET claim = NULL, next_attempt_at = now() WHERE status = 'pending' AND claim = %b"

# The instance that holds a claim finds the reason when it writes the outcome; unclaimed payments are due at once.
_REQUEST_VOID = """
UPDATE payments SET void_reason = %b, updated_at = now(),
    next_attempt_at = CASE WHEN claim IS NULL THEN %b ELSE next_attempt_at END
WHERE payment_id = ANY(%b)
"""

_NOTE_REFUSED = "UPDATE payments SET cancel_refused = true, updated_at = now() WHERE payment_id = ANY(%b)"


async def read(connection: AsyncConnection, payment_ids: Sequence[UUID]) -> dict[UUID, Payment]:
    """The known payments."""
    cursor = await connection.execute(_READ, (uuid_array(payment_ids),))
    return {row[0]: _payment(row) for row in await cursor.fetchall()}


async def lock(connection: AsyncConnection, payment_ids: Sequence[UUID]) -> dict[UUID, Payment]:
    """The same, locked in a fixed order until the transaction ends."""
    cursor = await connection.execute(_LOCK, (uuid_array(payment_ids),))
    return {row[0]: _payment(row) for row in await cursor.fetchall()}


async def write(connection: AsyncConnection, new: Sequence[Payment], emitted: Sequence[Emitted] = ()) -> None:
    """Write new payments, and events to the outbox.

    Raises:
        psycopg.errors.UniqueViolation: another instance inserted one of them first.
    """
    rows = [_row(payment) for payment in new]
    await write_rows(connection, _PAYMENTS.insert(rows), outbox_rows.insert("payment", emitted))


async def complete_awaited(connection: AsyncConnection, payments: Sequence[Payment]) -> None:
    """Complete awaited payments, whose deductions have arrived.

    Raises:
        LostRace: another instance did so first.
    """
    if payments:
        cursor = await connection.execute(_COMPLETE_AWAITED, columns([_row(payment) for payment in payments]))
        if len(await cursor.fetchall()) != len(payments):
            raise LostRace("an awaited payment was taken up elsewhere")


async def request_void(
    connection: AsyncConnection, payments: Sequence[Payment], reason: str, now: datetime
) -> None:
    """Mark pending payments to be voided instead of paid."""
    if payments:
        await connection.execute(_REQUEST_VOID, (reason, now, [p.payment_id for p in payments]))


async def note_refused(connection: AsyncConnection, payments: Sequence[Payment]) -> None:
    """Mark payments whose cancellation was refused."""
    if payments:
        await connection.execute(_NOTE_REFUSED, ([p.payment_id for p in payments],))


async def claim(
    connection: AsyncConnection, now: datetime, but: Sequence[UUID], limit: int, token: UUID, until: datetime
) -> list[UUID]:
    """Claim pending payments that are due, oldest first, exclusively until ``until`` or an update.

    Args:
        connection: outside of a transaction.
        now: the time.
        but: payments to skip.
        limit: how many at the most.
        token: identifies the claim.
        until: when the claim expires.
    """
    cursor = await connection.execute(_CLAIM, (now, but, limit, token, until))
    return [row[0] for row in await cursor.fetchall()]


async def due(connection: AsyncConnection, now: datetime, but: Sequence[UUID], limit: int) -> list[UUID]:
    """Pending payments that are due, oldest first, without claiming them."""
    cursor = await connection.execute(_DUE, (now, but, limit))
    return [row[0] for row in await cursor.fetchall()]


async def claim_these(
    connection: AsyncConnection, payment_ids: Sequence[UUID], now: datetime, token: UUID, until: datetime
) -> list[UUID]:
    """Claim those of the given payments that are still due."""
    cursor = await connection.execute(_CLAIM_THESE, (payment_ids, now, token, until))
    return [row[0] for row in await cursor.fetchall()]


async def push_back(
    connection: AsyncConnection, payment_id: UUID, token: UUID, reason: str, next_attempt_at: datetime
) -> None:
    """Release the claim on a payment that cannot be handled, and reschedule it."""
    await connection.execute(_PUSH_BACK, (reason, next_attempt_at, payment_id, token))


async def lock_claimed(
    connection: AsyncConnection, payment_ids: Sequence[UUID], token: UUID
) -> dict[UUID, str | None]:
    """Lock those of the payments whose claim is still ours; returns their current reasons to void."""
    cursor = await connection.execute(_LOCK_CLAIMED, (payment_ids, token))
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def release(connection: AsyncConnection, token: UUID) -> None:
    """Release a claim; its payments are due at once."""
    await connection.execute(_RELEASE, (token,))


async def update(connection: AsyncConnection, payments: Sequence[Payment], emitted: Sequence[Emitted]) -> None:
    """Write the outcomes of pending payments, release their claims, and write events to the outbox."""
    rows = [_outcome(payment) for payment in payments]
    await write_rows(connection, Write(_UPDATE, rows), outbox_rows.insert("payment", emitted))


def _row(payment: Payment) -> tuple[object, ...]:
    payment_id, *outcome = _outcome(payment)
    about = (payment_id, payment.account_id, payment.amount_minor, payment.currency)
    return *about, *outcome, payment.context.traceparent, payment.context.tracestate


def _outcome(payment: Payment) -> tuple[object, ...]:
    return (
        payment.payment_id,
        payment.status,
        payment.provider_reference,
        payment.reason,
        payment.attempts,
        payment.next_attempt_at,
        payment.deadline_at,
        payment.void_reason,
        payment.cancel_refused,
    )


def _payment(row: tuple[Any, ...]) -> Payment:
    payment_id, account_id, amount_minor, currency, *decided, traceparent, tracestate = row
    return Payment(payment_id, account_id, amount_minor, currency, TraceContext(traceparent, tracestate), *decided)
