"""Watching: what changes in the things that open pages show, looked at about once a second for everybody.

A view is something that a page shows: a look, which finds out about some of its keys, and one of these keys. Each
look is taken each second, or as often as it says, for the keys of all who watch, and only while somebody does; its
fragments, texts by name, go to all of them. So a fragment does not depend on who watches. A key that a look fails
with is the trouble of those who watch it, and of nobody else.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import structlog

from api.instrumentation import LOOKS, OPEN_PAGES
from api.problems import Problem

WATCHERS_MAX = 1_000
"""Of a process."""

CROWDED_S = 10
"""When somebody may try again who found no room."""

FAILS = "the API fails to look; its log has more"

Fragments = Mapping[str, str]
Key = Any
"""Of a view: hashable."""


class Look(NamedTuple):
    """What finds out about things that pages show.

    Attributes:
        name: of the metric.
        find: what is shown of some keys, given the API's front; it may raise Problem, "unavailable" for all keys.
        every_s: from the beginning of one to that of the next, seconds.
    """

    name: str
    find: Callable[[Any, Collection[Key]], Awaitable[Mapping[Key, Fragments]]]
    every_s: float = 1.0


View = tuple[Look, Hashable]

log = structlog.get_logger()


class News(msgspec.Struct, frozen=True):
    """What has changed for somebody who watches.

    Attributes:
        fragments: those that differ from what was given before.
        trouble: why a view is not found now; None while all are. What was given is of an earlier moment then.
    """

    fragments: dict[str, str]
    trouble: str | None


class _Watcher:
    def __init__(self, views: tuple[View, ...]) -> None:
        self.views = views
        self.given: dict[str, str] = {}
        self.news = asyncio.Event()


class Watch:
    """The looks for everybody who watches, from the first stream to :meth:`close`.

    Args:
        front: what a look is given to find out with.
    """

    def __init__(self, front: object) -> None:
        self._front = front
        self._watchers: set[_Watcher] = set()
        self._tasks: dict[Look, asyncio.Task[None]] = {}
        self._found: dict[View, Fragments] = {}
        self._troubles: dict[View, str] = {}

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def check_room(self) -> None:
        """Refuse who would be one too many.

        Raises:
            Problem: there are too many already.
        """
        if len(self._watchers) >= WATCHERS_MAX:
            raise Problem("unavailable", f"{WATCHERS_MAX:,} pages are watched already", CROWDED_S)

    async def stream(self, *views: View, heartbeat_s: float) -> AsyncGenerator[News, None]:
        """Everything at first, then what changes; now and then, nothing.

        Args:
            views: what is watched.
            heartbeat_s: the longest time without an answer, seconds.
        """
        watcher = _Watcher(views)
        self._watchers.add(watcher)
        OPEN_PAGES.inc()
        try:
            for look, _ in views:
                if look not in self._tasks:
                    self._tasks[look] = asyncio.get_running_loop().create_task(self._poll(look), name="watch")
            watcher.news.set()
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(heartbeat_s):
                        await watcher.news.wait()
                watcher.news.clear()
                yield self._news(watcher)
        finally:
            self._watchers.discard(watcher)
            OPEN_PAGES.dec()
            for view in {*views} - self._watched():
                self._found.pop(view, None)
                self._troubles.pop(view, None)

    def _watched(self) -> set[View]:
        return {view for one in self._watchers for view in one.views}

    def _news(self, watcher: _Watcher) -> News:
        changed = {
            name: text
            for view in watcher.views
            for name, text in self._found.get(view, {}).items()
            if watcher.given.get(name) != text
        }
        watcher.given |= changed
        troubles = (self._troubles[view] for view in watcher.views if view in self._troubles)
        return News(changed, next(troubles, None))

    async def _poll(self, look: Look) -> None:
        """Look for all who watch, until nobody does."""
        try:
            while keys := [key for its, key in self._watched() if its == look]:
                began = time.monotonic()
                LOOKS.labels(look.name).inc()
                self._keep(look, await self._find(look, keys))
                for one in self._watchers:
                    if any(its == look for its, _ in one.views):
                        one.news.set()
                await asyncio.sleep(max(look.every_s - (time.monotonic() - began), 0.05))
        finally:
            del self._tasks[look]

    async def _find(self, look: Look, keys: Sequence[Key]) -> dict[Key, Fragments | str]:
        """What is shown of each key, or why it is not found; halves tell with which of them a look fails."""
        try:
            found = await look.find(self._front, keys)
            return {key: found.get(key, {}) for key in keys}
        except Problem as problem:
            if problem.kind == "unavailable" or len(keys) == 1:
                return dict.fromkeys(keys, problem.detail)
        except Exception:
            if len(keys) == 1:
                if self._troubles.get((look, keys[0])) != FAILS:  # else the log has it already
                    log.exception("a look fails", look=look.name)
                return dict.fromkeys(keys, FAILS)
        half = len(keys) // 2
        return await self._find(look, keys[:half]) | await self._find(look, keys[half:])

    def _keep(self, look: Look, found: Mapping[Key, Fragments | str]) -> None:
        """Keep it for those who watch still: what somebody has left meanwhile, nobody would remove."""
        watched = self._watched()
        for key, shown in found.items():
            view = look, key
            if view not in watched:
                continue
            if isinstance(shown, str):
                self._troubles[view] = shown
            else:
                self._found[view] = shown
                self._troubles.pop(view, None)
