"""Due work in isolation: one item that cannot be handled never holds back those behind it."""

import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from contracts.text import REASON_MAX, clean
from processors.runtime.database import is_nobodys_fault

SET_ASIDE_S = 60.0
"""How long an item is left alone whose row cannot even be pushed back."""

SET_ASIDE_MAX = 10_000
"""Beyond so many the oldest is tried again."""

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


async def isolate(
    items: Sequence[T],
    work: Callable[[Sequence[T]], Awaitable[None]],
    push_back: Callable[[T, Exception], Awaitable[None]],
) -> None:
    """Work on items together; where that raises, on halves and halves of halves, until the culprits stand alone.

    Args:
        items: what is due.
        work: all or nothing: called again with fewer of the items if it raises.
        push_back: told of each item that fails alone, and why.

    Raises:
        Exception: what :func:`is_nobodys_fault` says that waiting mends; the rest is left as it is.
    """
    if not items:
        return
    try:
        await work(items)
    except Exception as error:
        if is_nobodys_fault(error):
            raise
        if len(items) == 1:
            await push_back(items[0], error)
            return
        middle = len(items) // 2
        await isolate(items[:middle], work, push_back)
        await isolate(items[middle:], work, push_back)


def in_words(error: Exception) -> str:
    """An error as a row keeps it, for whoever looks why it stands still."""
    return clean(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", REASON_MAX)


class SetAside(Generic[K]):
    """Items that this process leaves alone for :data:`SET_ASIDE_S`, as the database refuses to push them back.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[K, float] = {}

    def add(self, key: K) -> None:
        """Leave it alone from now on."""
        self._until.pop(key, None)
        self._until[key] = self._clock() + SET_ASIDE_S
        if len(self._until) > SET_ASIDE_MAX:
            del self._until[next(iter(self._until))]

    def keys(self) -> list[K]:
        """What is left alone now."""
        now = self._clock()
        self._until = {key: until for key, until in self._until.items() if until > now}
        return list(self._until)
