"""A circuit breaker: opens after failures in a row, and closes once a single probe succeeds."""

import time
from collections.abc import Callable, Sequence

OPEN_S_MIN = 0.1
OPEN_S_MAX = 5.0
"""Bounds of the time the circuit stays open: enough for a short recovery, and a recovered service is soon used."""

FAILURES_MAX = 5
"""Failures in a row that open the circuit."""


class Breaker:
    """Closed: calls are admitted. Open: none is. Half-open: one probe at a time, until one succeeds.

    Args:
        backoff_s: how long to stay open the first, second, … time in a row, seconds, within :data:`OPEN_S_MIN` and
            :data:`OPEN_S_MAX`; the last one repeats.
        clock: monotonic seconds.
    """

    def __init__(self, backoff_s: Sequence[float], clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff_s = [min(max(open_s, OPEN_S_MIN), OPEN_S_MAX) for open_s in backoff_s]
        self._clock = clock
        self._failures = 0
        self._times_opened = 0
        self._open_until: float | None = None
        self._asked_until = 0.0
        self._probing = False

    @property
    def is_closed(self) -> bool:
        """Whether calls are admitted without a probe."""
        return self._open_until is None

    @property
    def may_probe(self) -> bool:
        """Whether a probe is due, and none is under way."""
        return self._open_until is not None and not self._probing and self._clock() >= self._open_until

    def admit(self, probe: bool) -> bool:
        """Whether a call may be made now; the admitted caller must report its outcome.

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
        """The call was answered. Does not shorten :meth:`retry_after`: the call may have been made before that."""
        self._failures = self._times_opened = 0
        self._probing = False
        if self._clock() >= self._asked_until:
            self._open_until = None

    def failed(self) -> None:
        """The call was not answered, or the answer was a failure of the remote service."""
        self._failures += 1
        if self._probing or (self.is_closed and self._failures >= FAILURES_MAX):
            self._open(self._backoff_s[min(self._times_opened, len(self._backoff_s) - 1)])
            self._times_opened += 1

    def released(self) -> None:
        """The admitted call was not made after all, or its outcome says nothing of the remote service."""
        self._probing = False

    def retry_after(self, seconds: float) -> None:
        """The remote service answers, and asks for no calls for some time (``Retry-After``)."""
        self._open(seconds)
        self._asked_until = max(self._asked_until, self._clock() + seconds)

    def _open(self, seconds: float) -> None:
        self._probing = False
        self._open_until = max(self._open_until or 0.0, self._clock() + seconds)
