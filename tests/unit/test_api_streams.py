"""A stream lasts as long as its caller may read it, and not much longer than anybody can be asked that."""

import asyncio
from contextlib import aclosing
from types import SimpleNamespace

import pytest

from api import streams
from api.access import MAY, VIEWER, Caller
from api.problems import Problem
from api.streams import _while_allowed

CALLER = Caller("alice", VIEWER, MAY[VIEWER])


async def content():
    for number in range(100):
        yield b"%d" % number


def read(callers, monkeypatch, step_s=1.0):
    """What a stream says, of which each message is checked by one of these answers, a second apart."""
    answers, now = iter(callers), [0.0]

    async def caller_of(*_):
        answer = next(answers)
        if isinstance(answer, Problem):
            raise answer
        return answer

    def monotonic():
        now[0] += step_s
        return now[0]

    front = SimpleNamespace(credentials=SimpleNamespace(caller_of=caller_of))
    state = SimpleNamespace(front=front)
    request = SimpleNamespace(app=SimpleNamespace(state=state), headers={}, scope={"user": CALLER})
    monkeypatch.setattr(streams, "time", SimpleNamespace(monotonic=monotonic))

    async def all_of_it():
        async with aclosing(_while_allowed(request, content(), b"beat", 15.0)) as said:
            return [one async for one in said]

    return asyncio.run(all_of_it())


def test_it_ends_with_the_right_to_it(monkeypatch):
    assert read([CALLER, CALLER, None], monkeypatch) == [b"0", b"1"]
    assert read([CALLER, Caller("bob", VIEWER, MAY[VIEWER])], monkeypatch) == [b"0"]


@pytest.mark.parametrize("answered", [1, 5])
def test_while_nobody_can_be_asked_it_goes_on_for_half_a_minute(monkeypatch, answered):
    away = Problem("unavailable", "the database is away")
    assert len(read([CALLER] * answered + [away] * 99, monkeypatch)) == answered + streams.UNCHECKED_S_MAX
    short = [CALLER, *[away] * 20] * 5
    assert len(read(short[:100], monkeypatch)) == 100
