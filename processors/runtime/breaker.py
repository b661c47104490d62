"""A circuit breaker: after failures in a row nobody calls the other side, until one probe succeeds."""

import time
from collections.abc import Callable, Sequence

REST_S_MIN = 0.1
REST_S_MAX = 5.0
"""The shortest and the longest rest: enough for a breath, and nobody waits longer for one that is back."""

FAILURES_MAX = 5
"""Failures in a row after which the other side is given a rest."""


class Breaker:
    """Closed: calls go through. Open: none does. Then one probe at a time, until one is answered.

    Args:
        rests_s: how long to rest the first, second, … time in a row, seconds, within :data:`REST_S_MIN` and
            :data:`REST_S_MAX`; the last one repeats.
        clock: seconds that only grow.
    """

    def __init__(self, rests_s: Sequence[float], clock: Callable[[], float] = time.monotonic) -> None:
        self._rests_s = [min(max(rest_s, REST_S_MIN), REST_S_MAX) for rest_s in rests_s]
        self._clock = clock
        self._failures = 0
        self._rests = 0
        self._rest_until: float | None = None
        self._asked_until = 0.0
        self._probing = False

    @property
    def is_closed(self) -> bool:
        """Whether calls go through."""
        return self._rest_until is None

    @property
    def may_probe(self) -> bool:
        """Whether it is time to try whether the other side is back, and nobody does yet."""
        return self._rest_until is not None and not self._probing and self._clock() >= self._rest_until

    def admit(self, probe: bool) -> bool:
        """Whether a call may be made now; whoever is let in reports how it went.

        Args:
            probe: whether the caller is willing to wait for an answer that may not come.
        """
        if self.is_closed:
            return True
        if probe and self.may_probe:
            self._probing = True
            return True
        return False

    def succeeded(self) -> None:
        """The other side answered. A rest that it asked for goes on: the call may have been made before that."""
        self._failures = self._rests = 0
        self._probing = False
        if self._clock() >= self._asked_until:
            self._rest_until = None

    def failed(self) -> None:
        """The other side did not answer, or said that it cannot."""
        self._failures += 1
        if self._probing or (self.is_closed and self._failures >= FAILURES_MAX):
            self._rest(self._rests_s[min(self._rests, len(self._rests_s) - 1)])
            self._rests += 1

    def passed_over(self) -> None:
        """Whoever was let in had no reason to call after all."""
        self._probing = False

    def asked_to_wait(self, seconds: float) -> None:
        """The other side is there, and wants no calls for some time."""
        self._rest(seconds)
        self._asked_until = max(self._asked_until, self._clock() + seconds)

    def _rest(self, seconds: float) -> None:
        self._probing = False
        self._rest_until = max(self._rest_until or 0.0, self._clock() + seconds)
