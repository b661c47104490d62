"""Published rows are removed as long as the table lets them go; what could not be is not taken for unpublished."""

import time
from contextlib import nullcontext
from types import SimpleNamespace
from uuid import UUID

import psycopg
import pytest
from psycopg.sql import SQL

from outbox_relay import removing as removing_module
from outbox_relay.columns import Column
from outbox_relay.handled import LOOKS_MAX, Handled
from outbox_relay.left_out import LeftOut
from outbox_relay.outbox import OUTBOX, ROLES
from outbox_relay.removal import IGNORED
from outbox_relay.removing import Removing
from outbox_relay.row import Leftover, OutboxRow
from outbox_relay.table import Table

PAUSE_S = 600.0
TABLE = Table(
    OUTBOX, {role: Column(role, "uuid" if role == "id" else "text") for role in (*ROLES, "published_at")}
)
DEAD = OutboxRow(b"1", b"t", b"k", b"e", b"{}")
KEYS = [str(UUID(int=number)).encode() for number in range(2)]
ROWS = [Leftover(OutboxRow(key, b"t", b"k", b"e", b"{}"), 0) for key in KEYS]


@pytest.fixture(autouse=True)
def _with_rights(monkeypatch):
    monkeypatch.setattr(removing_module, "may_delete", lambda *_: True)


def refusing(error):
    """A database that answers each statement with an error."""

    def execute(*_, **__):
        raise error

    return SimpleNamespace(execute=execute, transaction=nullcontext)


def removed(*counts):
    """A database that affects or finds so many rows, one statement after the other."""
    answers = iter(counts)

    def execute(*_, **__):
        count = next(answers)
        return SimpleNamespace(rowcount=count, fetchone=lambda: (count > 0,))

    return SimpleNamespace(execute=execute, transaction=nullcontext)


def source(**given):
    said = []
    found = {
        "name": "pay",
        "settings": SimpleNamespace(cleanup=True),
        "keeps_rows": False,
        "kept_until": 0.0,
        "removed_rows": 0,
        "handled": Handled(uuids=True),
        "left_out": LeftOut(),
        "warn_once": said.append,
        "said": said,
    }
    return SimpleNamespace(**(found | given))


def removing(one, connection=None):
    found = Removing(one, TABLE, OUTBOX.sql("{id}"), SQL("uuid"), PAUSE_S)
    found.begin(connection)
    return found


def chunk_of(one):
    one.handled.add(KEYS)
    one.handled.gather(10)
    return one.handled.chunks[0]


@pytest.mark.parametrize(
    ("remove", "goes_on", "what"),
    [
        (lambda one, connection: one.remove_marked(connection, 10), False, "published rows stay"),
        (lambda one, connection: one.remove_dead(connection, DEAD), True, "a row that is quarantined stays"),
    ],
    ids=["marked rows", "dead rows"],
)
def test_rows_that_may_not_be_removed_stay_and_the_table_is_looked_after_all_the_same(remove, goes_on, what):
    one = source()
    is_on = removing(one)
    remove(is_on, refusing(psycopg.errors.ForeignKeyViolation("orders refers to it")))
    assert is_on.is_on is goes_on  # one dead row says nothing of others
    assert one.keeps_rows is not goes_on
    assert one.said == [f"{what} in public.outbox: orders refers to it"]
    with pytest.raises(psycopg.errors.LockNotAvailable):  # which says nothing
        remove(is_on, refusing(psycopg.errors.LockNotAvailable("canceling statement due to lock timeout")))


def test_a_dead_row_that_somebody_else_removes_ends_no_search():
    one = source()
    removing(one).remove_dead(refusing(psycopg.errors.SerializationFailure("concurrent delete")), DEAD)
    assert one.said == []


@pytest.mark.parametrize(
    ("answers", "gone", "stay"),  # by turns whether there are any, and how many went
    [
        ((0,), 0, False),
        ((1, 10, 1, 3, 0), 13, False),
        ((1, 10, 1, 0, 1), 10, True),
        ((1, 0, 1), 0, True),
        ((1, 0, 0), 0, False),
    ],
    ids=["there are none", "all go", "some are ignored", "all are", "somebody else was first"],
)
def test_marked_rows_that_a_trigger_ignores_are_told_of_and_removal_is_tried_later(answers, gone, stay):
    one = source()
    is_on = removing(one)
    is_on.remove_marked(removed(*answers), 10)
    assert is_on.is_on is not stay
    assert one.removed_rows == gone
    assert one.said == ([f"published rows stay in public.outbox: {IGNORED}"] if stay else [])


def test_rows_whose_removal_is_ignored_are_kept_to_be_marked():
    one = source()
    is_on = removing(one)
    chunk = chunk_of(one)
    for _ in range(LOOKS_MAX):
        assert is_on.is_on
        is_on.remove(removed(0, 1), chunk)
    assert not is_on.is_on
    assert one.handled.chunks == (chunk,)
    assert (chunk.missing, chunk.looks) == (2, 0)


@pytest.mark.parametrize("keeps_rows", [True, False])
def test_what_the_filling_found_to_stay_is_not_tried_again_at_once(keeps_rows):
    began = time.monotonic()
    one = source(keeps_rows=keeps_rows)
    assert removing(one).is_on is not keeps_rows
    assert (began + PAUSE_S <= one.kept_until) is keeps_rows


def test_the_pause_does_not_begin_anew_with_each_session():
    one = source(keeps_rows=True)
    first = removing(one)
    assert not first.is_due
    assert not removing(one).is_on
    one.kept_until -= PAUSE_S
    assert first.is_due
    assert removing(one).is_on


def test_a_refusal_is_told_and_searched_after_and_what_stayed_may_be_published_from_then_on():
    one = source()
    is_on = removing(one)
    is_on.remove(refusing(psycopg.errors.RaiseException("append only")), chunk_of(one))
    assert one.left_out.is_outstanding  # until then whatever was there was looked for
    assert not one.left_out.is_for_marks
    assert not is_on.is_on
    one.left_out.clear()
    one.kept_until -= PAUSE_S
    again = removing(one)
    assert again.is_on
    assert again.rows_stay(None, ROWS)  # which is not tried out any more
    again.remove(removed(2), one.handled.chunks[0])
    assert one.left_out.is_for_marks  # what stayed may be on its topic
    assert again.rows_stay(None, ROWS)
    again.end_keeping()
    assert not one.keeps_rows


def test_what_cannot_be_removed_keeps_counting_as_such_until_it_can():
    one = source()
    is_on = removing(one)
    is_on.remove(refusing(psycopg.errors.RaiseException("append only")), chunk_of(one))
    is_on.end_keeping()
    assert one.keeps_rows


@pytest.mark.parametrize(("table", "rows"), [(True, None), (False, "append only"), (False, None)])
def test_rows_are_tried_out_with_the_oldest_and_newest_of_the_table_too(monkeypatch, table, rows):
    monkeypatch.setattr(removing_module, "rows_stay", lambda *_, **__: table)
    monkeypatch.setattr(removing_module, "why_rows_stay", lambda *_: rows)
    one = source()
    assert removing(one).rows_stay(None, ROWS) is bool(table or rows)
    assert one.left_out.is_outstanding is bool(table or rows)
