"""Streams of events: what all who follow share, however many they are and whenever they look, in made-up time."""

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import callers, follow, statuses, store
from api.access import CLIENT, MAY, Caller
from api.callers import Callers
from api.follow import POLL_S, Follow
from api.problems import Problem
from operations.endings import Ending, order_of
from operations.events import Recorded

NOW = datetime(2026, 12, 1, tzinfo=UTC)
SHOP = Caller("shop", CLIENT, MAY[CLIENT])
DEADLINE_S = 3_600.0
STREAMS = 50
EVERY_S = 0.05
"""Shorter than a query takes, so that of two looks the later one finds more."""


class Skipping(selectors.DefaultSelector):
    """Instead of a wait the time goes on."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list:
        self.now_s += timeout or 0.0
        return super().select(0)


class MadeUpTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now_s


def run(main: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=MadeUpTime) as runner:
        runner.run(asyncio.wait_for(main(), DEADLINE_S))


def now_s() -> float:
    return asyncio.get_running_loop().time()


def ending(number: int) -> Ending:
    payment_id = UUID(int=number)
    where = f"{number}-{payment_id}"
    return Ending(where, payment_id, "completed", "acc-1", 100, "USD", None, "WithdrawalCompleted", NOW, None)


def recorded(number: int, payment_id: UUID) -> Recorded:
    return Recorded(number, payment_id, UUID(int=number), "Any", msgspec.Raw(b"{}"), None, None, None, NOW)


class Database:
    """The saga service's: each query takes a while, and finds what is stored in the midst of that."""

    def __init__(self, query_s: Callable[[], float] = lambda: 0.06) -> None:
        self.endings = [ending(1)]
        self.events: list[Recorded] = []
        self.queries = 0
        self._query_s = query_s

    def end(self, count: int = 1) -> None:
        first = len(self.endings) + 1
        self.endings += [ending(number) for number in range(first, first + count)]

    def record(self, payment_id: UUID) -> None:
        self.events.append(recorded(len(self.events) + 1, payment_id))

    async def run(self, _database, read, *args):
        self.queries += 1
        await asyncio.sleep(self._query_s() / 2)
        found = getattr(self, read.__name__)(*args)
        await asyncio.sleep(self._query_s() / 2)
        return found

    def latest(self):
        return self.endings[-1].id

    def endings_after(self, place, limit):
        number, _ = order_of(place)
        return self.endings[number : number + limit]

    def events_after(self, places, limit):
        return [one for one in self.events if one.id > places.get(one.payment_id, one.id)][:limit]


@asynccontextmanager
async def together(*tasks: Awaitable[None]):
    """Run until the block ends."""
    under_way = [asyncio.ensure_future(one) for one in tasks]
    try:
        yield
    finally:
        for one in under_way:
            one.cancel()
        for one in under_way:
            with suppress(asyncio.CancelledError):
                await one


async def every(pause_s: float, act: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(pause_s)
        act()


async def collect(stream, told: list) -> None:
    async with aclosing(stream):
        async for found in stream:
            told += [one.id for one in found]


async def comes(after_s: float, follows: Awaitable[None]) -> None:
    await asyncio.sleep(after_s)
    await follows


def test_all_who_follow_endings_share_one_query_also_who_looked_later_than_that():
    async def main() -> None:
        database = Database()
        follows, told = Follow(database), [[] for _ in range(STREAMS)]
        streams = [
            comes(number * 0.021, collect(follows.endings(ending(1).id, 2.0), one))
            for number, one in enumerate(told)
        ]
        async with together(every(EVERY_S, database.end), *streams):
            await asyncio.sleep(STREAMS * 0.021 + 1.0)
            before = database.queries
            await asyncio.sleep(25 * POLL_S)
            assert database.queries - before <= 26  # those of the poll
            stored = [one.id for one in database.endings]
            for one in told:
                assert one == stored[1 : len(one) + 1]  # none is missing, none comes twice
                assert len(one) > len(stored) - 12
        await follows.close()

    run(main)


def test_all_who_follow_a_withdrawal_share_one_query():
    async def main() -> None:
        database, payments, turn = Database(), [UUID(int=number) for number in range(5)], iter(range(10**6))
        follows, told = Follow(database), [[] for _ in range(STREAMS)]
        streams = [
            comes(number * 0.021, collect(follows.withdrawal(payments[number % 5], 0, 2.0), one))
            for number, one in enumerate(told)
        ]
        async with together(every(EVERY_S, lambda: database.record(payments[next(turn) % 5])), *streams):
            await asyncio.sleep(STREAMS * 0.021 + 1.0)
            before = database.queries
            await asyncio.sleep(25 * POLL_S)
            assert database.queries - before <= 26
            for number, one in enumerate(told):
                stored = [event.id for event in database.events if event.payment_id == payments[number % 5]]
                assert one == stored[: len(one)]
                assert len(one) > len(stored) - 4
        await follows.close()

    run(main)


def test_what_ends_at_once_is_read_page_by_page_for_all(monkeypatch):
    monkeypatch.setattr(follow, "PAGE_MAX", 2)

    async def main() -> None:
        database = Database(lambda: 0.001)
        follows, told = Follow(database), [[] for _ in range(STREAMS)]
        async with together(*(collect(follows.endings(ending(1).id, 2.0), one) for one in told)):
            await asyncio.sleep(1.0)
            before = database.queries
            database.end(7)
            await asyncio.sleep(POLL_S + 0.05)
            assert told == [[ending(number).id for number in range(2, 9)]] * STREAMS
            assert database.queries - before <= 6  # four pages, and at most one look before and after
        await follows.close()

    run(main)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nobody_misses_an_ending_or_is_given_one_twice_however_slow_anything_is(seed):
    chance = random.Random(seed)

    async def slow(stream, told: list) -> None:
        async with aclosing(stream):
            async for found in stream:
                told += [one.id for one in found]
                if chance.random() < 0.2:
                    await asyncio.sleep(chance.expovariate(1.0))

    async def ends(database: Database) -> None:
        for _ in range(60):
            await asyncio.sleep(chance.expovariate(10.0))
            database.end(chance.choice([1, 1, 1, 5, 20]))

    async def main() -> None:
        database = Database(lambda: chance.expovariate(chance.choice([3.0, 300.0])))
        follows, told = Follow(database), [[] for _ in range(5)]
        streams = [comes(chance.random() * 5, slow(follows.endings(ending(1).id, 2.0), one)) for one in told]
        async with together(*streams):
            await ends(database)
            await asyncio.sleep(120)
            assert told == [[one.id for one in database.endings[1:]]] * 5
        await follows.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "PAGE_MAX", 4)
        run(main)


class Requests:
    """The API's database: what was asked of it and answered, and whether it is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.answered: list[list[UUID]] = []

    @asynccontextmanager
    async def connected(self):
        if self.is_away:
            raise Problem("unavailable", "the database is away")
        yield None

    async def of_payments(self, _, payment_ids):
        await asyncio.sleep(0.002)
        self.answered.append(payment_ids)
        request = {"caller": SHOP.name, "account_id": "acc-1", "amount_minor": 100, "currency": "USD"}
        return {one: SimpleNamespace(payment_id=one, **request) for one in payment_ids}


@pytest.fixture
def requests(monkeypatch):
    found = Requests()
    monkeypatch.setattr(store, "of_payments", found.of_payments)
    return found


def test_after_an_outage_each_ending_is_asked_about_once_whenever_a_stream_wakes(requests):
    chance = random.Random(1)

    async def client(front, told: list) -> None:
        endings = front.follow.endings(ending(1).id, statuses.CHECK_S)
        said = statuses._of_all(front, SHOP, ending(1).id, await anext(endings), endings)
        async with aclosing(said):
            async for one in said:
                told += [line for line in one.decode().splitlines() if line.startswith("id: ")]
                if requests.is_away:
                    await asyncio.sleep(chance.random())  # so that each wakes at a time of its own

    async def main() -> None:
        database = Database()
        front = SimpleNamespace(follow=Follow(database), callers=Callers(requests.connected))
        told = [[] for _ in range(STREAMS)]
        async with together(every(EVERY_S, database.end), *(client(front, one) for one in told)):
            await asyncio.sleep(3.0)
            requests.is_away = True
            await asyncio.sleep(20.0)
            held, requests.is_away = [len(one) for one in told], False
            await asyncio.sleep(5.0)
            stored = [f"id: {one.id}" for one in database.endings]
            for one, before in zip(told, held, strict=True):
                assert before < 100
                assert one == stored[: len(one)]
                assert len(one) > len(stored) - 12
        await front.follow.close()

    run(main)
    asked = Counter(one for payment_ids in requests.answered for one in payment_ids)
    assert {*asked.values()} == {1}


def test_whose_endings_are_is_forgotten_with_time_and_with_more(requests, monkeypatch):
    monkeypatch.setattr(callers, "REMEMBERED_MAX", 4)
    first, second, third = ([ending(2 * page), ending(2 * page + 1)] for page in range(3))

    async def main() -> None:
        found = Callers(requests.connected)
        for pages, asked in [([first, second, first, second], 2), ([third, first], 2), ([third], 0)]:
            before = len(requests.answered)
            for page in pages:
                assert {*await found.of(page)} == {one.payment_id for one in page}
            assert len(requests.answered) - before == asked
        await asyncio.sleep(callers.REMEMBERED_S + 1.0)
        await found.of(first)
        assert len(requests.answered) == 5

    run(main)


def test_whoever_leaves_takes_the_answer_from_nobody(requests):
    async def main() -> None:
        found = Callers(requests.connected)
        leaves, stays, other = (asyncio.ensure_future(found.of([ending(n)])) for n in (1, 1, 2))
        await asyncio.sleep(0.001)
        leaves.cancel()
        assert {*await stays} == {UUID(int=1)}
        assert {*await other} == {UUID(int=2)}
        assert requests.answered == [[UUID(int=1)], [UUID(int=2)]]

    run(main)
