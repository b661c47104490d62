"""The notification service's processor: consumes outcomes of withdrawals, sends mails to the customer."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial

import psycopg
import structlog
from psycopg import AsyncConnection

from contracts import failpoints
from contracts.events import MoneyRefunded, PaymentProcessed, WithdrawalRejected
from contracts.services import READ_BY
from processors.notification import store
from processors.notification.decide import Notification, admit, conclude
from processors.notification.instrumentation import MAIL, InstrumentedMailer
from processors.notification.mailer import Delivery, Mailer, NotTried, mailer_for
from processors.runtime import metrics
from processors.runtime.app import create_app
from processors.runtime.batch import Batch
from processors.runtime.database import Database, is_transient
from processors.runtime.due import Deferred, in_words, isolate
from processors.runtime.hops import deciding
from processors.runtime.messages import Emitted, payment_ids
from processors.runtime.processor import Processor
from processors.runtime.settings import ServiceSettings, recipient

DUE_MAX = 500
"""Mails retried in one transaction at most."""

FATES_MAX = 100_000
"""Mail outcomes cached until they are committed; beyond that a mail might be sent again."""

log = structlog.get_logger()


class NotificationProcessor(Processor):
    """Sends one mail per payment ID and template; one that cannot be sent now is retried from the database."""

    name = "notification"
    topics = READ_BY["notification"]
    handles = (PaymentProcessed, MoneyRefunded, WithdrawalRejected)

    def __init__(self, settings: ServiceSettings, mailer: Mailer | None = None) -> None:
        super().__init__(settings)
        self._mailer = InstrumentedMailer(mailer or mailer_for(settings))
        self._policy = settings.mail_retry_policy()
        self._lifetime = timedelta(hours=settings.mail_lifetime_h)
        self._due_database = Database(settings.dsn(self.name), "notification-due")
        self._deferred: Deferred[store.Key] = Deferred()
        # Outcomes of mails that are not committed yet: a batch that is retried, as the database became unavailable
        # or refused one of its rows, sends none of them a second time. Each with the attempts before it: where the
        # answer to a COMMIT was lost, what is due next is another attempt.
        self._fates: dict[store.Key, tuple[int, Delivery]] = {}

    async def process(self, batch: Batch) -> None:
        """Admit, send, write."""
        known = await store.known(await self.database.connect(), payment_ids(batch.messages))
        new = admit(batch.messages, known, partial(recipient, self.settings.mail_to))
        emitted = await self._attempt(new, probe=False)
        async with self.transaction(batch) as connection:
            await store.insert(connection, new, emitted)
        self._forget(new)
        batch.emitted += emitted

    async def work_due(self) -> int:
        """Retry pending mails that are due.

        The rows stay locked while the mails are sent: SMTP has no idempotency key to detect a second one.
        """
        await self.clock.look(await self._due_database.connect())
        limit = self._mailer.capacity(DUE_MAX)
        if not limit:
            return 0
        now, but = self.clock.now(), self._deferred.keys()
        try:
            return await self._send_due(partial(store.lock_due, now=now, but=but, limit=limit))
        except Exception as error:
            if is_transient(error):
                raise
        keys = await store.due(await self._due_database.connect(), now, but, limit)

        async def send(some: Sequence[store.Key]) -> None:
            await self._send_due(partial(store.lock_these, keys=some, now=now))

        await isolate(keys, send, self._push_back)
        return len(keys)

    async def _send_due(self, lock: Callable[[AsyncConnection], Awaitable[list[Notification]]]) -> int:
        async with self._due_database.transaction() as connection:
            due = await lock(connection)
            with deciding(self.name, self._due_database, [one.context for one in due]) as emitted:
                emitted += await self._attempt(due, probe=True)
                await store.update(connection, due, emitted)
        self._forget(due)
        metrics.count_decisions(emitted)
        return len(due)

    async def _push_back(self, key: store.Key, error: Exception) -> None:
        """Reschedule a mail that cannot be handled, with the reason, which `settle stuck` shows."""
        payment_id, template = key
        log.error("a mail cannot be handled", payment_id=str(payment_id), template=template, exc_info=error)
        metrics.RETRIES.labels(MAIL).inc()
        at = self._policy.next_at(len(self._policy.backoff_s), self.clock.now())
        try:
            await store.push_back(await self._due_database.connect(), key, in_words(error), at)
        except psycopg.Error as refused:
            if is_transient(refused):
                raise
            self._deferred.add(key)

    async def close(self) -> None:
        """Close the databases."""
        await super().close()
        await self._due_database.close()

    async def _attempt(self, notifications: Sequence[Notification], *, probe: bool) -> list[Emitted]:
        if not notifications:
            return []
        fates = {
            one.key: fate
            for one in notifications
            if (fate := self._fates.get(one.key)) is not None and fate[0] == one.attempts
        }
        new = [one for one in notifications if one.key not in fates]
        deliveries = await self._mailer.send([one.mail() for one in new], probe=probe)
        fates |= {one.key: (one.attempts, delivery) for one, delivery in zip(new, deliveries, strict=True)}
        if len(self._fates) > FATES_MAX:
            self._fates.clear()
        self._fates |= {key: fate for key, fate in fates.items() if not isinstance(fate[1], NotTried)}
        failpoints.hit("notification.mail-sent")
        now = self.clock.now()
        concluded = (conclude(one, fates[one.key][1], now, self._policy, self._lifetime) for one in notifications)
        return [event for event in concluded if event is not None]

    def _forget(self, notifications: Sequence[Notification]) -> None:
        for one in notifications:
            self._fates.pop(one.key, None)


app = create_app(NotificationProcessor)
