"""Streams of events: a query that fails ends none for good, and the last event is sent before a stream ends."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import msgspec
import pytest

from api import follow, statuses
from api.access import MAY, VIEWER, Caller
from api.follow import Follow
from api.problems import Problem
from operations.endings import Ending
from operations.events import Recorded

NOW = datetime(2026, 12, 1, tzinfo=UTC)
PAYMENT = UUID(int=1)
DEADLINE_S = 60.0


class Readers:
    """A database: of each function what it answers, in order; the last answer, or function of its place, stays."""

    def __init__(self, **answers):
        self._answers = answers

    async def run(self, _databases, read, *args):
        answers = self._answers[read.__name__]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer = answer(args[0]) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer


def run(main):
    asyncio.run(asyncio.wait_for(main, DEADLINE_S))


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(follow, "POLL_S", 0.0)
    monkeypatch.setattr(follow, "FAILED_S", 0.0)


def recorded(number, kind):
    return Recorded(number, PAYMENT, UUID(int=number), kind, msgspec.Raw(b"{}"), None, None, None, NOW)


def ending(place):
    fields = dict.fromkeys(Ending.__struct_fields__)
    return Ending(**{**fields, "id": place})


def test_a_query_that_fails_for_any_reason_is_made_again():
    async def main():
        ended = ending("2-x")
        away = [RuntimeError("a table is missing"), Problem("unavailable", "the database is away")]
        readers = Readers(
            latest=[*away, "1-x"], endings_after=[[], lambda place: [ended] if place == "1-x" else []]
        )
        async with aclosing(Follow(readers).endings("1-x", heartbeat_s=0.01)) as followed:
            async for found in followed:
                if found:
                    assert found == [ended]
                    return

    run(main())


def test_at_another_server_a_stream_ends_whose_place_is_none_there():
    async def main():
        other = Problem("invalid", "the place is none of this server's")
        polled, moved = asyncio.Event(), []

        def endings_after(place):
            if place == "7-x":  # the poll's
                polled.set()
            return other if moved else []

        readers = Readers(latest=["7-x"], endings_after=[endings_after])
        async with aclosing(Follow(readers).endings("1-x", heartbeat_s=0.01)) as followed:
            assert await anext(followed) == []
            await polled.wait()
            await anext(followed)  # it has looked once more, as whoever begins does
            moved.append(True)
            with pytest.raises(Problem) as told:
                async for _ in followed:
                    pass
            assert told.value is other

    run(main())


def test_what_is_stored_between_the_last_look_and_the_end_is_sent_before_the_stream_ends():
    async def main():
        readers = Readers(
            events_after=[[recorded(1, "WithdrawalRequested")], []],
            status_of=[SimpleNamespace(finished=True)],
            events_of=[[recorded(2, "WithdrawalCompleted")]],
        )
        front = SimpleNamespace(follow=Follow(readers), readers=readers)
        caller = Caller("viewer", VIEWER, MAY[VIEWER])
        sent = [one async for one in statuses._of_one(front, caller, None, PAYMENT, 0)]
        assert b"WithdrawalCompleted" in sent[-1]

    run(main())
