"""A stream lasts as long as its caller may read it, and not much longer than anybody can be asked that."""

import asyncio
from contextlib import aclosing, closing
from types import SimpleNamespace

import httpx
import pytest

from api import streams
from api.access import MAY, VIEWER, Caller
from api.limits import StreamLimit
from api.problems import Problem
from api.service import _pages
from api.statuses import follow_endings
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

    front = SimpleNamespace(credentials=SimpleNamespace(caller_of=caller_of), is_stopping=False)
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


@pytest.mark.parametrize(("last", "told"), [(b"1", [b"0", b"1"]), (b"", [b"0"])], ids=["a piece", "nothing"])
def test_it_ends_with_the_process_once_the_piece_in_hand_is_told(last, told):
    async def caller_of(*_):
        return CALLER

    front = SimpleNamespace(credentials=SimpleNamespace(caller_of=caller_of), is_stopping=False)
    app = SimpleNamespace(state=SimpleNamespace(front=front))
    request = SimpleNamespace(app=app, headers={}, scope={"user": CALLER})

    async def pieces():
        yield b"0"
        front.is_stopping = True
        yield last
        pytest.fail("the stream goes on")

    async def story():
        async with aclosing(_while_allowed(request, pieces(), b"beat", 15.0)) as said:
            return [one async for one in said]

    assert asyncio.run(story()) == told


def test_a_process_that_stops_is_not_ready():
    front, readiness = SimpleNamespace(is_stopping=False), SimpleNamespace(hangs=None, waits_for=())
    pages = _pages(SimpleNamespace(http_host="127.0.0.1", http_port=0), front, readiness)
    with closing(pages), httpx.Client(base_url=f"http://127.0.0.1:{pages.port}") as client:
        assert client.get("/readyz").status_code == 200
        front.is_stopping = True
        ready, alive = client.get("/readyz"), client.get("/healthz")
    assert (ready.status_code, ready.text) == (503, "the API is stopping\n")
    assert alive.status_code == 200


def test_who_comes_at_once_has_no_more_streams_of_endings_than_one_may_have():
    limit, others_have_come = StreamLimit(2), asyncio.Event()

    async def run(*_):
        await others_have_come.wait()
        return "7-x"

    async def endings(*_):
        while True:
            yield []

    front = SimpleNamespace(
        streams=limit, readers=SimpleNamespace(run=run), follow=SimpleNamespace(endings=endings), credentials=None
    )
    app = SimpleNamespace(state=SimpleNamespace(front=front))

    async def comes(has_left):
        request = SimpleNamespace(app=app, headers={}, scope={"user": CALLER})
        answer = await follow_endings.fn(request)
        with answer.counted():
            await has_left.wait()

    async def story():
        has_left = asyncio.Event()
        coming = [asyncio.create_task(comes(has_left)) for _ in range(10)]
        await asyncio.sleep(0)
        others_have_come.set()
        for _ in range(100):  # turns of the loop, of which each needs a few
            await asyncio.sleep(0)
        has_left.set()
        return await asyncio.gather(*coming, return_exceptions=True)

    answers = asyncio.run(story())
    assert answers.count(None) == 2
    assert [one.kind for one in answers if one is not None] == ["too-many-requests"] * 8


@pytest.mark.parametrize("answered", [1, 5])
def test_while_nobody_can_be_asked_it_goes_on_for_half_a_minute(monkeypatch, answered):
    away = Problem("unavailable", "the database is away")
    assert len(read([CALLER] * answered + [away] * 99, monkeypatch)) == answered + streams.UNCHECKED_S_MAX
    short = [CALLER, *[away] * 20] * 5
    assert len(read(short[:100], monkeypatch)) == 100
