"""Whoever fails in due work stands alone in the end, and everybody else is done once."""

import asyncio

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.runtime.due import DEFERRED_MAX, DEFERRED_S, Deferred, in_words, isolate

NO = ValueError("no")


def run(items, failing, error=NO):
    done, pushed_back = [], []

    async def work(some):
        if failing & set(some):
            raise error
        done.extend(some)

    async def push_back(one, why):
        pushed_back.append((one, why))

    asyncio.run(isolate(items, work, push_back))
    return done, pushed_back


@given(st.integers(0, 40), st.sets(st.integers(0, 40)))
def test_those_that_fail_are_pushed_back_and_the_others_done_in_order(count, failing):
    done, pushed_back = run(range(count), failing)
    assert done == [item for item in range(count) if item not in failing]
    assert [item for item, _ in pushed_back] == sorted(item for item in failing if item < count)
    assert all(str(why) == "no" for _, why in pushed_back)


@pytest.mark.parametrize(
    "error", [psycopg.OperationalError("away"), psycopg.errors.UndefinedTable("not migrated")]
)
def test_where_waiting_helps_nobody_is_to_blame(error):
    with pytest.raises(psycopg.Error):
        run(range(8), {3}, error)


def test_what_is_deferred_comes_back_after_a_while():
    now = [0.0]
    deferred = Deferred(lambda: now[0])
    deferred.add("a")
    now[0] = DEFERRED_S - 1
    deferred.add("b")
    assert deferred.keys() == ["a", "b"]
    now[0] = DEFERRED_S
    assert deferred.keys() == ["b"]


def test_what_is_deferred_is_bounded():
    deferred = Deferred(lambda: 0.0)
    for number in range(DEFERRED_MAX + 1):
        deferred.add(number)
    assert deferred.keys() == list(range(1, DEFERRED_MAX + 1))


def test_an_error_is_kept_as_one_line_that_can_be_stored():
    assert in_words(ValueError("a\0b\nc")) == "ValueError: a?b"
