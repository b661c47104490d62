"""A table that keeps its rows is searched when rows may have been left out, as often as it takes."""

from types import SimpleNamespace

import pytest

from outbox_relay import left_out as left_out_module
from outbox_relay.left_out import LeftOut


@pytest.fixture(autouse=True)
def without_rest(monkeypatch):
    monkeypatch.setattr(left_out_module, "RESTS", 0)


def running(oldest, following):
    """A database whose running transactions are these."""
    return SimpleNamespace(execute=lambda _: SimpleNamespace(fetchone=lambda: (oldest, following)))


def test_nothing_is_searched_for_until_something_is_noted():
    left_out = LeftOut()
    assert not left_out.is_due(running(7, 7))
    left_out.note()
    assert left_out.is_due(running(7, 7))
    left_out.searched(is_complete=True)
    assert not left_out.is_due(running(7, 7))


def test_it_is_searched_once_more_when_the_transactions_have_ended_that_ran_then():
    left_out = LeftOut()
    left_out.note()
    assert left_out.is_due(running(5, 9))
    left_out.searched(is_complete=True)
    assert not left_out.is_due(running(8, 20))
    assert left_out.is_due(running(9, 20))
    left_out.searched(is_complete=True)
    assert not left_out.is_due(running(20, 20))


def test_a_search_that_is_not_complete_or_that_is_noted_meanwhile_is_repeated():
    left_out = LeftOut()
    left_out.note()
    assert left_out.is_due(running(7, 7))
    left_out.searched(is_complete=False)
    assert left_out.is_due(running(7, 7))
    left_out.note()
    left_out.searched(is_complete=True)
    assert left_out.is_due(running(7, 7))
    left_out.searched(is_complete=True)
    assert not left_out.is_due(running(7, 7))


@pytest.mark.parametrize("covered", [True, False])
def test_what_was_left_out_is_no_older_than_the_last_look_at_which_nothing_was(covered):
    left_out = LeftOut()
    assert not left_out.look("a", 100, [], is_covered=covered)
    assert left_out.look("b", 200, [], is_covered=True)
    left_out.note()
    assert not left_out.look("b", 300, [], is_covered=True)
    left_out.note()
    assert left_out.since_us == (100 if covered else None)
    left_out.clear()
    left_out.note()
    assert left_out.since_us == 300


def found_again(slot_lsn):
    """What is left out of a slot that was read up to 7, when it is found at a position."""
    left_out = LeftOut()
    left_out.read_lsn = 7
    left_out.look("a", 100, [], is_covered=True)
    left_out.note()
    left_out.forget_times(slot_lsn)
    return left_out


@pytest.mark.parametrize("slot_lsn", [None, 8])
def test_when_all_was_well_last_says_nothing_once_another_relay_has_read(slot_lsn):
    left_out = found_again(slot_lsn)
    assert left_out.since_us is None
    assert left_out.is_outstanding
    left_out.clear()
    assert left_out.look("b", 200, [], is_covered=False)  # that it was changed is seen all the same
    left_out.note()
    assert left_out.since_us is None


@pytest.mark.parametrize("slot_lsn", [6, 7])
def test_when_all_was_well_last_is_known_after_an_outage_in_which_nobody_else_has_read(slot_lsn):
    left_out = found_again(slot_lsn)
    assert left_out.since_us == 100


def test_a_search_that_somebody_waits_for_does_not_rest(monkeypatch):
    monkeypatch.setattr(left_out_module, "RESTS", 1e9)
    left_out = LeftOut()
    assert not left_out.is_outstanding
    left_out.note()
    assert left_out.is_due(running(7, 7))
    left_out.searched(is_complete=False)
    assert left_out.is_outstanding
    assert left_out.rests
    assert not left_out.is_due(running(7, 7))
    left_out.end_rest()
    assert left_out.is_due(running(7, 7))
    left_out.searched(is_complete=True)
    assert not left_out.is_outstanding


def test_what_was_left_out_is_as_old_as_the_transactions_that_ran_at_the_last_look_at_which_nothing_was():
    """A row bears the time at which its transaction began."""
    left_out = LeftOut()
    left_out.look("a", 100, [], is_covered=True)
    left_out.look("a", 200, ["3/1"], is_covered=True)
    left_out.look("a", 300, ["3/1", "4/1"], is_covered=True)
    left_out.look("b", 400, ["3/1", "4/1"], is_covered=False)
    left_out.note()
    assert left_out.since_us == 100
    left_out.clear()
    left_out.look("b", 500, ["4/1"], is_covered=True)
    left_out.note()
    assert left_out.since_us == 200
    left_out.clear()
    left_out.look("b", 600, ["3/2"], is_covered=True)
    left_out.note()
    assert left_out.since_us == 500


def test_when_what_was_left_out_was_written_is_not_known_while_a_transaction_of_the_first_look_runs():
    left_out = LeftOut()
    for at_us in (100, 200):
        left_out.look("a", at_us, ["3/1"], is_covered=True)
        left_out.note()
        assert left_out.since_us is None
        left_out.clear()
    left_out.look("a", 300, [], is_covered=True)
    left_out.note()
    assert left_out.since_us == 300


def test_a_search_is_for_marks_alone_as_long_as_nothing_else_calls_for_one():
    left_out = LeftOut()
    assert not left_out.is_for_marks
    left_out.note(for_marks=True)
    assert left_out.is_for_marks
    left_out.note()
    left_out.note(for_marks=True)
    assert not left_out.is_for_marks
    assert left_out.is_due(running(7, 7))
    left_out.searched(is_complete=True)
    left_out.note(for_marks=True)
    assert left_out.is_for_marks
    left_out.clear()
    assert not left_out.is_for_marks
