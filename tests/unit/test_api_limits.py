"""A caller may come as often as it may, and no caller is slowed down by another."""

import pytest

from api import limits
from api.limits import RateLimit, StreamLimit


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    return clock


def test_after_a_quiet_second_as_many_may_come_at_once_as_in_a_second(clock):
    limit = RateLimit(5.0)
    assert [limit.wait_s("a") for _ in range(6)] == [*[None] * 5, 1]
    assert limit.wait_s("b") is None
    clock.now = 0.2
    assert [limit.wait_s("a") for _ in range(2)] == [None, 1]
    clock.now = 1_000.0
    assert [limit.wait_s("a") for _ in range(6)] == [*[None] * 5, 1]


def test_the_time_to_wait_is_told_in_whole_seconds_and_is_enough(clock):
    limit = RateLimit(0.25)
    assert limit.wait_s("a") is None
    wait_s = limit.wait_s("a")
    assert wait_s == 4
    clock.now = float(wait_s)
    assert limit.wait_s("a") is None


def test_callers_that_are_remembered_are_bounded(clock, monkeypatch):
    monkeypatch.setattr(limits, "CALLERS_MAX", 3)
    limit = RateLimit(1.0)
    for number in range(20):
        limit.wait_s(f"caller-{number}")
    assert len(limit._buckets) <= 3


def test_streams_are_counted_for_each_caller_as_long_as_they_are_open():
    limit = StreamLimit(2)
    with limit.opened("a"):
        with limit.opened("a"):
            assert (limit.has_room("a"), limit.has_room("b")) == (False, True)
        assert limit.has_room("a")
    assert not limit._open
