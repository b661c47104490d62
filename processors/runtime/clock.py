"""The time by a service's database, which all its instances share, and how far this machine's clock is off it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from psycopg import AsyncConnection

from processors.runtime import metrics

SKEW_S_MAX = 5.0
"""A clock that is off by more is said to be so; the same host's and those of a synchronised network are not."""

SAY_AGAIN_S = 600.0

log = structlog.get_logger()


class DatabaseClock:
    """A clock that is set by the database at each :meth:`look` and goes on by itself in between.

    Two machines may disagree on the time, and one of them with itself, after it was set. What must come after a
    while is compared by this clock; before the first look it is the machine's own.

    Args:
        wall: this machine's time.
        ticks: seconds that only grow.
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
        # It was read somewhere in between; in the middle is off by half of the round trip at the most.
        self._set_to, self._set_at = row[0].astimezone(UTC), (before + after) / 2
        ahead_s = (wall - self.now()).total_seconds()
        metrics.CLOCK_SKEW.set(ahead_s)
        if abs(ahead_s) > SKEW_S_MAX and after >= self._say_at:
            self._say_at = after + SAY_AGAIN_S
            log.warning(
                "this machine's clock and the database's differ: times shown and order of steps are as wrong",
                ahead_s=round(ahead_s, 1),
            )
