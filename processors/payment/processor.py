"""The payment service's processor: consumes deductions and cancellations, charges the provider, emits payments."""

from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import structlog
from uuid_utils.compat import uuid7

from contracts import failpoints
from contracts.events import CancelRequested, MoneyDeducted
from contracts.services import READ_BY
from processors.payment import store
from processors.payment.decide import (
    CANCELLED,
    Payment,
    admit,
    cancel,
    conclude,
    count_attempt,
    must_void,
)
from processors.payment.gateway import (
    Outcome,
    PaymentGateway,
)
from processors.payment.instrumentation import InstrumentedGateway
from processors.payment.provider import gateway_for
from processors.runtime import metrics
from processors.runtime.app import create_app
from processors.runtime.batch import Batch
from processors.runtime.database import Database, is_transient
from processors.runtime.due import Deferred, in_words, isolate
from processors.runtime.hops import deciding
from processors.runtime.messages import Emitted, payment_ids
from processors.runtime.processor import Processor
from processors.runtime.settings import ServiceSettings

DUE_MAX = 500
"""Payments retried in one round at most."""

DUE = "payment"
"""The step's label in the retry metrics."""

log = structlog.get_logger()

CLAIM_GRACE_S = 5.0
"""How much longer a claim lasts than the provider call can take: the time to write the outcomes."""


class PaymentProcessor(Processor):
    """Charges each payment ID once; what the provider cannot answer now is retried from the database."""

    name = "payment"
    topics = READ_BY["payment"]
    handles = (MoneyDeducted, CancelRequested)

    def __init__(self, settings: ServiceSettings, gateway: PaymentGateway | None = None) -> None:
        super().__init__(settings)
        self._gateway = InstrumentedGateway(gateway or gateway_for(settings))
        self._policy = settings.retry_policy()
        self._allowed = timedelta(seconds=settings.deadline_s)
        self._due_database = Database(settings.dsn(self.name), "payment-due")
        self._deferred: Deferred[UUID] = Deferred()
        # A round charges, then voids payments without attempts left.
        self._claim_s = 2 * self._gateway.round_s_max + CLAIM_GRACE_S

    async def open(self) -> None:
        """Connect to the database and to the provider."""
        await super().open()
        await self._gateway.open()

    async def process(self, batch: Batch) -> None:
        """Admit, charge, write. The provider is called outside the transaction: the call is idempotent."""
        known = await store.read(await self.database.connect(), payment_ids(batch.messages))
        began = self.clock.now()
        admission = admit(batch.messages, known, began)
        chargeable = admission.chargeable()
        outcomes = await self._charge(chargeable, probe=False)
        if chargeable:
            failpoints.hit("payment.provider-answered")
        now = self.clock.now()
        emitted: list[Emitted] = []
        for payment in chargeable:
            count_attempt(payment, outcomes[payment.payment_id], self._policy, began, self._allowed)
            emitted += conclude(payment, outcomes[payment.payment_id], now, self._policy)
        async with self.transaction(batch) as connection:
            await store.complete_awaited(connection, admission.awaited)
            new = admission.new
            if cancelled := [m for m in batch.messages if isinstance(m.event, CancelRequested)]:
                await store.write(connection, new)  # it may be one of these
                decision = cancel(cancelled, await store.lock(connection, payment_ids(cancelled)), now)
                new = decision.awaited
                await store.request_void(connection, decision.to_void, CANCELLED, now)
                await store.note_refused(connection, decision.refused)
                emitted += decision.emitted
                admission.dead_letters += decision.dead_letters
            await store.write(connection, new, emitted)
        batch.emitted += emitted
        batch.dead_letters += admission.dead_letters

    async def work_due(self) -> int:
        """Retry pending payments that are due; void those that may not be paid any more.

        They are claimed in one transaction and written in another, so that no lock is held during the provider
        call. An instance that dies in between leaves claims that expire; one that was overtaken writes nothing.
        """
        connection = await self._due_database.connect()
        await self.clock.look(connection)
        limit = self._gateway.capacity(DUE_MAX)
        if not limit:
            return 0
        now, token = self.clock.now(), uuid7()
        payments: list[Payment] = []
        outcomes: dict[UUID, Outcome] = {}

        async def read(payment_ids: Sequence[UUID]) -> None:
            payments.extend((await store.read(connection, payment_ids)).values())

        async def ask(some: Sequence[Payment]) -> None:
            outcomes.update(await self._ask(some, now))

        async def write(some: Sequence[Payment]) -> None:
            await self._write(some, outcomes, token)

        async def push_back(payment_id: UUID, error: Exception) -> None:
            await self._push_back(payment_id, token, error)

        async def push_back_payment(payment: Payment, error: Exception) -> None:
            await self._push_back(payment.payment_id, token, error)

        try:
            claimed = await self._claim(now, limit, token)
            if not claimed:
                return 0
            failpoints.hit("payment.due-claimed")
            await isolate(claimed, read, push_back)
            await isolate(payments, ask, push_back_payment)
            failpoints.hit("payment.due-answered")
            await isolate([p for p in payments if p.payment_id in outcomes], write, push_back_payment)
        except BaseException:
            with suppress(psycopg.Error):
                await store.release(await self._due_database.connect(), token)
            raise
        return len(claimed)

    async def close(self) -> None:
        """Close the databases and the gateway."""
        await super().close()
        await self._due_database.close()
        await self._gateway.close()

    async def _ask(self, due: Sequence[Payment], now: datetime) -> dict[UUID, Outcome]:
        to_void = [payment for payment in due if must_void(payment, now)]
        to_charge = [payment for payment in due if payment.void_reason is None]
        outcomes = await self._charge(to_charge, probe=True)
        # No answer is not a refusal: a payment has failed only once the provider says that it will never be paid.
        to_void += [
            p for p in to_charge if count_attempt(p, outcomes[p.payment_id], self._policy, now, self._allowed)
        ]
        if to_void:
            outcomes |= await self._gateway.void([payment.charge() for payment in to_void])
        return outcomes

    async def _claim(self, now: datetime, limit: int, token: UUID) -> list[UUID]:
        connection, but = await self._due_database.connect(), self._deferred.keys()
        until = now + timedelta(seconds=self._claim_s)
        try:
            return await store.claim(connection, now, but, limit, token, until)
        except psycopg.Error as error:
            if is_transient(error):
                raise
        claimed: list[UUID] = []

        async def claim(payment_ids: Sequence[UUID]) -> None:
            claimed.extend(await store.claim_these(connection, payment_ids, now, token, until))

        async def defer(payment_id: UUID, error: Exception) -> None:
            log.error("a payment cannot be claimed", payment_id=str(payment_id), error=str(error))
            self._deferred.add(payment_id)

        await isolate(await store.due(connection, now, but, limit), claim, defer)
        return claimed

    async def _push_back(self, payment_id: UUID, token: UUID, error: Exception) -> None:
        """Reschedule a payment that cannot be handled, with the reason, which `settle stuck` shows."""
        log.error("a payment cannot be handled", payment_id=str(payment_id), exc_info=error)
        metrics.RETRIES.labels(DUE).inc()
        at = self._policy.next_at(len(self._policy.backoff_s), self.clock.now())
        try:
            await store.push_back(await self._due_database.connect(), payment_id, token, in_words(error), at)
        except psycopg.Error as refused:
            if is_transient(refused):
                raise
            self._deferred.add(payment_id)

    async def _write(self, due: Sequence[Payment], outcomes: dict[UUID, Outcome], token: UUID) -> None:
        with deciding(self.name, self._due_database, [payment.context for payment in due]) as emitted:
            async with self._due_database.transaction() as connection:
                ours = await store.lock_claimed(connection, [p.payment_id for p in due], token)
                kept = [copy(payment) for payment in due if payment.payment_id in ours]
                now = self.clock.now()
                for payment in kept:
                    payment_id = payment.payment_id
                    emitted += conclude(payment, outcomes[payment_id], now, self._policy, ours[payment_id])
                await store.update(connection, kept, emitted)
        metrics.count_decisions(emitted)

    async def _charge(self, payments: Sequence[Payment], *, probe: bool) -> dict[UUID, Outcome]:
        if not payments:
            return {}
        return dict(await self._gateway.charge([payment.charge() for payment in payments], probe=probe))


app = create_app(PaymentProcessor)
