"""A clock synchronized with a service's database, which all its instances share, and the local clock's skew."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from psycopg import AsyncConnection

from processors.runtime import metrics

SKEW_S_MAX = 5.0
"""Skew above this is logged; clocks of the same host or of an NTP-synchronized network stay below it."""

SAY_AGAIN_S = 600.0

log = structlog.get_logger()


class DatabaseClock:
    """A clock that is set by the database at each :meth:`look` and runs on a monotonic clock in between.

    Clocks of two machines may differ, and one machine's may jump when it is set. Due times are
    compared by this clock; before the first look it is the machine's own.

    Args:
        wall: this machine's time.
        ticks: monotonic seconds.
    """

    def __init__(
        self,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._ticks = ticks
        self._set_to: datetime | None = None
        self._set_at = 0.0
        self._say_at = 0.0

    def now(self) -> datetime:
        """The time by the database (UTC)."""
        if self._set_to is None:
            return self._wall()
        return self._set_to + timedelta(seconds=self._ticks() - self._set_at)

    async def look(self, connection: AsyncConnection) -> None:
        """Set the clock, in one round trip, and measure how far this machine's is ahead of it.

        Args:
            connection: outside of a transaction.

        Raises:
            psycopg.OperationalError: the database does not answer; the clock goes on as it was set.
        """
        before = self._ticks()
        row = await (await connection.execute("SELECT clock_timestamp()")).fetchone()
        after, wall = self._ticks(), self._wall()
        assert row is not None
        # It was read during the round trip; assuming the middle is off by at most half of it.
        self._set_to, self._set_at = row[0].astimezone(UTC), (before + after) / 2
        ahead_s = (wall - self.now()).total_seconds()
        metrics.CLOCK_SKEW.set(ahead_s)
        if abs(ahead_s) > SKEW_S_MAX and after >= self._say_at:
            self._say_at = after + SAY_AGAIN_S
            log.warning(
                "this machine's clock and the database's differ: times shown and order of steps are as wrong",
                ahead_s=round(ahead_s, 1),
            )
