"""Isolation of failing due work: an item that cannot be handled never blocks those behind it."""

import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from contracts.text import REASON_MAX, clean
from processors.runtime.database import is_transient

DEFERRED_S = 60.0
"""How long an item is deferred in memory whose row cannot be rescheduled in the database."""

DEFERRED_MAX = 10_000
"""Beyond so many the oldest is retried."""

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


async def isolate(
    items: Sequence[T],
    work: Callable[[Sequence[T]], Awaitable[None]],
    push_back: Callable[[T, Exception], Awaitable[None]],
) -> None:
    """Work on items together; where that raises, bisect until each failing item is alone.

    Args:
        items: what is due.
        work: all or nothing: called again with fewer of the items if it raises.
        push_back: called with each item that fails alone, and its error.

    Raises:
        Exception: a transient error (:func:`is_transient`); the remaining items are left as they are.
    """
    if not items:
        return
    try:
        await work(items)
    except Exception as error:
        if is_transient(error):
            raise
        if len(items) == 1:
            await push_back(items[0], error)
            return
        middle = len(items) // 2
        await isolate(items[:middle], work, push_back)
        await isolate(items[middle:], work, push_back)


def in_words(error: Exception) -> str:
    """An error as text for a row's ``reason`` or ``error`` column."""
    return clean(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", REASON_MAX)


class Deferred(Generic[K]):
    """Items that this process skips for :data:`DEFERRED_S`, as the database refuses to reschedule them.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[K, float] = {}

    def add(self, key: K) -> None:
        """Skip an item from now on."""
        self._until.pop(key, None)
        self._until[key] = self._clock() + DEFERRED_S
        if len(self._until) > DEFERRED_MAX:
            del self._until[next(iter(self._until))]

    def keys(self) -> list[K]:
        """The items to skip now."""
        now = self._clock()
        self._until = {key: until for key, until in self._until.items() if until > now}
        return list(self._until)
