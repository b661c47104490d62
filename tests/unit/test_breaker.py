import asyncio
from types import SimpleNamespace

import pytest

from processors.runtime import calls as calls_module
from processors.runtime.breaker import FAILURES_MAX, Breaker
from processors.runtime.calls import Calls


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return Breaker((1.0, 2.0, 4.0), clock)


def trip(breaker):
    for _ in range(FAILURES_MAX):
        assert breaker.admit(probe=False)
        breaker.failed()


def test_it_opens_after_failures_in_a_row(breaker):
    for _ in range(10):
        for _ in range(FAILURES_MAX - 1):
            breaker.failed()
        breaker.succeeded()
    assert breaker.is_closed
    trip(breaker)
    assert not breaker.is_closed
    assert not breaker.admit(probe=True)


def test_after_a_rest_one_probe_is_let_through_and_its_answer_decides(breaker, clock):
    trip(breaker)
    clock.now += 1.0
    assert breaker.may_probe
    assert not breaker.admit(probe=False)
    assert breaker.admit(probe=True)
    assert not breaker.admit(probe=True)
    breaker.succeeded()
    assert breaker.is_closed


def test_rests_grow_while_probes_fail_and_start_over_after_a_success(breaker, clock):
    trip(breaker)
    for rest_s in (1.0, 2.0, 4.0, 4.0):
        clock.now += rest_s - 0.01
        assert not breaker.may_probe
        clock.now += 0.02
        assert breaker.admit(probe=True)
        breaker.failed()
    clock.now += 4.0
    assert breaker.admit(probe=True)
    breaker.succeeded()
    trip(breaker)
    clock.now += 1.0
    assert breaker.may_probe


def test_calls_under_way_that_fail_later_do_not_lengthen_the_rest(breaker, clock):
    trip(breaker)
    for _ in range(20):
        breaker.failed()
    clock.now += 1.0
    assert breaker.may_probe


def test_a_rest_that_was_asked_for_is_not_ended_by_a_late_answer(breaker, clock):
    assert breaker.admit(probe=False)
    breaker.retry_after(30.0)
    clock.now += 29.0
    breaker.succeeded()
    assert not breaker.is_closed
    assert not breaker.admit(probe=True)
    clock.now += 1.0
    assert breaker.admit(probe=True)
    breaker.succeeded()
    assert breaker.is_closed


def test_a_probe_that_is_not_made_leaves_room_for_another(breaker, clock):
    trip(breaker)
    clock.now += 1.0
    assert breaker.admit(probe=True)
    breaker.released()
    assert breaker.admit(probe=True)


def test_who_is_asked_to_wait_waits(breaker, clock):
    breaker.retry_after(30.0)
    clock.now += 29.0
    assert not breaker.may_probe
    clock.now += 1.0
    assert breaker.admit(probe=True)
    breaker.succeeded()
    assert breaker.is_closed


def each(calls, count, call, probe=True):
    return asyncio.run(calls.each(call, range(count), probe=probe))


def test_no_more_calls_than_connections_are_under_way(breaker):
    most = under_way = 0

    async def call(number):
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return number

    assert each(Calls(4, 60.0, breaker), 50, call) == list(range(50))
    assert most == 4


def test_a_round_over_its_time_begins_nothing_more(breaker, clock, monkeypatch):
    monkeypatch.setattr(calls_module, "time", SimpleNamespace(monotonic=clock))

    async def call(number):
        await asyncio.sleep(0)
        clock.now += 1.0
        return number

    assert each(Calls(2, 2.5, breaker), 100, call) == [*range(4), *[None] * 96]


def test_a_provider_that_fails_is_spared_the_rest_of_the_round(breaker, clock):
    asked = []

    async def call(number):
        asked.append(number)
        await asyncio.sleep(0)
        breaker.failed()
        return "failed"

    calls = Calls(3, 60.0, breaker)
    answers = each(calls, 1000, call)
    assert len(asked) < FAILURES_MAX + 3
    assert answers.count(None) == 1000 - len(asked)
    assert calls.capacity(500) == 0
    clock.now += 1.0
    assert calls.capacity(500) == 1
    del asked[:]
    assert each(calls, 10, call, probe=False) == [None] * 10
    each(calls, 10, call)
    assert len(asked) == 1


def test_a_probe_that_was_cut_off_is_not_waited_for(breaker, clock):
    async def call(_number):
        raise RuntimeError("a bug")

    trip(breaker)
    clock.now += 1.0
    calls = Calls(3, 60.0, breaker)
    with pytest.raises(RuntimeError):
        each(calls, 1, call)
    clock.now += 2.0
    assert breaker.may_probe
