"""The retry policy: one attempt at once, then one after each pause of a backoff list, with jitter.

Plain functions; what is due is kept in each service's own database, so it survives a crash.
"""

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec


class RetryPolicy(msgspec.Struct, frozen=True):
    """Backoff with jitter.

    Attributes:
        backoff_s: pauses before each further attempt, seconds; the last one repeats where there is no giving up.
        jitter: how far a pause may deviate, 0 to below 1, so that what failed together is not retried together.
        draw: a number from 0 to below 1.
    """

    backoff_s: Sequence[float]
    jitter: float = 0.0
    draw: Callable[[], float] = random.random

    def has_run_out(self, attempts: int) -> bool:
        """Whether attempts are exhausted after so many failures: one at once, and one after each pause."""
        return attempts > len(self.backoff_s)

    def next_at(self, attempts: int, now: datetime, retry_after_s: float = 0.0) -> datetime:
        """When to retry after so many failed attempts.

        Args:
            attempts: made so far, 1 or more.
            now: the time of the last one.
            retry_after_s: the ``Retry-After`` of the remote service, a lower bound, seconds.
        """
        pause_s = self.backoff_s[min(attempts, len(self.backoff_s)) - 1]
        spread = 1 + self.jitter * (2 * self.draw() - 1)
        return now + timedelta(seconds=max(pause_s * spread, retry_after_s))
