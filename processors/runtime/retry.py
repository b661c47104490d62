"""The retry policy: one attempt at once, then one after each pause of a list, a little apart from others.

Plain functions; what is due is kept in each service's own database, so it survives a crash.
"""

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec


class RetryPolicy(msgspec.Struct, frozen=True):
    """When to try again.

    Attributes:
        backoff_s: pauses before each further attempt, seconds; the last one repeats for whoever may not give up.
        jitter: how far a pause may be off, 0 to below 1; what failed together shall not come back together.
        draw: a number from 0 to below 1.
    """

    backoff_s: Sequence[float]
    jitter: float = 0.0
    draw: Callable[[], float] = random.random

    def has_run_out(self, attempts: int) -> bool:
        """Whether so many failed attempts are all there are: one at once, and one after each pause."""
        return attempts > len(self.backoff_s)

    def next_at(self, attempts: int, now: datetime, retry_after_s: float = 0.0) -> datetime:
        """When to try again after so many failed attempts.

        Args:
            attempts: made so far, 1 or more.
            now: the time of the last one.
            retry_after_s: what the other side asked to wait, seconds; never less than that.
        """
        pause_s = self.backoff_s[min(attempts, len(self.backoff_s)) - 1]
        spread = 1 + self.jitter * (2 * self.draw() - 1)
        return now + timedelta(seconds=max(pause_s * spread, retry_after_s))
