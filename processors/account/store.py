"""All SQL of the account service: how accounts are read and written."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from broker.records import Record
from contracts.events import PaymentFailed, decode, encode
from contracts.topics import PAYMENT_EVENTS
from processors.account.decide import Account, Decision, LogEntry
from processors.runtime import outbox_rows
from processors.runtime.messages import Message
from processors.runtime.rows import Rows, Write, uuid_array, write_rows
from tracing import TraceContext

_LOCK_ACCOUNTS = """
SELECT account_id, currency, balance_minor FROM accounts
WHERE account_id = ANY(%b) ORDER BY account_id FOR UPDATE
"""

_READ_LOG = """
SELECT payment_id, account_id, amount_minor, currency, status, reason FROM saga_log
WHERE payment_id = ANY(%t::uuid[])
"""

_SET_BALANCES = """
UPDATE accounts a SET balance_minor = n.balance_minor, updated_at = now()
FROM unnest(%b::text[], %b::bigint[]) AS n (account_id, balance_minor) WHERE a.account_id = n.account_id
"""

_SAGA_LOG = Rows(
    "saga_log",
    payment_id="uuid",
    account_id="text",
    amount_minor="bigint",
    currency="text",
    status="text",
    reason="text",
)

_COMPENSATE = """
UPDATE saga_log l SET status = 'compensated', reason = c.reason, updated_at = now()
FROM unnest(%b::uuid[], %b::text[]) AS c (payment_id, reason) WHERE l.payment_id = c.payment_id
"""

_KEEP_REFUND = """
INSERT INTO refunds_due (payment_id, payload, traceparent, tracestate, error, next_attempt_at)
VALUES (%b, %b::text::json, %b, %b, %b, %b) ON CONFLICT DO NOTHING
"""

# Concurrent instances retry different refunds, never the same one.
_LOCK_REFUND = """
SELECT payment_id, payload::text, traceparent, tracestate, attempts FROM refunds_due
WHERE next_attempt_at <= %b AND payment_id <> ALL(%t::uuid[])
ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""

_FORGET_REFUND = "DELETE FROM refunds_due WHERE payment_id = %b"

_POSTPONE_REFUND = """
UPDATE refunds_due SET attempts = attempts + 1, error = %b, next_attempt_at = %b WHERE payment_id = %b
"""

_LEDGER = Rows("ledger", payment_id="uuid", kind="text", account_id="text", amount_minor="bigint")


class RefundDue(msgspec.Struct, frozen=True):
    """A refund that was refused ``attempts`` times and is due again."""

    payment_id: UUID
    body: bytes
    context: TraceContext
    attempts: int

    def message(self) -> Message:
        """The original message.

        Raises:
            ContractError: the stored message is invalid.
        """
        record = Record(PAYMENT_EVENTS.name, 0, 0, None, self.body, [])
        return Message(decode(PaymentFailed.__name__, self.body), self.payment_id, self.context, record)


async def keep_refund(
    connection: AsyncConnection, message: Message, error: str, next_attempt_at: datetime
) -> None:
    """Store a refund to be retried."""
    event, context = message.event, message.context
    values = (encode(event).decode(), context.traceparent, context.tracestate, error, next_attempt_at)
    await connection.execute(_KEEP_REFUND, (event.payment_id, *values))


async def lock_refund(connection: AsyncConnection, now: datetime, but: Sequence[UUID]) -> RefundDue | None:
    """The refund that has been due for longest, locked until the transaction ends.

    Args:
        connection: in a transaction.
        now: the time.
        but: refunds to skip.
    """
    row = await (await connection.execute(_LOCK_REFUND, (now, but))).fetchone()
    if row is None:
        return None
    payment_id, payload, traceparent, tracestate, attempts = row
    return RefundDue(payment_id, payload.encode(), TraceContext(traceparent, tracestate), attempts)


async def forget_refund(connection: AsyncConnection, due: RefundDue) -> None:
    """Delete a due refund that is done."""
    await connection.execute(_FORGET_REFUND, (due.payment_id,))


async def postpone_refund(
    connection: AsyncConnection, due: RefundDue, error: str, next_attempt_at: datetime
) -> None:
    """Reschedule a refund that was refused again."""
    await connection.execute(_POSTPONE_REFUND, (error, next_attempt_at, due.payment_id))


async def lock_and_read(
    connection: AsyncConnection, account_ids: set[str], payment_ids: Sequence[UUID]
) -> tuple[dict[str, Account], dict[UUID, LogEntry]]:
    """The existing accounts, locked until the transaction ends, and earlier decisions on the withdrawals.

    Accounts are locked in one order everywhere, so there are no deadlocks; the log is read under the locks.
    """
    accounts = await connection.execute(_LOCK_ACCOUNTS, (sorted(account_ids),))
    log = await connection.execute(_READ_LOG, (uuid_array(payment_ids),))
    return (
        {row[0]: Account(*row) for row in await accounts.fetchall()},
        {row[0]: LogEntry(*row) for row in await log.fetchall()},
    )


async def write(connection: AsyncConnection, decision: Decision) -> None:
    """Write a decision: balances, saga log, ledger and outbox.

    Raises:
        psycopg.errors.UniqueViolation: another instance decided on one of these withdrawals first.
    """
    await write_rows(
        connection,
        Write(_SET_BALANCES, [(a.account_id, a.balance_minor) for a in decision.accounts.values()]),
        _SAGA_LOG.insert(
            [(e.payment_id, e.account_id, e.amount_minor, e.currency, e.status, e.reason) for e in decision.opened]
        ),
        _LEDGER.insert([(b.payment_id, b.kind, b.account_id, b.amount_minor) for b in decision.bookings]),
        outbox_rows.insert("account", decision.emitted),
    )
    # A statement of its own: it must see rows that the same batch inserted.
    await write_rows(connection, Write(_COMPENSATE, [(e.payment_id, e.reason) for e in decision.compensated]))
