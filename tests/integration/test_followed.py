"""Who follows events or endings misses none and sees none twice, in whatever order transactions commit."""

import asyncio
import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest

from contracts.events import (
    BalanceChecked,
    MoneyDeducted,
    PaymentFailed,
    WithdrawalRejected,
)
from operations.endings import endings_after, latest
from operations.errors import CursorError
from operations.events import events_after, events_of
from processors.runtime.database import MANY, Database
from processors.saga import store
from processors.saga.decide import decide
from tests.conftest import wait_until
from tests.unit.messages import after, message, request

WRITERS, EACH = 4, 25


@pytest.fixture(scope="module")
def dsn(settle):
    """A database of the saga service that no service runs on."""
    return settle.new_database("saga", "followed")


@pytest.fixture
def reader(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@asynccontextmanager
async def written(dsn, *events):
    """What the saga service writes for a batch of these events, committed at the end of the block."""
    database = Database(dsn, "test")
    try:
        async with database.transaction(MANY) as connection:
            messages = [message(event) for event in events]
            known = await store.read(connection, [event.payment_id for event in events])
            await store.write(connection, decide(messages, known, datetime.now(UTC)))
            yield
    finally:
        await database.close()


async def take(dsn, *events):
    async with written(dsn, *events):
        pass


def endings_of(reader, after_that, *wishes):
    """The endings after a position, once those of these withdrawals are among them.

    A transaction of any database of the server holds them back.
    """
    wanted = {wish.payment_id for wish in wishes}

    def all_there():
        found = endings_after(reader, after_that, 10)
        return found if wanted <= {one.payment_id for one in found} else None

    return wait_until(all_there, "they are in the stream")


def rejected(wish):
    return wish, after(wish, WithdrawalRejected, reason="insufficient_funds")


def test_an_ending_that_commits_late_is_not_passed_over(dsn, reader):
    first, second = request(), request()
    begin = latest(reader)

    async def scenario():
        async with written(dsn, *rejected(first)):
            await take(dsn, *rejected(second))
            # It is committed, but an earlier transaction may still bring an ending that belongs before it.
            assert endings_after(reader, begin, 10) == []
        found = endings_of(reader, begin, first, second)
        assert [one.payment_id for one in found] == [first.payment_id, second.payment_id]
        assert [one.state for one in found] == ["rejected", "rejected"]
        assert [one.payment_id for one in endings_after(reader, found[0].id, 10)] == [second.payment_id]
        assert endings_after(reader, found[1].id, 10) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("later", [False, True], ids=["at once", "by an update"])
def test_an_ending_has_the_place_of_the_transaction_that_ends_it(dsn, reader, later):
    early, other = request(), request()
    begin = latest(reader)

    async def scenario():
        if later:
            await take(dsn, early)
            await take(dsn, *rejected(other))
            await take(dsn, rejected(early)[1])
        else:
            await take(dsn, *rejected(other))
            await take(dsn, *rejected(early))
        before = [one.payment_id for one in endings_of(reader, begin, early, other)]
        # What is learned of it afterwards changes no place.
        await take(dsn, after(other, PaymentFailed, reason="late"))
        await take(dsn, after(other, BalanceChecked))
        assert before == [one.payment_id for one in endings_after(reader, begin, 10)]
        assert before == [other.payment_id, early.payment_id]

    asyncio.run(scenario())


def test_followers_see_every_ending_of_concurrent_writers_once(dsn, reader):
    wishes = [[request() for _ in range(EACH)] for _ in range(WRITERS)]
    position, seen = latest(reader), []

    def write(mine):
        async def each():
            for one in mine:
                await take(dsn, one)
                await take(dsn, rejected(one)[1])

        asyncio.run(each())

    def follow():
        nonlocal position
        found = endings_after(reader, position, 7)
        seen.extend(one.payment_id for one in found)
        position = found[-1].id if found else position
        return len(seen) >= WRITERS * EACH

    writers = [threading.Thread(target=write, args=(mine,)) for mine in wishes]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        follow()
    wait_until(follow, "all is read")
    follow()
    assert sorted(seen) == sorted(one.payment_id for mine in wishes for one in mine)


def test_transaction_ids_are_ordered_as_numbers_by_the_index(settle):
    with psycopg.connect(settle.new_database("saga", "followed_order"), autocommit=True) as connection:
        for xid in (100, 9, 99, 10):
            connection.execute(
                "INSERT INTO withdrawals (payment_id, finished_in, account_id, amount_minor, currency, state, "
                "seen, finished_at, finished_by) "
                "VALUES (%s, %s::text::xid8, 'a', 1, 'USD', 'completed', 7, now(), 'x')",
                (UUID(int=200 - xid), str(xid)),
            )
        found = [int(one.id.partition("-")[0]) for one in endings_after(connection, None, 10)]
        assert found == [9, 10, 99, 100]


def test_a_position_of_another_server_is_refused(reader):
    assert endings_after(reader, latest(reader), 1) == []
    for wrong in (f"{2**62}-{request().payment_id}", "1", "", f"-1-{request().payment_id}", f"{2**64}-x"):
        with pytest.raises(CursorError):
            endings_after(reader, wrong, 1)


def test_an_event_that_commits_late_is_not_passed_over(dsn, reader):
    wish = request()
    again = request(payment_id=wish.payment_id)

    async def scenario():
        await take(dsn, wish)
        (known,) = events_of(reader, wish.payment_id)
        async with written(dsn, after(wish, BalanceChecked)):
            # Of a type that is stored already: no version stops it, only the lock.
            other = asyncio.create_task(take(dsn, again))
            await asyncio.to_thread(_wait_for_lock, dsn)
            assert events_of(reader, wish.payment_id, known.id) == []
        await other
        found = events_of(reader, wish.payment_id, known.id)
        assert [one.type for one in found] == ["BalanceChecked", "WithdrawalRequested"]
        assert [one.type for one in events_of(reader, wish.payment_id, found[0].id)] == ["WithdrawalRequested"]

    asyncio.run(scenario())


def test_of_two_batches_that_begin_a_withdrawal_one_is_undone_with_its_numbers(dsn, reader):
    wish = request()

    async def scenario():
        async with written(dsn, wish):
            other = asyncio.create_task(take(dsn, wish, after(wish, BalanceChecked)))
            await asyncio.to_thread(_wait_for_lock, dsn)
            assert events_of(reader, wish.payment_id) == []
        with pytest.raises((psycopg.errors.SerializationFailure, psycopg.errors.UniqueViolation)):
            await other
        (first,) = events_of(reader, wish.payment_id)
        await take(dsn, after(wish, BalanceChecked))
        assert [one.type for one in events_of(reader, wish.payment_id, first.id)] == ["BalanceChecked"]

    asyncio.run(scenario())


def _wait_for_lock(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        wait_until(lambda: connection.execute(waiting).fetchone(), "the second waits for the first")


def test_events_are_whole_and_many_withdrawals_are_followed_in_one_query(dsn, reader):
    wishes = [request() for _ in range(3)]

    async def scenario():
        for one in wishes:
            await take(dsn, one, after(one, BalanceChecked))

    asyncio.run(scenario())
    first = events_of(reader, wishes[0].payment_id)
    assert [one.type for one in first] == ["WithdrawalRequested", "BalanceChecked"]
    assert events_of(reader, request().payment_id) == []
    assert len(events_of(reader, wishes[0].payment_id, limit=1)) == 1
    asyncio.run(take(dsn, after(wishes[1], MoneyDeducted)))
    known = {one.payment_id: events_of(reader, one.payment_id, limit=2)[-1].id for one in wishes}
    assert [(one.payment_id, one.type) for one in events_after(reader, known)] == [
        (wishes[1].payment_id, "MoneyDeducted")
    ]


def test_the_events_and_the_ending_of_a_withdrawal_that_ran(settle):
    with psycopg.connect(settle.dsns["saga"], autocommit=True) as connection:
        begin = latest(connection)
        payment_id = settle.client.request(settle.open_account(), "1.00").payment_id
        settle.finished(payment_id)
        found = events_of(connection, payment_id)
        assert {one.type for one in found} == set(settle.events(payment_id))
        for one in found:
            if one.type == "WithdrawalCompleted":  # its own, which it stores before it is on the topic
                assert (one.topic, one.partition, one.offset) == ("withdrawal.events", None, None)
                continue
            record = settle.find(
                one.topic, lambda m, at=one.offset, of=one.partition: (m.offset(), m.partition()) == (at, of)
            )
            assert record.value() == bytes(one.payload)

        def ending():
            return [one for one in endings_after(connection, begin, 1_000) if one.payment_id == payment_id]

        (ended,) = wait_until(ending, "its end is in the stream")
        assert (ended.state, ended.finished_by, ended.amount_minor) == ("completed", "WithdrawalCompleted", 100)
