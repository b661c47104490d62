"""The cleaner hands rows to its own session only, and goes on where rows may not be removed."""

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import psycopg
import pytest

from outbox_relay.cleaner import Cleaner
from outbox_relay.columns import Column
from outbox_relay.errors import StopRequestedError
from outbox_relay.outbox import OUTBOX, ROLES
from outbox_relay.row import Leftover, OutboxRow


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
    "remove",
    [
        lambda cleaner, connection: cleaner._remove_marked(connection),
        lambda cleaner, connection: cleaner._remove_dead(connection, OutboxRow(b"1", b"t", b"k", b"e", b"{}")),
    ],
    ids=["marked rows", "dead rows"],
)
def test_rows_that_may_not_be_removed_stay_and_the_table_is_looked_after_all_the_same(remove):
    said = []
    cleaner = Cleaner.__new__(Cleaner)
    cleaner._outbox, cleaner._cleans = OUTBOX, True
    cleaner._table = SimpleNamespace(columns={role: Column(role, "text") for role in ROLES})
    cleaner._source = SimpleNamespace(warn=said.append)
    remove(cleaner, refusing(psycopg.errors.ForeignKeyViolation("orders refers to it")))
    assert not cleaner._cleans
    assert said == ["published rows stay in public.outbox: orders refers to it"]
    with pytest.raises(psycopg.errors.LockNotAvailable):  # which says nothing
        remove(cleaner, refusing(psycopg.errors.LockNotAvailable("canceling statement due to lock timeout")))
