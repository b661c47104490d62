"""Mails that are due come in their order, and for a probe those first that were never tried."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from uuid_utils.compat import uuid7

from processors.notification import store
from processors.notification.decide import PAID, Notification
from processors.runtime.database import Database
from tests.unit.messages import CONTEXT

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def mail(attempts, due_s):
    """One that has been tried so often, and is due so many seconds from now."""
    at = NOW + timedelta(seconds=due_s)
    return Notification(
        uuid7(), PAID, "acc-1", 100, "USD", "a@b", CONTEXT, "pending", "no", attempts, at, created_at=NOW
    )


@pytest.fixture
def dsn(settle):
    """A database of the notification service that no service runs on."""
    return settle.new_database("notification", "due_mails")


def test_the_oldest_mails_are_due_first_but_a_probe_takes_one_that_was_never_tried(dsn):
    refused, older = mail(30, -1), mail(1, -3600)
    new, newer = mail(0, -0.5), mail(0, 0)
    later = [mail(0, 0.5), mail(2, 60)]

    async def scenario():
        database, other = Database(dsn, "test"), Database(dsn, "test")
        try:
            async with database.transaction() as connection:
                await store.insert(connection, [*later, refused, newer, older, new], [])
            async with database.transaction() as connection, other.transaction() as beside:
                untried = [new.key, newer.key]
                keys = [
                    await store.due(beside, NOW, but, limit)
                    for limit, but in [(1, []), (1, untried[:1]), (1, untried), (3, []), (3, untried), (10, [])]
                ]
                locked = await store.lock_due(connection, NOW, [], 3)
                rest = await store.lock_due(beside, NOW, [], 10)
                return keys, [one.key for one in locked], [one.key for one in rest]
        finally:
            await database.close()
            await other.close()

    keys, locked, rest = asyncio.run(scenario())
    order = [one.key for one in (older, refused, new, newer)]
    assert keys == [order[2:3], order[3:], order[:1], order[:3], order[:2], order]
    assert (locked, rest) == (order[:3], order[3:])
