"""The account service's processor: consumes requests and failed payments, emits deductions and refunds."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import structlog
from psycopg import AsyncConnection

from contracts.events import PaymentFailed, WithdrawalRequested
from contracts.services import READ_BY
from contracts.text import REASON_MAX, clean
from processors.account import store
from processors.account.decide import Decision, decide
from processors.runtime import metrics
from processors.runtime.app import create_app
from processors.runtime.batch import Batch
from processors.runtime.database import Database, is_transient
from processors.runtime.due import Deferred, in_words
from processors.runtime.hops import deciding
from processors.runtime.logs import fields_of
from processors.runtime.messages import Message, payment_ids
from processors.runtime.processor import Processor
from processors.runtime.settings import ServiceSettings

REFUND = "refund"
"""The step's label in the retry metrics."""

log = structlog.get_logger()


class AccountProcessor(Processor):
    """Decides withdrawals and refunds on locked balances, one transaction a batch.

    A refund is owed to the customer: where the database refuses it, it is stored and retried until it succeeds.
    """

    name = "account"
    topics = READ_BY["account"]
    handles = (WithdrawalRequested, PaymentFailed)

    def __init__(self, settings: ServiceSettings) -> None:
        super().__init__(settings)
        self._policy = settings.retry_policy()
        self._due_database = Database(settings.dsn(self.name), "account-due")
        self._deferred: Deferred[UUID] = Deferred()

    async def process(self, batch: Batch) -> None:
        """Lock, read, decide, write."""
        async with self.transaction(batch) as connection:
            decision = await _apply(connection, batch.messages)
        batch.emitted += decision.emitted
        batch.dead_letters += decision.dead_letters

    async def keep(self, message: Message, error: str) -> bool:
        """Store a refund to retry it; nothing was deducted for a request, so that may become a dead letter."""
        if not isinstance(message.event, PaymentFailed):
            return False
        next_attempt_at = self._policy.next_at(1, self.clock.now())
        metrics.RETRIES.labels(REFUND).inc()
        await store.keep_refund(await self.database.connect(), message, clean(error, REASON_MAX), next_attempt_at)
        fields = fields_of(message.context, message.event.payment_id)
        log.error("a refund is refused, trying again", error=error, **fields)
        return True

    async def work_due(self) -> int:
        """Retry one refund that was refused, if one is due; if it fails again, it is rescheduled."""
        connection = await self._due_database.connect()
        await self.clock.look(connection)
        decision = Decision()
        async with connection.transaction():
            due = await store.lock_refund(connection, self.clock.now(), self._deferred.keys())
            if due is None:
                return 0
            try:
                async with connection.transaction():
                    decision = await self._refund(connection, due)
            except Exception as error:
                if is_transient(error):
                    raise
                await self._postpone(connection, due, error)
        metrics.count_decisions(decision.emitted)
        return 1

    async def _refund(self, connection: AsyncConnection, due: store.RefundDue) -> Decision:
        with deciding(self.name, self._due_database, [due.context]) as emitted:
            decision = await _apply(connection, [due.message()])
            emitted += decision.emitted
        await store.forget_refund(connection, due)
        for letter in decision.dead_letters:  # no longer blocked by its request, but not ours to refund
            log.error("a refund is not owed", reason=letter.reason, **fields_of(due.context, due.payment_id))
        return decision

    async def _postpone(self, connection: AsyncConnection, due: store.RefundDue, error: Exception) -> None:
        log.error("a refund fails, trying again", exc_info=error, **fields_of(due.context, due.payment_id))
        metrics.RETRIES.labels(REFUND).inc()
        at = self._policy.next_at(due.attempts + 1, self.clock.now())
        try:
            async with connection.transaction():
                await store.postpone_refund(connection, due, in_words(error), at)
        except psycopg.Error as refused:
            if is_transient(refused):
                raise
            self._deferred.add(due.payment_id)

    async def close(self) -> None:
        """Close the databases."""
        await super().close()
        await self._due_database.close()


async def _apply(connection: AsyncConnection, messages: Sequence[Message]) -> Decision:
    account_ids = {message.event.account_id for message in messages}
    accounts, known = await store.lock_and_read(connection, account_ids, payment_ids(messages))
    decision = decide(messages, accounts, known, datetime.now(UTC))
    await store.write(connection, decision)
    return decision


app = create_app(AccountProcessor)
