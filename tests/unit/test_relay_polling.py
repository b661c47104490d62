"""A poller removes the rows that it has marked, says if they stay, and looks for none where none were marked."""

import time
from types import SimpleNamespace

import pytest

from outbox_relay import polling
from outbox_relay.columns import Column
from outbox_relay.outbox import OUTBOX, ROLES
from outbox_relay.polling import REMOVE_ROWS
from outbox_relay.removal import IGNORED
from outbox_relay.table import Table

TABLE = Table(OUTBOX, {role: Column(role, "text") for role in (*ROLES, "published_at")})


class Database:
    """An outbox of rows that are marked, by their places.

    Args:
        rows: how many are there.
        ignored: how many of them, the first ones, a trigger keeps there.
        others: whether another session removes those that are found, before the poller does.
    """

    def __init__(self, rows, ignored=0, *, others=False):
        self.rows = [f"(0,{number})" for number in range(rows)]
        self.kept = set(self.rows[:ignored])
        self.others = others
        self.looked = 0

    def execute(self, query, values=None):
        text = query.as_string(None).strip()
        if "has_table_privilege" in text:
            return SimpleNamespace(fetchone=lambda: (True,))
        if "LIMIT" in text:
            self.looked += 1
            found = [(1, place) for place in self.rows[: values[0]]]
            if self.others:
                self.rows = []
            return SimpleNamespace(fetchall=lambda: found)
        there = set(values[1]).intersection(self.rows)
        if text.startswith("DELETE"):
            there -= self.kept
            self.rows = [place for place in self.rows if place not in there]
        return SimpleNamespace(rowcount=len(there))


def poller(database):
    """One that has polled, and what it warns of."""
    worker = polling._Worker.__new__(polling._Worker)
    worker._connection, worker._outbox = database, OUTBOX
    worker._marked = OUTBOX.sql(polling._MARKED, mine=TABLE.mine)
    worker._may_be_marked, worker._kept_until = True, 0.0
    said = []
    worker._source = SimpleNamespace(warn_once=said.append, removed_rows=0)
    return worker, said


def test_rows_that_are_marked_are_removed_and_looked_for_only_once_more_are():
    database = Database(REMOVE_ROWS + 1)
    worker, said = poller(database)
    assert [worker.remove() for _ in range(5)] == [True, False, False, False, False]
    assert (database.rows, database.looked, said) == ([], 2, [])
    assert worker._source.removed_rows == REMOVE_ROWS + 1


@pytest.mark.parametrize(("ignored", "looks"), [(1, 3), (REMOVE_ROWS, 1)])
def test_rows_that_a_trigger_keeps_are_told_once_and_tried_again_later(ignored, looks, monkeypatch):
    """Those that it lets go are removed first, with one poll after another."""
    database = Database(REMOVE_ROWS + 5, ignored)
    worker, said = poller(database)
    assert [worker.remove() for _ in range(5)] == [False] * 5
    assert said == [f"published rows stay in public.outbox: {IGNORED}"]
    assert (database.looked, worker._source.removed_rows) == (
        looks,
        REMOVE_ROWS + 5 - ignored if ignored == 1 else 0,
    )
    database.kept = set()
    later = time.monotonic() + polling.REMOVE_AGAIN_S
    monkeypatch.setattr(polling, "time", SimpleNamespace(monotonic=lambda: later))
    while worker.remove():
        pass
    assert (database.rows, len(said)) == ([], 1)


def test_rows_that_another_session_removes_first_are_no_sign_of_a_trigger():
    worker, said = poller(Database(3, others=True))
    assert not worker.remove()
    assert said == []
