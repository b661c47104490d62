"""Mails of others leave at once while a mail server refuses all that goes to some recipients."""

import asyncio
import random
from datetime import timedelta
from types import SimpleNamespace
from unittest.mock import AsyncMock

import aiosmtplib
import pytest

from contracts.events import PaymentProcessed
from processors.notification import store
from processors.notification.mailer import SmtpMailer
from processors.notification.processor import NotificationProcessor
from processors.runtime import calls
from processors.runtime.batch import Batch
from processors.runtime.settings import ServiceSettings
from tests.clock import Clock
from tests.unit.messages import NOW, after, message, request
from tests.unit.test_notification_processor import Refusing

POLL_S = 1.0
REFUSED = "refused"


class Table:
    """The notifications that are stored, with the time at which each was accepted by the server."""

    def __init__(self, clock):
        self.clock, self.pending, self.sent_s = clock, {}, {}

    def now(self):
        return NOW + timedelta(seconds=self.clock.now_s)

    async def known(self, _connection, _payment_ids):
        return set()

    async def insert(self, _connection, notifications, emitted):
        for one in notifications:
            one.created_at = self.now()
        self.pending |= {one.key: one for one in notifications}
        await self.update(_connection, notifications, emitted)

    async def update(self, _connection, notifications, _emitted):
        for one in notifications:
            if one.status == "sent":
                del self.pending[one.key]
                self.sent_s[one.account_id] = self.clock.now_s

    async def lock_due(self, _connection, now, but, limit):
        due = (one for one in self.pending.values() if one.next_attempt_at <= now)
        return sorted(due, key=lambda one: (limit == 1 and one.attempts > 0, one.next_attempt_at))[:limit]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(calls, "time", clock)
    return clock


@pytest.fixture
def table(clock, monkeypatch):
    table = Table(clock)
    for name in ("known", "insert", "update", "lock_due"):
        monkeypatch.setattr(store, name, getattr(table, name))
    return table


def processor_of(table, monkeypatch):
    async def answer(_mailer, _message, recipient):
        if recipient.startswith(REFUSED):
            no = aiosmtplib.SMTPRecipientRefused(554, "5.7.1 taken for spam", recipient)
            raise aiosmtplib.SMTPRecipientsRefused([no])

    monkeypatch.setattr(SmtpMailer, "_hand_over", answer)
    settings = ServiceSettings(retry_jitter=0.0)
    mailer = SmtpMailer("b", 25, "settle@b", 10.0, settings.retry_backoff_s, table.clock.monotonic)
    processor = NotificationProcessor(settings, mailer)
    processor.database = processor._due_database = Refusing(0)
    processor.clock = SimpleNamespace(look=AsyncMock(), now=table.now)
    return processor


@pytest.mark.parametrize(
    ("mails_per_s", "refused_share", "minutes", "delay_s_max"),
    [(10, 0.1, 2, 0.0), (1, 0.2, 10, 0.0), (1, 0.4, 10, 0.0), (0.1, 0.4, 40, 10.0)],
)
def test_mails_leave_at_once_whatever_share_of_recipients_is_refused(
    table, clock, monkeypatch, mails_per_s, refused_share, minutes, delay_s_max
):
    draw = random.Random(7)
    processor = processor_of(table, monkeypatch)
    asked_s = {}

    async def run():
        while clock.now_s < 60 * minutes:
            batch = []
            while len(asked_s) < mails_per_s * clock.now_s:
                account = f"{REFUSED if draw.random() < refused_share else 'good'}-{len(asked_s)}"
                asked_s[account] = clock.now_s
                batch.append(message(after(request(account_id=account), PaymentProcessed)))
            if batch:
                await processor.process(Batch(batch))
            while await processor.work_due():
                pass
            clock.sleep(POLL_S)

    asyncio.run(run())
    delays_s = {
        account: table.sent_s.get(account, clock.now_s) - at_s
        for account, at_s in asked_s.items()
        if not account.startswith(REFUSED)
    }
    assert len(delays_s) > 50
    assert max(delays_s.values()) <= delay_s_max
