"""Looks at the whole system: one serves all, pages show the last, and none from before an action follows it."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from api import looks
from api.dead_letters import among_recent
from api.headline import KAFKA, RELAY, Headline
from api.looks import FRESH_S, RECENT_LOOKS, RECENT_S, Looks
from api.problems import Problem
from api.seen import Flow, Outbox, Seen
from contracts.services import NAMES
from operations.hold_ups import LATE_S, KafkaSays
from operations.withdrawals import OpenOnes
from outbox_relay.status import OutboxStatus

DEADLINE_S = 60.0


class World:
    """A system of which nothing answers; ``begun`` counts the looks at it, and each may be held back."""

    def __init__(self) -> None:
        self.begun = 0
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_end.set()
        self.bootstrap = "kafka:9092"
        self.clock = 1_000.0
        self.read_at = 0.0
        self.looks = Looks(self, self, SimpleNamespace(since=self.since), 60.0)

    def since(self, monotonic_s):
        return "letters" if self.read_at >= monotonic_s else None

    async def run(self, asked, *args, **_):
        if asked is looks._ask_kafka:
            self.begun += 1
            self.has_begun.set()
        await self.may_end.wait()
        raise Problem("unavailable", "a database does not answer")


@pytest.fixture
def run(monkeypatch):
    """Runs a story in a world whose time passes as it says."""

    def start(story):
        async def told():
            world = World()
            monkeypatch.setattr(looks, "time", SimpleNamespace(monotonic=lambda: world.clock))
            await story(world)
            await world.looks.close()

        asyncio.run(asyncio.wait_for(told(), DEADLINE_S))

    return start


def test_a_page_is_given_the_last_look_at_once_and_whoever_comes_next_a_new_one(run):
    async def story(world):
        first = await world.looks.recent()
        assert world.begun == 1
        world.clock += FRESH_S / 2
        assert await world.looks.recent() is await world.looks.now() is first
        assert world.begun == 1
        world.clock += FRESH_S
        world.may_end.clear()
        world.has_begun.clear()
        assert await world.looks.recent() is first  # though a new one is not done
        await world.has_begun.wait()
        assert world.begun == 2
        world.may_end.set()
        assert await world.looks.now() is not first
        assert world.begun == 2

    run(story)


def test_a_look_that_is_old_is_waited_for_and_after_that_shown_all_the_same(run):
    async def story(world):
        assert await world.looks.within(0) is None
        first = await world.looks.now()
        world.clock += RECENT_S + 0.1
        world.may_end.clear()
        world.has_begun.clear()
        assert await world.looks.within(0.01) is first
        world.clock += RECENT_S + 1
        world.may_end.set()
        second = await world.looks.recent()
        assert second is not first
        assert await world.looks.recent() is second  # however long it took
        world.clock += RECENT_LOOKS * (RECENT_S + 1) - 0.1
        assert await world.looks.recent() is second
        world.clock += RECENT_LOOKS * (RECENT_S + 1)
        assert await world.looks.recent() is not second

    run(story)


def test_after_an_action_no_look_from_before_is_shown_nor_one_that_had_begun(run):
    async def story(world):
        before = await world.looks.now()
        world.clock += 0.01
        world.looks.acted()
        after = await world.looks.recent()
        assert after is not before
        assert world.begun == 2
        world.clock += FRESH_S * 1.5
        world.may_end.clear()
        world.has_begun.clear()
        under_way = asyncio.create_task(world.looks.now())
        await world.has_begun.wait()
        world.clock += 0.01
        world.looks.acted()
        world.clock += 0.01
        asked = asyncio.create_task(world.looks.recent())
        await asyncio.sleep(0)
        world.may_end.set()
        assert await asked is not await under_way
        assert world.begun == 4

    run(story)


def test_dead_letters_are_shown_as_a_recent_look_has_them_but_none_from_before_an_action(run):
    async def story(world):
        world.read_at = world.clock
        world.clock += RECENT_S + 1
        assert world.looks.letters() is None
        await world.looks.now()
        assert world.looks.letters() == "letters"  # it takes long to read them
        world.looks.acted()
        assert world.looks.letters() is None
        world.read_at = world.clock
        assert world.looks.letters() == "letters"

    run(story)


def test_a_relay_that_is_dead_is_away_also_where_kafka_may_not_be_asked():
    async def refused(*_):
        raise Problem("forbidden", "Topic authorization failed")

    async def read(_databases, read, *_, **__):
        found = {
            "count_open": [OpenOnes("deducted", 0, 0)],
            "count_waiting": OpenOnes("accepted", 7, 0),
            "latest": "5-x",
            "_outbox": (replace(STATUS, active=False, rows=40), 30.0),
        }
        return found.get(read.__name__, [])

    async def look():
        operators: Any = SimpleNamespace(run=refused, bootstrap="kafka:9092")
        return (await Looks(SimpleNamespace(run=read), operators, SimpleNamespace(), 60.0).now()).flow

    flow = asyncio.run(look())
    assert (flow.headline.tone, flow.away.keys(), flow.unasked.keys()) == ("bad", {RELAY}, {KAFKA})
    assert flow.headline.words == f"The relay is away: {40 * len(NAMES)} events in outboxes"
    assert any(
        "It is not known whether money moves: Kafka could not be asked" in one for one in flow.headline.details
    )


STATUS = OutboxStatus("payment", "slot", True, "reserved", "0/1", 0, 0, 1, 8192, 0, None, ())


def seen(status: OutboxStatus | None = STATUS, oldest_s: float | None = 0.1, topics=frozenset({"t"})) -> Seen:
    """A look at one outbox."""
    flow = Flow(
        at=datetime.now(UTC),
        headline=Headline("ok", "", []),
        steps=None,
        outboxes=[Outbox("payment", 1, oldest_s, 0, True, 0)],
        open=None,
        stuck_s=60.0,
        endings=None,
        dead_letters=None,
        audit=None,
        away={},
        unasked={},
    )
    return Seen(flow, {"payment": status} if status is not None else {}, {}, KafkaSays(topics), True)


def test_an_outbox_is_searched_again_unless_all_was_in_flight_and_can_still_be():
    assert seen().flows("payment", RECENT_S)
    assert seen(oldest_s=None).flows("payment", RECENT_S)
    assert not seen(oldest_s=LATE_S - RECENT_S).flows("payment", RECENT_S)
    assert not seen(replace(STATUS, active=False)).flows("payment", RECENT_S)
    assert not seen(topics=None).flows("payment", RECENT_S)
    assert not seen(None).flows("payment", RECENT_S)
    assert not seen().has_dead_rows("payment")
    assert seen(replace(STATUS, dead_rows=1)).has_dead_rows("payment")
    assert seen(None).has_dead_rows("payment")


def test_where_the_last_look_has_none_of_the_letters_looked_for_they_are_read_now():
    async def call(find, *given):
        return find(*given)

    async def within(_limit_s):
        return None

    def found_in(looked_at, kept):
        last = SimpleNamespace(letters=looked_at, at=datetime.now(UTC))
        front: Any = SimpleNamespace(
            looks=SimpleNamespace(within=within, letters=lambda: last),
            operators=SimpleNamespace(run=call),
            letters=SimpleNamespace(read=lambda: kept),
        )
        return asyncio.run(among_recent(front, list, bool))[0]

    assert found_in([], ["new"]) == ["new"]
    assert found_in(["old"], ["new"]) == ["old"]
