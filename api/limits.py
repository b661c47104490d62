"""Limits of each caller: a bucket of tokens for its rate, refilled as time passes, and a number of streams."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

CALLERS_MAX = 10_000
"""Callers that are remembered; only those that exist are."""


class RateLimit:
    """How often each caller may come.

    Args:
        rate: requests a second; as many may come at once after a quiet second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate)
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, caller: str) -> int | None:
        """None if the caller may come now, which counts; else in how many seconds, rounded up."""
        now = time.monotonic()
        tokens, at = self._buckets.get(caller, (self._most, now))
        tokens = min(self._most, tokens + (now - at) * self._rate)
        if tokens < 1.0:
            self._buckets[caller] = (tokens, now)
            return math.ceil((1.0 - tokens) / self._rate)
        if len(self._buckets) >= CALLERS_MAX:
            self._buckets.clear()
        self._buckets[caller] = (tokens - 1.0, now)
        return None


class StreamLimit:
    """How many streams each caller may have open.

    Args:
        most: streams of one caller.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: Counter[str] = Counter()

    def has_room(self, caller: str) -> bool:
        """Whether the caller may open one more."""
        return self._open.get(caller, 0) < self.most

    @contextmanager
    def opened(self, caller: str) -> Iterator[None]:
        """One more is open in the block."""
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]
