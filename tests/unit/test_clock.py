"""The database's time, whatever this machine's clock says or is set to."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from processors.runtime.clock import SAY_AGAIN_S, DatabaseClock

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Machine:
    """A machine whose clock is off, and its database, a round trip of 2 s away."""

    def __init__(self, off_s: float) -> None:
        self.off_s, self.ticks = off_s, 100.0
        self.clock = DatabaseClock(lambda: self.true() + timedelta(seconds=self.off_s), lambda: self.ticks)

    def true(self) -> datetime:
        return NOW + timedelta(seconds=self.ticks)

    async def execute(self, _sql):
        self.ticks += 1.0
        self.read = self.true().astimezone()  # in whatever zone the session has
        self.ticks += 1.0
        return self

    async def fetchone(self):
        return (self.read,)

    def look(self):
        with capture_logs() as lines:
            asyncio.run(self.clock.look(self))
        return [line["ahead_s"] for line in lines]


@pytest.mark.parametrize("minutes", [-15, 0, 15])
def test_a_clock_that_is_off_does_not_count_and_is_reported(minutes):
    machine = Machine(60 * minutes)
    assert machine.clock.now() == machine.true() + timedelta(minutes=minutes)  # nothing else is known yet
    assert machine.look() == ([60.0 * minutes] if minutes else [])
    assert REGISTRY.get_sample_value("settle_clock_skew_seconds") == 60 * minutes
    for _ in range(3):
        machine.ticks += 10
        assert machine.clock.now() == machine.true()


def test_a_clock_that_is_set_meanwhile_moves_nothing():
    machine = Machine(0)
    machine.look()
    machine.off_s = 3_600
    assert machine.clock.now() == machine.true()
    assert machine.look() == [3_600.0]


def test_a_skew_is_said_once_in_a_while():
    machine = Machine(20)
    assert [machine.look() for _ in range(3)] == [[20.0], [], []]
    machine.ticks += SAY_AGAIN_S
    assert machine.look() == [20.0]
