"""Calls to a remote service with bounded concurrency, a time budget per batch and a circuit breaker.

A call that was not begun is not a failed call: its place in the answers stays empty, and the caller has it due
again from its database.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from processors.runtime.breaker import Breaker

BUDGET_S = 1.0
"""How long a batch begins further calls; the remaining ones become due work, and delay nothing.

No records are read meanwhile, and no partition is revoked: a joining instance waits for so long.
"""

A = TypeVar("A")
B = TypeVar("B")


class Calls:
    """Calls to one remote service, from anywhere in this process.

    Args:
        connections: calls under way at the same time at the most.
        budget_s: how long after its start a batch begins further calls, seconds.
        breaker: the circuit breaker of that service.
    """

    def __init__(self, connections: int, budget_s: float, breaker: Breaker) -> None:
        self.breaker = breaker
        self._connections = connections
        self._budget_s = budget_s
        self._free = asyncio.Semaphore(connections)

    def capacity(self, at_most: int) -> int:
        """How many calls the breaker would admit now: all, one probe, or none."""
        if self.breaker.is_closed:
            return at_most
        return 1 if self.breaker.may_probe else 0

    async def each(self, call: Callable[[A], Awaitable[B]], items: Sequence[A], *, probe: bool) -> list[B | None]:
        """Call for each item; the answers in order, None where no call was begun.

        Args:
            call: reports to the breaker how it went.
            items: what to call with.
            probe: whether one of them may be the probe of an open circuit.
        """
        answers: list[B | None] = [None] * len(items)
        begin_until = time.monotonic() + self._budget_s
        waiting = iter(range(len(items)))

        async def work() -> None:
            for place in waiting:
                async with self._free:
                    if time.monotonic() >= begin_until or not self.breaker.admit(probe):
                        return
                    try:
                        answers[place] = await call(items[place])
                    except BaseException:
                        self.breaker.failed()  # or a cancelled probe would block the next one
                        raise

        await asyncio.gather(*(work() for _ in range(min(self._connections, len(items)))))
        return answers
