"""A mail leaves once, however often its batch is redelivered."""

import asyncio
from contextlib import asynccontextmanager, suppress
from unittest.mock import AsyncMock

import pytest

from contracts.events import PaymentProcessed
from processors.notification import store
from processors.notification.mailer import Delivered, NotTried, Undelivered
from processors.notification.processor import NotificationProcessor
from processors.runtime.batch import Batch
from processors.runtime.clock import DatabaseClock
from processors.runtime.settings import ServiceSettings
from tests.unit.messages import after, message, request


class Refusing:
    """A database that refuses so many transactions."""

    def __init__(self, refusals):
        self.attributes = {}
        self._refusals = refusals

    async def connect(self):
        return None

    @asynccontextmanager
    async def transaction(self, _messages=1):
        yield None
        self._refusals -= 1
        if self._refusals >= 0:
            raise ValueError("refused")


class Mailbox:
    """A mailer that keeps what it is given, and says what it was told to."""

    def __init__(self, *deliveries):
        self.attributes = {}
        self.sent = []
        self._deliveries = iter(deliveries)

    def capacity(self, at_most):
        return at_most

    async def send(self, mails, *, probe):
        self.sent += mails
        return [next(self._deliveries, Delivered()) for _ in mails]


@pytest.fixture
def written(monkeypatch):
    """What the store was last told to write."""
    rows = []

    async def known(_connection, _payment_ids):
        return set()

    async def insert(_connection, notifications, emitted):
        rows[:] = [(n.status, n.attempts) for n in notifications] + [type(e.event).__name__ for e in emitted]

    monkeypatch.setattr(store, "known", known)
    monkeypatch.setattr(store, "insert", insert)
    return rows


def processor_of(mailbox, refusals):
    processor = NotificationProcessor(ServiceSettings(), mailbox)
    processor.database = Refusing(refusals)
    return processor


def attempt(mailbox, refusals, *batches):
    """Try to process these one after the other; the first of them are refused."""
    processor = processor_of(mailbox, refusals)

    async def all_of_them():
        for messages in batches:
            with suppress(ValueError):
                await processor.process(Batch(messages))

    asyncio.run(all_of_them())


def test_a_batch_that_comes_again_in_whole_and_in_parts_sends_no_mail_a_second_time(written):
    messages = [message(after(request(), PaymentProcessed)) for _ in range(4)]
    mailbox = Mailbox()
    attempt(mailbox, 3, messages, messages, messages, messages[:2], messages[2:])
    assert len(mailbox.sent) == 4
    assert written == [("sent", 1)] * 2 + ["NotificationSent"] * 2


def test_a_mail_that_could_not_leave_counts_one_attempt_however_often_it_is_written(written):
    messages = [message(after(request(), PaymentProcessed))]
    mailbox = Mailbox(Undelivered("away"))
    attempt(mailbox, 2, messages, messages, messages)
    assert len(mailbox.sent) == 1
    assert written == [("pending", 1)]


def test_what_was_committed_is_not_remembered(written):
    messages = [message(after(request(), PaymentProcessed))]
    mailbox = Mailbox(Undelivered("away"), Delivered())
    attempt(mailbox, 0, messages, messages)
    assert len(mailbox.sent) == 2
    assert written == [("sent", 1), "NotificationSent"]


def test_after_a_commit_whose_answer_was_lost_the_next_attempt_is_made_and_not_only_counted(monkeypatch):
    """The rows are there, though the transaction failed: what is due is not the attempt that is remembered."""
    rows = []

    async def insert(_connection, notifications, _emitted):
        rows.extend(notifications)

    async def update(_connection, notifications, _emitted):
        assert notifications is rows

    async def known(_connection, _payment_ids):
        return {row.key for row in rows}

    async def lock_due(_connection, **_which):
        return rows

    for stands_in in (known, insert, lock_due, update):
        monkeypatch.setattr(store, stands_in.__name__, stands_in)
    monkeypatch.setattr(DatabaseClock, "look", AsyncMock())
    messages = [message(after(request(), PaymentProcessed)) for _ in range(2)]
    mailbox = Mailbox(Undelivered("away"), NotTried("it rests"))
    processor = processor_of(mailbox, refusals=1)
    processor._due_database = Refusing(0)

    async def lose_an_answer():
        with pytest.raises(ValueError, match="refused"):
            await processor.process(Batch(messages))
        await processor.process(Batch(messages))
        before = [(row.status, row.attempts) for row in rows]
        await processor.work_due()
        return before

    assert asyncio.run(lose_an_answer()) == [("pending", 1), ("pending", 0)]
    assert [mail.attempt for mail in mailbox.sent] == [1, 1, 2, 1]
    assert [(row.status, row.attempts) for row in rows] == [("sent", 2), ("sent", 1)]
