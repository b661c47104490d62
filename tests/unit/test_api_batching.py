"""Requests that arrive together share a transaction, and one that is wrong fails alone."""

import asyncio
from uuid import UUID

import pytest
from psycopg.errors import LockNotAvailable

from api import batching
from api.batching import Batcher, UnavailableError
from api.decide import Accepted, StillRunning, first
from tests.unit.test_api_decide import asked


class Store:
    """A database that is closed until it is told to go on, and refuses some requests."""

    def __init__(self, refuses=None):
        self.batches, self.begun, self.open = [], asyncio.Event(), asyncio.Event()
        self._refuses = refuses or (lambda one: None)

    async def accept(self, batch):
        self.batches.append([one.key for one in batch])
        self.begun.set()
        await self.open.wait()
        for one in batch:
            if (error := self._refuses(one)) is not None:
                raise error
        return [Accepted(first(one), replayed=False) for one in batch]


def run(story, **options):
    async def told():
        store = Store(**options)
        batcher = Batcher(store.accept)
        batcher.start()
        try:
            await story(store, batcher)
        finally:
            await batcher.close()

    asyncio.run(told())


async def submit(batcher, *requests):
    """The outcomes of requests that are submitted at once, once all of them have been."""
    tasks = [asyncio.create_task(batcher.submit(one)) for one in requests]
    await asyncio.sleep(0)
    return tasks


def test_what_arrives_during_a_transaction_shares_the_next_one():
    async def story(store, batcher):
        tasks = await submit(batcher, asked(1, key="first"))
        await store.begun.wait()
        tasks += await submit(batcher, *(asked(n, key=f"k{n}") for n in range(2, 9)))
        store.open.set()
        outcomes = await asyncio.gather(*tasks)
        assert [outcome.stored.payment_id for outcome in outcomes] == [UUID(int=n) for n in range(1, 9)]
        assert store.batches == [["first"], [f"k{n}" for n in range(2, 9)]]

    run(story)


def test_a_batch_has_a_limit(monkeypatch):
    monkeypatch.setattr(batching, "BATCH_MAX", 3)

    async def story(store, batcher):
        store.open.set()
        await asyncio.gather(*await submit(batcher, *(asked(n, key=f"k{n}") for n in range(1, 8))))
        assert [len(batch) for batch in store.batches] == [3, 3, 1]

    run(story)


def test_one_that_the_database_refuses_fails_and_no_other_does():
    wrong = ValueError("a value that the database refuses")

    async def story(store, batcher):
        store.open.set()
        requests = [asked(n, key=f"k{n}") for n in range(1, 21)]
        outcomes = await asyncio.gather(*await submit(batcher, *requests), return_exceptions=True)
        assert [type(one) for one in outcomes].count(Accepted) == 19
        assert outcomes[6] is wrong
        assert len(store.batches) <= 12

    run(story, refuses=lambda one: wrong if one.key == "k7" else None)


def test_one_whose_key_another_instance_holds_is_still_running_and_no_other_waits():
    async def story(store, batcher):
        store.open.set()
        requests = [asked(n, key=f"k{n}") for n in range(1, 9)]
        outcomes = await asyncio.gather(*await submit(batcher, *requests))
        assert [outcome for outcome in outcomes if not isinstance(outcome, Accepted)] == [StillRunning()]

    run(story, refuses=lambda one: LockNotAvailable("held") if one.key == "k3" else None)


def test_the_same_key_is_still_running_until_its_transaction_has_ended_also_if_the_caller_has_left():
    async def story(store, batcher):
        (gone,) = await submit(batcher, asked(1))
        await store.begun.wait()
        gone.cancel()
        assert await batcher.submit(asked(2)) == StillRunning()
        (other,) = await submit(batcher, asked(3, caller="else"))
        store.open.set()
        assert isinstance(await other, Accepted)
        assert isinstance(await batcher.submit(asked(4)), Accepted)

    run(story)


def test_of_requests_with_the_same_payment_id_the_second_waits_for_the_first():
    payment = UUID(int=7)

    async def story(store, batcher):
        store.open.set()
        same = (asked(n, key=f"k{n}", named=payment) for n in (1, 2, 3))
        await asyncio.gather(*await submit(batcher, *same, asked(4, key="k4")))
        assert store.batches == [["k1", "k4"], ["k2"], ["k3"]]

    run(story)


def test_with_the_database_away_everybody_is_told_at_once():
    async def story(store, batcher):
        tasks = await submit(batcher, asked(1, key="a"))
        await store.begun.wait()
        tasks += await submit(batcher, asked(2, key="b"))
        store.open.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(error) for error in outcomes] == ["away", "away"]
        assert store.batches == [["a"]]

    run(story, refuses=lambda one: UnavailableError("away"))


def test_no_more_wait_than_may(monkeypatch):
    monkeypatch.setattr(batching, "WAITING_MAX", 2)

    async def story(store, batcher):
        await submit(batcher, asked(1, key="a"))
        await store.begun.wait()
        waiting = await submit(batcher, asked(2, key="b"), asked(3, key="c"))
        with pytest.raises(UnavailableError, match="2 requests are waiting"):
            await batcher.submit(asked(4, key="d"))
        store.open.set()
        await asyncio.gather(*waiting)

    run(story)


def test_what_waits_when_it_ends_is_told():
    async def story(store, batcher):
        (waiting,) = await submit(batcher, asked(1))
        await store.begun.wait()
        (later,) = await submit(batcher, asked(2, key="later"))
        await batcher.close()
        for one in (waiting, later):
            with pytest.raises(UnavailableError, match="stopping"):
                await one

    run(story)
