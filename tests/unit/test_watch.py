"""Watching: one look serves everybody, only what changed is sent, and nobody's absence is looked at."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing

import pytest
from structlog.testing import capture_logs

from api.problems import Problem
from api.watch import FAILS, WATCHERS_MAX, Look, News, Watch

TABS = 50
DEADLINE_S = 60.0


class World:
    """Something to look at, that counts how often somebody does."""

    def __init__(self) -> None:
        self.looks: list[set[str]] = []
        self.now: dict[str, str] = {}
        self.problem: Exception | None = None
        self.spoilt: dict[str, Exception] = {}
        self.hold: asyncio.Event | None = None  # what the next look waits for, after it has looked
        self.held = asyncio.Event()

    async def find(self, front: object, keys: Collection[str]) -> dict[str, dict[str, str]]:
        assert front == "front"
        self.looks.append(set(keys))
        if self.problem is not None:
            raise self.problem
        for key in sorted(self.spoilt.keys() & set(keys)):
            raise self.spoilt[key]
        found = {key: {f"{key}-text": self.now.get(key, ""), "common": "x"} for key in keys}
        if (hold := self.hold) is not None:
            self.hold = None
            self.held.set()
            await hold.wait()
        return found


@pytest.fixture
def world() -> World:
    return World()


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main, DEADLINE_S))


async def until(stream: AsyncIterator[News], wanted) -> News:
    async for news in stream:
        if wanted(news):
            return news
    raise AssertionError("the stream ends")


def test_fifty_tabs_cost_one_look_each_time(world):
    async def main() -> None:
        watch, look = Watch("front"), Look("world", world.find, 0.05)
        world.now = {"a": "1"}
        streams = [watch.stream((look, "a"), heartbeat_s=5) for _ in range(TABS)]
        await asyncio.gather(*(until(one, lambda news: news.fragments.get("a-text") == "1") for one in streams))
        before = len(world.looks)
        world.now = {"a": "2"}
        await asyncio.gather(*(until(one, lambda news: news.fragments.get("a-text") == "2") for one in streams))
        assert len(world.looks) - before <= 3  # and not fifty
        assert set(map(frozenset, world.looks)) == {frozenset({"a"})}
        await asyncio.gather(*(one.aclose() for one in streams))
        await watch.close()

    run(main())


def test_looks_end_with_the_last_who_watches_and_begin_with_the_next(world):
    async def main() -> None:
        watch, look = Watch("front"), Look("world", world.find, 0.01)
        for _ in range(2):
            async with aclosing(watch.stream((look, "a"), heartbeat_s=5)) as stream:
                await until(stream, lambda news: "a-text" in news.fragments)
            tasks = [task for task in asyncio.all_tasks() if task.get_name() == "watch"]
            await asyncio.gather(*tasks)  # they end by themselves
            assert watch._found == {}
        await watch.close()

    run(main())


def test_only_what_changed_is_sent_and_only_of_what_is_watched(world):
    async def main() -> None:
        watch, look = Watch("front"), Look("world", world.find, 0.02)
        world.now = {"a": "1", "b": "1"}
        async with (
            aclosing(watch.stream((look, "a"), heartbeat_s=5)) as one,
            aclosing(watch.stream((look, "b"), (look, "c"), heartbeat_s=5)) as other,
        ):
            assert (await until(one, lambda news: news.fragments)).fragments == {"a-text": "1", "common": "x"}
            first = await until(other, lambda news: news.fragments)
            assert first.fragments == {"b-text": "1", "c-text": "", "common": "x"}
            world.now = {"a": "1", "b": "2"}
            assert (await until(other, lambda news: news.fragments)).fragments == {"b-text": "2"}
            world.now = {"a": "3", "b": "2"}
            assert (await until(one, lambda news: news.fragments)).fragments == {"a-text": "3"}
        await watch.close()

    run(main())


@pytest.mark.parametrize(
    ("problem", "said"),
    [(Problem("unavailable", "a database does not answer"), "a database does not answer"), (KeyError("x"), "log")],
)
def test_what_cannot_be_asked_is_said_and_what_was_known_stays_until_it_answers_again(world, problem, said):
    async def main() -> None:
        watch, look = Watch("front"), Look("world", world.find, 0.02)
        world.now = {"a": "1"}
        async with aclosing(watch.stream((look, "a"), heartbeat_s=5)) as stream:
            assert (await until(stream, lambda news: news.fragments)).trouble is None
            world.problem = problem
            news = await until(stream, lambda news: news.trouble)
            assert said in news.trouble
            assert news.fragments == {}
            world.problem, world.now = None, {"a": "2"}
            news = await until(stream, lambda news: news.fragments)
            assert (news.fragments, news.trouble) == ({"a-text": "2"}, None)
        await watch.close()

    run(main())


def test_what_is_left_during_a_look_is_forgotten_and_who_comes_later_gets_what_is_true_then(world):
    async def main() -> None:
        watch, look = Watch("front"), Look("world", world.find, 0.01)
        world.now = {"a": "old"}
        async with aclosing(watch.stream((look, "b"), heartbeat_s=5)) as other:
            await until(other, lambda news: "b-text" in news.fragments)
            async with aclosing(watch.stream((look, "a"), heartbeat_s=5)) as stream:
                await until(stream, lambda news: "a-text" in news.fragments)
                world.hold = may_end = asyncio.Event()
                await world.held.wait()
            world.now = {"a": "new", "b": "new"}
            may_end.set()
            await until(other, lambda news: news.fragments.get("b-text") == "new")
            assert watch._found.keys() == {(look, "b")}
            async with aclosing(watch.stream((look, "a"), heartbeat_s=5)) as stream:
                assert (await until(stream, lambda news: news.fragments)).fragments["a-text"] == "new"
        await watch.close()

    run(main())


@pytest.mark.parametrize(
    ("error", "said"), [(TypeError("x"), FAILS), (Problem("not-found", "there is no b"), "there is no b")]
)
def test_what_fails_for_one_is_nobody_elses_trouble_and_is_logged_once(world, error, said):
    async def main() -> None:
        watch, look = Watch("front"), Look("world", world.find, 0.01)
        world.spoilt = {"b": error}
        others = [watch.stream((look, f"a{number}"), heartbeat_s=5) for number in range(8)]
        async with aclosing(watch.stream((look, "b"), heartbeat_s=5)) as spoilt:
            assert (await until(spoilt, lambda news: news.trouble)).trouble == said
            for number, other in enumerate(others):
                assert (await until(other, lambda news: news.fragments or news.trouble)).trouble is None
                world.now[f"a{number}"] = "1"
                await until(other, lambda news, name=f"a{number}-text": news.fragments.get(name) == "1")
            for _ in range(3):
                assert (await anext(spoilt)).trouble == said
            world.spoilt = {}
            assert (await until(spoilt, lambda news: news.fragments)).trouble is None
            world.spoilt = {"b": error}
            await until(spoilt, lambda news: news.trouble)
        assert all(view != (look, "b") for view in {**watch._found, **watch._troubles})
        await asyncio.gather(*(one.aclose() for one in others))
        await watch.close()

    with capture_logs() as logged:
        run(main())
    assert len(logged) == (2 if said == FAILS else 0)  # each time that it begins


def test_where_nobody_can_be_asked_each_look_asks_once(world):
    async def main() -> None:
        watch, look = Watch("front"), Look("world", world.find, 0.01)
        world.problem = Problem("unavailable", "a database does not answer")
        streams = [watch.stream((look, key), heartbeat_s=5) for key in "ab"]
        await asyncio.gather(*(until(one, lambda news: news.trouble) for one in streams))
        assert {"a", "b"} in world.looks
        assert world.looks[world.looks.index({"a", "b"}) :] == [{"a", "b"}] * world.looks.count({"a", "b"})
        await asyncio.gather(*(one.aclose() for one in streams))
        await watch.close()

    run(main())


def test_one_too_many_is_refused(world):
    async def main() -> None:
        watch, look = Watch("front"), Look("world", world.find, 5)
        streams = [watch.stream((look, "a"), heartbeat_s=5) for _ in range(WATCHERS_MAX)]
        await asyncio.gather(*(anext(one) for one in streams))
        with pytest.raises(Problem, match="are watched already"):
            watch.check_room()
        await streams[0].aclose()
        watch.check_room()
        await asyncio.gather(*(one.aclose() for one in streams[1:]))
        await watch.close()

    run(main())
