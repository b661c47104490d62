"""The cleaner hands rows to its own session only, and marks what is published or left."""

import threading
from types import SimpleNamespace
from uuid import UUID

import psycopg
import pytest
from psycopg.sql import SQL

from outbox_relay import cleaner as cleaner_module
from outbox_relay import handled
from outbox_relay import marking as marking_module
from outbox_relay.cleaner import DELETE_ROWS, SUSPECT_ROWS, Cleaner
from outbox_relay.columns import Column
from outbox_relay.errors import StopRequestedError
from outbox_relay.handled import LOOKS_MAX, Handled
from outbox_relay.left_out import LeftOut
from outbox_relay.marking import Marking
from outbox_relay.outbox import OUTBOX, ROLES
from outbox_relay.position import Origin
from outbox_relay.row import Leftover, OutboxRow
from outbox_relay.table import Table
from tests.unit.test_relay_removing import refusing


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


class Rows:
    """A table: how many rows a mark is set on each time it is, and how many have one in the end."""

    def __init__(self, *, marks=0, are_marked=0):
        self.marks, self.are_marked, self.said = marks, are_marked, []

    def execute(self, query, *_, **__):
        self.said.append(query.as_string())
        return SimpleNamespace(rowcount=self.are_marked if "SELECT" in self.said[-1] else self.marks)


@pytest.mark.parametrize(
    ("rows", "looks", "is_searched"),
    [
        (Rows(marks=2, are_marked=2), 1, False),
        (Rows(), LOOKS_MAX, True),
        (Rows(are_marked=1), LOOKS_MAX, True),
        (Rows(are_marked=2), LOOKS_MAX, False),
    ],
    ids=["marked", "not there", "one is not there", "marked before"],
)
def test_rows_that_marking_gives_up_are_searched_for_unless_they_have_a_mark(rows, looks, is_searched):
    source = SimpleNamespace(handled=Handled(uuids=True), left_out=LeftOut())
    source.handled.add(uuids(2))
    source.handled.gather(DELETE_ROWS)
    (chunk,) = source.handled.chunks
    while source.handled.chunks:
        assert not source.left_out.is_outstanding
        marking(source).mark(rows, chunk)
    assert chunk.looks == looks
    assert source.left_out.is_outstanding is is_searched


def test_keys_that_are_forgotten_as_they_are_too_many_are_searched_for(monkeypatch):
    monkeypatch.setattr(handled, "KEYS_MAX", 10)
    cleaner = Cleaner.__new__(Cleaner)
    cleaner._source = SimpleNamespace(handled=Handled(uuids=True), left_out=LeftOut())
    cleaner._handed, cleaner._removing, cleaner._marking = (
        {},
        SimpleNamespace(is_on=False),
        SimpleNamespace(is_on=True),
    )
    cleaner._source.handled.add(uuids(10))
    cleaner._gather()
    assert not cleaner._source.left_out.is_outstanding
    cleaner._source.handled.add(uuids(1))
    cleaner._gather()
    assert cleaner._source.left_out.is_outstanding


LEFT = [Leftover(OutboxRow(key, b"t", b"k", b"e", b"{}"), 0) for key in uuids(2)]


@pytest.mark.parametrize("is_final", [True, False])
def test_rows_count_as_published_only_if_the_operator_says_so(is_final):
    source, rows = SimpleNamespace(handled=Handled(uuids=True)), Rows()
    setting = marking(source)
    setting.leave(LEFT, is_final=is_final)
    source.handled.gather(DELETE_ROWS)
    assert list(source.handled.keys()) == (uuids(2) if is_final else [])
    while setting.left:
        setting.mark_left(rows)
    assert ["'infinity'" in query for query in rows.said] == ([] if is_final else [True])


def test_what_is_left_is_marked_later_where_others_are_in_the_way_and_by_nobody_who_may_not():
    source = SimpleNamespace(handled=Handled(uuids=True), left_out=LeftOut(), warn_once=lambda _: None)
    setting = marking(source)
    setting.leave(LEFT, is_final=False)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        setting.mark_left(refusing(psycopg.errors.LockNotAvailable()))
    assert [list(chunk.keys()) for chunk in setting.left] == [uuids(2)]
    setting.mark_left(refusing(psycopg.errors.InsufficientPrivilege()))
    assert not setting.left
    assert not setting.is_on


def test_what_is_left_beyond_what_is_kept_in_memory_is_searched_for_again(monkeypatch):
    monkeypatch.setattr(marking_module, "KEYS_MAX", 2)
    source = SimpleNamespace(handled=Handled(uuids=True), left_out=LeftOut())
    setting = marking(source)
    setting.leave(LEFT, is_final=False)
    assert not source.left_out.is_outstanding
    setting.leave(LEFT, is_final=False)
    assert len(setting.left) == 1
    assert source.left_out.is_for_marks


def searching(monkeypatch, found, **source):
    """A cleaner whose table has these rows, which are on no topic, and a source; and what is handed over."""
    cleaner, handed = Cleaner.__new__(Cleaner), []
    monkeypatch.setattr(cleaner_module, "dead_since", lambda *_: [])
    monkeypatch.setattr(cleaner_module, "oldest_us", lambda *_: 0)
    monkeypatch.setattr(cleaner_module, "rows_in_order", lambda *_: iter(found))
    topics = SimpleNamespace(look_back_to=lambda _: None, holds=lambda *_: False, close=lambda: None)
    cleaner._source = SimpleNamespace(
        handled=Handled(uuids=True),
        left_out=LeftOut(),
        quarantined={},
        control=SimpleNamespace(orders=SimpleNamespace(skips={})),
        published=lambda *_: topics,
        warn=lambda *_, **__: None,
        **source,
    )
    cleaner._table, cleaner._outbox, cleaner._origin, cleaner._handed = TABLE, OUTBOX, Origin(b"", 0, 1_000), {}
    cleaner._removing = SimpleNamespace(is_on=False, rows_stay=lambda *_: True, end_keeping=lambda: None)
    cleaner._marking = marking(cleaner._source)
    monkeypatch.setattr(cleaner, "_hand_over", handed.extend)
    return cleaner, handed


def test_a_search_takes_in_what_was_acknowledged_since_it_was_found_to_be_due(monkeypatch):
    """Or else it would be found on its topic, and taken for handled twice."""
    keys = uuids(2)
    rows = [(OutboxRow(key, b"t", b"k", b"e", b"{}"), 1) for key in keys]
    cleaner, handed = searching(monkeypatch, rows, settings=SimpleNamespace(initial="all"))
    cleaner._source.handled.add(keys[:1])
    assert cleaner._search(None)
    assert [one.row.id for one in handed] == keys[1:]


@pytest.mark.parametrize(("for_marks", "since_us"), [(True, 1_000), (False, 100)])
def test_where_rows_may_lack_a_mark_alone_what_was_written_before_the_session_counts_as_old(
    monkeypatch, for_marks, since_us
):
    """Before it another relay may have published them, long after this one last saw that nothing was left out."""
    seen = []

    def rule(_settings, now_us, **_):
        seen.append(now_us)
        return SimpleNamespace(wants=lambda *_: True, is_final=False)

    monkeypatch.setattr(cleaner_module.initial, "rule", rule)
    cleaner, _ = searching(monkeypatch, [], settings=SimpleNamespace())
    cleaner._rule = None
    cleaner._source.left_out.look("a", 100, [], is_covered=True)
    cleaner._source.left_out.note(for_marks=for_marks)
    assert cleaner._to_publish(None, LEFT) == LEFT
    assert seen == [since_us]
