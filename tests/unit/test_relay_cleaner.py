"""The cleaner hands rows to its own session only, and goes on where rows may not be removed."""

import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace
from uuid import UUID

import psycopg
import pytest
from psycopg.sql import SQL

from outbox_relay import cleaner as cleaner_module
from outbox_relay import handled
from outbox_relay.cleaner import DELETE_ROWS, REMOVE_AGAIN_S, SUSPECT_ROWS, Cleaner
from outbox_relay.columns import Column
from outbox_relay.errors import StopRequestedError
from outbox_relay.handled import LOOKS_MAX, Handled
from outbox_relay.left_out import LeftOut
from outbox_relay.marking import Marking
from outbox_relay.outbox import OUTBOX, ROLES
from outbox_relay.position import Origin
from outbox_relay.row import Leftover, OutboxRow
from outbox_relay.table import Table


def test_a_cleaner_whose_session_has_ended_hands_no_rows_to_the_next_one():
    taken = []
    cleaner = Cleaner.__new__(Cleaner)
    cleaner._stop = threading.Event()
    cleaner._stop.set()
    cleaner._handed = {}
    cleaner._table = SimpleNamespace(key=lambda row: row.id)
    cleaner._source = SimpleNamespace(take_leftovers=taken.append)
    with pytest.raises(StopRequestedError):
        cleaner._hand_over([Leftover(OutboxRow(b"1", b"t", b"k", b"e", b"{}"), 0)])
    assert taken == []


def refusing(error):
    """A connection to a database that answers each statement with an error."""

    def execute(*_):
        raise error

    return SimpleNamespace(execute=execute, transaction=nullcontext)


@pytest.mark.parametrize(
    ("remove", "goes_on", "what"),
    [
        (lambda cleaner, connection: cleaner._remove_marked(connection), False, "published rows stay"),
        (
            lambda cleaner, connection: cleaner._remove_dead(connection, OutboxRow(b"1", b"t", b"k", b"e", b"{}")),
            True,
            "a row that is quarantined stays",
        ),
    ],
    ids=["marked rows", "dead rows"],
)
def test_rows_that_may_not_be_removed_stay_and_the_table_is_looked_after_all_the_same(remove, goes_on, what):
    said = []
    cleaner = Cleaner.__new__(Cleaner)
    cleaner._outbox, cleaner._cleans = OUTBOX, True
    cleaner._table = Table(OUTBOX, {role: Column(role, "text") for role in ROLES})
    cleaner._source = SimpleNamespace(warn=said.append, warn_once=said.append)
    remove(cleaner, refusing(psycopg.errors.ForeignKeyViolation("orders refers to it")))
    assert cleaner._cleans is goes_on  # one dead row says nothing of others
    assert said == [f"{what} in public.outbox: orders refers to it"]
    with pytest.raises(psycopg.errors.LockNotAvailable):  # which says nothing
        remove(cleaner, refusing(psycopg.errors.LockNotAvailable("canceling statement due to lock timeout")))


KINDS = {role: Column(role, "uuid" if role == "id" else "text") for role in (*ROLES, "published_at")}
TABLE = Table(OUTBOX, KINDS)


def uuids(count):
    return [str(UUID(int=number)).encode() for number in range(count)]


@pytest.mark.parametrize(
    ("unmarked", "keeps", "may_be"),
    [(SUSPECT_ROWS, True, True), (SUSPECT_ROWS - 1, True, False), (SUSPECT_ROWS, False, False)],
    ids=["more than are looked at", "fewer", "they are looked at again"],
)
def test_a_look_that_does_not_see_all_rows_without_a_mark_does_not_rule_out_one_that_was_left_out(
    unmarked, keeps, may_be
):
    """Though all that it sees are acknowledged, and about to be marked."""
    cleaner = Cleaner.__new__(Cleaner)
    cleaner._outbox, cleaner._table, cleaner._key, cleaner._handed = OUTBOX, TABLE, OUTBOX.sql("{id}"), {}
    cleaner._source = SimpleNamespace(handled=Handled(uuids=True))
    cleaner._source.handled.add(uuids(unmarked))
    seen = SimpleNamespace(execute=lambda *_, **__: [(key,) for key in uuids(unmarked)])
    assert cleaner._has_suspects(seen, keeps=keeps) is may_be


def marking(source, *, is_on=True):
    found = Marking(source, TABLE, OUTBOX.sql("{id}"), SQL("uuid"))
    found.is_on = is_on
    return found


@pytest.mark.parametrize("marked", [0, 2])
def test_rows_that_marking_gives_up_are_searched_for(marked):
    source = SimpleNamespace(handled=Handled(uuids=True), left_out=LeftOut())
    source.handled.add(uuids(2))
    source.handled.gather(DELETE_ROWS)
    (chunk,) = source.handled.chunks
    connection = SimpleNamespace(execute=lambda *_, **__: SimpleNamespace(rowcount=marked))
    while source.handled.chunks:
        assert not source.left_out.is_outstanding
        marking(source).mark(connection, chunk)
    assert chunk.looks == (1 if marked else LOOKS_MAX)
    assert source.left_out.is_outstanding is not bool(marked)


def test_keys_that_are_forgotten_as_they_are_too_many_are_searched_for(monkeypatch):
    monkeypatch.setattr(handled, "KEYS_MAX", 10)
    cleaner = Cleaner.__new__(Cleaner)
    cleaner._source = SimpleNamespace(handled=Handled(uuids=True), left_out=LeftOut())
    cleaner._handed, cleaner._cleans, cleaner._marking = {}, False, SimpleNamespace(is_on=True)
    cleaner._source.handled.add(uuids(10))
    cleaner._gather()
    assert not cleaner._source.left_out.is_outstanding
    cleaner._source.handled.add(uuids(1))
    cleaner._gather()
    assert cleaner._source.left_out.is_outstanding


@pytest.mark.parametrize("is_final", [True, False])
def test_rows_count_as_published_only_if_the_operator_says_so(is_final):
    said = []
    source = SimpleNamespace(handled=Handled(uuids=True))
    connection = SimpleNamespace(
        execute=lambda query, *_, **__: said.append(query.as_string()), transaction=nullcontext
    )
    left = [Leftover(OutboxRow(key, b"t", b"k", b"e", b"{}"), 0) for key in uuids(2)]
    marking(source).leave(connection, left, is_final=is_final)
    source.handled.gather(DELETE_ROWS)
    assert list(source.handled.keys()) == (uuids(2) if is_final else [])
    assert ["'infinity'" in query for query in said] == ([] if is_final else [True])


@pytest.mark.parametrize("keeps_rows", [True, False])
def test_what_the_filling_found_to_stay_is_not_taken_for_unpublished_at_once(monkeypatch, keeps_rows):
    monkeypatch.setattr(cleaner_module, "may_delete", lambda *_: True)
    monkeypatch.setattr(cleaner_module, "may_vacuum", lambda *_: False)
    table = Table(OUTBOX, {role: kind for role, kind in KINDS.items() if role != "published_at"})
    source = SimpleNamespace(name="pay", keeps_rows=keeps_rows, settings=SimpleNamespace(cleanup=True))
    cleaner = Cleaner(source, table, Origin(b"", 0, 0))
    cleaner._stop.set()
    began = time.monotonic()
    cleaner._work(SimpleNamespace())
    assert cleaner._cleans is not keeps_rows
    assert began < cleaner._begin_again_at
    assert (cleaner._begin_again_at < began + 2 * REMOVE_AGAIN_S) is keeps_rows
