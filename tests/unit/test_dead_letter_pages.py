"""A page of dead letters has as many as fit, however large somebody has made them."""

import asyncio
from types import SimpleNamespace

import pytest

from api import dead_letters
from api.problems import Problem
from operations.dead_letters.letters import Gathered, Wanted
from tests.unit.test_dead_letters import dead


class Front:
    """Dead letters of some sizes."""

    def __init__(self, *sizes):
        gathered = Gathered()
        for offset, size in enumerate(sizes):
            record = dead("account", offset)
            record.value = lambda size=size: b"x" * size
            gathered.add(record)
        self.letters = SimpleNamespace(read=lambda: gathered.letters({}))
        self.operators = self

    async def run(self, find):
        return find()


def listed(front, **options):
    found, cursor, sizes = [], None, []
    while not found or cursor is not None:
        page = asyncio.run(dead_letters.found(front, Wanted(), "all", 3, cursor, **options))
        found += [letter.offset for letter in page.dead_letters]
        sizes.append(len(page.dead_letters))
        cursor = page.cursor
    return found, sizes


def test_a_page_ends_where_its_contents_are_large_and_the_next_goes_on(monkeypatch):
    monkeypatch.setattr(dead_letters, "PAGE_BYTES_MAX", 1_000)
    front = Front(10, 600, 10, 600, 600, 2_000, 10)
    assert listed(front) == ([6, 5, 4, 3, 2, 1, 0], [1, 1, 1, 2, 2])
    assert listed(front, contents=False) == ([6, 5, 4, 3, 2, 1, 0], [3, 3, 1])


def test_a_cursor_is_of_one_filter():
    front = Front(10, 10)
    cursor = asyncio.run(dead_letters.found(front, Wanted(), "all", 1)).cursor
    for wanted, state in ((Wanted(reason="x"), "all"), (Wanted(), "open")):
        with pytest.raises(Problem, match="another filter"):
            asyncio.run(dead_letters.found(front, wanted, state, 1, cursor))
