"""Watching: one look serves everybody, only what changed is sent, and nobody's absence is looked at."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing

import pytest

from api.problems import Problem
from api.watch import WATCHERS_MAX, Look, News, Watch

TABS = 50
DEADLINE_S = 60.0


class World:
    """Something to look at, that counts how often somebody does."""

    def __init__(self) -> None:
        self.looks: list[set[str]] = []
        self.now: dict[str, str] = {}
        self.problem: Exception | None = None

    async def find(self, front: object, keys: Collection[str]) -> dict[str, dict[str, str]]:
        assert front == "front"
        self.looks.append(set(keys))
        if self.problem is not None:
            raise self.problem
        return {key: {f"{key}-text": self.now.get(key, ""), "common": "x"} for key in keys}


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
