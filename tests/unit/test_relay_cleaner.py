"""The cleaner hands rows to its own session only."""

import threading
from types import SimpleNamespace

import pytest

from outbox_relay.cleaner import Cleaner
from outbox_relay.errors import StopRequestedError
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
