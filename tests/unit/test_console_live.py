"""An open page says that it stands still as long as it does, and not longer, whichever stream told it so."""

import asyncio
from contextlib import aclosing
from types import SimpleNamespace

import pytest

from api.console import live
from api.console.live import TROUBLE
from api.problems import Problem
from api.watch import Look, Watch

AWAY = "the saga database does not answer"
DEADLINE_S = 60.0


class Database:
    is_away = False

    async def find(self, _front, keys):
        if self.is_away:
            raise Problem("unavailable", AWAY)
        return {key: {"row": "as it stands"} for key in keys}


async def told(front, view) -> list[str]:
    """What a new stream says of trouble until it has said something of it."""
    async with aclosing(live._messages(front, (view,))) as messages:
        async for message in messages:
            events = message.decode().split("\n\n")
            if found := [event for event in events if event.startswith(f"event: {TROUBLE}\n")]:
                return found
    return []


@pytest.mark.parametrize("is_away", [False, True])
def test_a_new_stream_says_first_whether_its_page_stands_still(monkeypatch, is_away):
    monkeypatch.setattr(live, "CHECK_S", 0.02)
    database = Database()

    async def story():
        front = SimpleNamespace(watch=Watch(SimpleNamespace()))
        view = Look("test", database.find, 0.02), 1
        database.is_away = not is_away
        (before,) = await told(front, view)
        database.is_away = is_away
        (after,) = await told(front, view)
        await front.watch.close()
        return before, after

    before, after = asyncio.run(asyncio.wait_for(story(), DEADLINE_S))
    assert (AWAY in before, AWAY in after) == (not is_away, is_away)
