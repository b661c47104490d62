"""The pace of batches: how long records may gather before the next one is taken, by the load."""

import time

GATHER_S_PER_RATE = 1 / 80_000
BUSY_RATE = 4_000.0
"""From one batch to the next: 3 ms at 200 records/s, 16 ms at 1,000, 0.1 s at 4,000 and so on.

Twice as much per record at high rates: there the wait is not noticed, and the cost of a batch limits the
throughput; at low rates there is CPU time to spare for lower latency.
"""

ENOUGH_RECORDS = 2_000
"""A batch of so many gains little by growing further, so it is not waited for."""

SMALL = 100
REST_S_MAX = 0.02
"""After a batch of fewer records the consumer pauses as long as that batch took, but no longer than this.

Small batches cost much per record. On busy cores they take longer, and taken back to back they would themselves
keep the cores busy: the pause lets records gather, and other processes run.
"""

RATE_WINDOW_S = 0.25
"""The window over which the rate is measured: a short burst is not load yet."""


def pause_s(rate: float, gather_s_max: float, took_s: float, records: int, enough: int = ENOUGH_RECORDS) -> float:
    """How long to let records gather before the next batch, seconds.

    Args:
        rate: records a second of late.
        gather_s_max: from one batch to the next at the most, where batches take less.
        took_s: how long ago the last batch was taken, which is how long it took.
        records: how many the last batch had.
        enough: how many are not waited for to become more.
    """
    gather_s = rate * GATHER_S_PER_RATE * (1 + min(rate / BUSY_RATE, 1.0))
    gather_s = min(gather_s, gather_s_max, enough / max(rate, 1.0))
    rest_s = min(took_s, REST_S_MAX) if records < SMALL else 0.0
    return max(gather_s - took_s, rest_s)


class Load:
    """Records per second, over the last full window."""

    def __init__(self) -> None:
        self.rate = 0.0
        self._since = time.monotonic()
        self._records = 0

    def count(self, records: int, now: float) -> None:
        """Note that so many records were taken by now (monotonic seconds)."""
        self._records += records
        elapsed = now - self._since
        if elapsed >= RATE_WINDOW_S:
            self.rate = self._records / elapsed
            self._since, self._records = now, 0
