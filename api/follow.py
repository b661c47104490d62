"""Streams of events: one query at a time for everybody who follows, however many they are.

A follower has a place, the ID of the last event that it was given, and each query asks for what comes after the
places of all; who begins, or was offered more than it took, looks for itself once. So nobody misses an event or is
given one twice, also not who comes back with ``Last-Event-ID``: why that order can be followed is told in
:mod:`operations.events` and :mod:`operations.endings`.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Generic, TypeVar
from uuid import UUID

import structlog

from api.instrumentation import STREAMS
from api.problems import Problem
from api.readers import Readers
from operations.endings import Ending, endings_after, latest, order_of
from operations.events import Recorded, events_after

POLL_S = 0.2
"""The pause between two queries."""

FOLLOWERS_MAX = 3_000
"""Of a process."""

PAGE_MAX = 500
"""Events that a follower is given at once."""

FAILED_S = 5.0
"""The pause after a query that failed for another reason than that the database is away."""

CROWDED_S = 10
"""When somebody may try again who found no room."""

log = structlog.get_logger()

Place = TypeVar("Place")
Event = TypeVar("Event", Recorded, Ending)


def is_outage(problem: Problem) -> bool:
    """Whether a stream that has begun goes on: what could not be asked now is asked again with its next piece."""
    return problem.kind == "unavailable"


class Follower(Generic[Place, Event]):
    """Somebody who follows.

    Args:
        place: where to begin.
        order: what places are ordered by.

    Attributes:
        place: the ID of the last event that it was given.
        is_behind: whether it has to look for itself, whatever it is offered; so it begins.
    """

    def __init__(self, place: Place, order: Callable[[Place], Any]) -> None:
        self.place = place
        self.is_behind = True
        self._order = order
        self._offered: tuple[Place, list[Event]] | None = None
        self._news = asyncio.Event()
        self._news.set()

    def offer(self, after: Place, events: list[Event]) -> None:
        """There is something new: all that comes after a place, up to the last of these events."""
        self._offered = (after, events)
        self._news.set()

    def look_again(self) -> None:
        """There may be something after its place that nobody offers."""
        self.is_behind = True
        self._news.set()

    async def wait(self, limit_s: float) -> bool:
        """Whether there may be something after its place, within a time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._news.wait()
        there_is = self._news.is_set() or self.is_behind
        self._news.clear()
        return there_is

    def take(self) -> list[Event] | None:
        """What follows its place of what was offered last; None where it has to look for itself."""
        offered, self._offered = self._offered, None
        is_behind, self.is_behind = self.is_behind, False
        if is_behind or offered is None:
            return None
        after, events = offered
        if after == self.place:
            return events
        place = self._order(self.place)  # it has looked for itself, or has not taken what was offered before
        if self._order(after) > place:
            return None
        return [event for event in events if self._order(event.id) > place]  # type: ignore[arg-type]  # its kind's


class Follow:
    """The queries for all followers; they run only while there is one.

    Args:
        readers: of the saga service's database.
    """

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._of_one: dict[Follower[int, Recorded], UUID] = {}
        self._of_all: set[Follower[str, Ending]] = set()
        self._task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def withdrawal(
        self, payment_id: UUID, after: int, heartbeat_s: float
    ) -> AsyncGenerator[list[Recorded], None]:
        """The events of a withdrawal after a place, as they are stored; now and then an empty list.

        Raises:
            Problem: there are too many followers already.
        """

        def look(place: int) -> Awaitable[list[Recorded]]:
            return self._readers.run("saga", events_after, {payment_id: place}, PAGE_MAX)

        follower = Follower[int, Recorded](after, int)
        self._check_room()
        self._of_one[follower] = payment_id
        try:
            async with aclosing(self._followed(follower, look, heartbeat_s, has_begun=True)) as followed:
                async for found in followed:
                    yield found
        finally:
            del self._of_one[follower]
            self._count()

    async def endings(self, after: str, heartbeat_s: float) -> AsyncGenerator[list[Ending], None]:
        """The endings of all withdrawals after a place; now and then an empty list.

        Raises:
            Problem: there are too many followers already, the place is none, or, with the first answer, the
                database is away.
        """

        def look(place: str) -> Awaitable[list[Ending]]:
            return self._readers.run("saga", endings_after, place, PAGE_MAX)

        follower = Follower[str, Ending](after, order_of)
        self._check_room()
        self._of_all.add(follower)
        try:
            async with aclosing(self._followed(follower, look, heartbeat_s, has_begun=False)) as followed:
                async for found in followed:
                    yield found
        finally:
            self._of_all.remove(follower)
            self._count()

    async def _followed(
        self,
        follower: Follower[Place, Event],
        look: Callable[[Place], Awaitable[list[Event]]],
        heartbeat_s: float,
        *,
        has_begun: bool,
    ) -> AsyncGenerator[list[Event], None]:
        self._count()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._poll(), name="follow")
        while True:
            found: list[Event] = []
            if await follower.wait(heartbeat_s):
                try:
                    offered = follower.take()
                    found = await look(follower.place) if offered is None else offered
                    if found:
                        follower.place = found[-1].id  # type: ignore[assignment]  # each kind of event has its own
                    if offered is None and len(found) == PAGE_MAX:
                        follower.look_again()
                except Problem as problem:
                    if not (has_begun and is_outage(problem)):
                        raise
                    follower.is_behind = True
            has_begun = True
            yield found

    def _check_room(self) -> None:
        if len(self._of_one) + len(self._of_all) >= FOLLOWERS_MAX:
            raise Problem("unavailable", f"{FOLLOWERS_MAX:,} streams are open already", CROWDED_S)

    def _count(self) -> None:
        STREAMS.set(len(self._of_one) + len(self._of_all))

    async def _poll(self) -> None:
        """Ask for all, as long as somebody follows."""
        place: str | None = None
        while self._of_one or self._of_all:
            await asyncio.sleep(POLL_S)
            try:
                await self._poll_withdrawals()
                place = await self._poll_endings(place) if self._of_all else None
            except Problem as problem:
                log.warning("streams wait for the database", reason=problem.detail)
                if problem.kind == "invalid":  # another server: each who follows is told by its own look
                    place = None
            except Exception:
                log.exception("streams cannot be looked after")
                await asyncio.sleep(FAILED_S)

    async def _poll_withdrawals(self) -> None:
        places: dict[UUID, int] = {}
        for follower, payment_id in self._of_one.items():
            places[payment_id] = min(follower.place, places.get(payment_id, follower.place))
        found = await self._readers.run("saga", events_after, places, PAGE_MAX) if places else ()
        news: dict[UUID, list[Recorded]] = {}
        for event in found:
            news.setdefault(event.payment_id, []).append(event)
        for follower, payment_id in [*self._of_one.items()]:
            if events := [event for event in news.get(payment_id, ()) if event.id > follower.place]:
                follower.offer(follower.place, events)

    async def _poll_endings(self, place: str | None) -> str:
        if place is None:
            place = await self._readers.run("saga", latest)
            # What ended between somebody's first look and now would be told to nobody.
            for follower in self._of_all:
                follower.look_again()
            return place
        while found := await self._readers.run("saga", endings_after, place, PAGE_MAX):
            for follower in self._of_all:
                follower.offer(place, found)
            place = found[-1].id
            if len(found) < PAGE_MAX:
                break
        return place
