"""What a session leaves behind is not the next one's, and a state holds though no line of it can be logged."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from outbox_relay.acknowledgements import Acknowledgements
from outbox_relay.control.table import NOTHING
from outbox_relay.errors import PublishError, UnpublishableError
from outbox_relay.position import Origin
from outbox_relay.row import OutboxRow
from outbox_relay.source import Source, _RestartError
from outbox_relay.source_settings import SourceSettings
from outbox_relay.state import State


def source(read=lambda _: None):
    return Source(SourceSettings("dbname=x", "nowhere:1"), "x", read, threading.Event())


def test_a_row_that_was_quarantined_is_not_quarantined_for_what_ends_the_next_session():
    row = OutboxRow(b"1", b"t", b"k", b"e", b"{}")

    def refused(one):
        acks = Acknowledgements(Origin(b"0", 0, 0))
        one.reading(acks, lambda: None)
        acks.unpublishable(row, 1, "too large")
        acks.advance()

    def no_kafka(_):
        raise PublishError("Kafka begins no transactions")

    sessions = iter([refused, no_kafka])
    made = source(lambda one: next(sessions)(one))
    quarantined = []
    made.quarantine = quarantined.append
    assert made._session()
    with pytest.raises(PublishError, match="Kafka begins no transactions"):
        made._session()
    assert [(type(one), one.row) for one in quarantined] == [(UnpublishableError, row)]


def test_a_state_is_entered_though_it_cannot_be_logged():
    made = source()

    class Full:
        def warning(self, *_, **__):
            raise OSError("no space left on device")

    made._log = Full()
    with pytest.raises(OSError, match="no space"):
        made.enter(State.WAITING, "the database is away")
    assert (made.state, made.reason) == (State.WAITING, "the database is away")


def test_no_session_ends_while_acknowledged_rows_are_to_be_marked():
    made, sessions = source(), []
    acks = Acknowledgements(Origin(b"0", 0, 0))
    made.reading(acks, lambda: None)
    acks.begin(100, 0).rows = 1
    made._one_by_one.begin(acks)
    acks.confirmed_lsn = 100
    made._rotation = SimpleNamespace(is_due=lambda: sessions.append("looked") or True)
    made._publisher = SimpleNamespace(away=None)
    made.begin_again("the outbox has other columns now")
    made.progress(may_restart=False)
    assert made._one_by_one.is_on
    assert sessions == []
    for ended in (
        lambda: setattr(made, "_rotation", None),
        lambda: setattr(made, "_again", False),
        lambda: None,
    ):
        with pytest.raises(_RestartError):
            made.progress()
        ended()
    made.progress()
    assert not made._one_by_one.is_on


def test_rows_are_sent_one_by_one_until_a_rewind_that_was_refused_is_done():
    made = source()
    acks = Acknowledgements(Origin(b"0", 0, 0))
    made.reading(acks, lambda: None)
    acks.begin(100, 0).rows = 1
    made._one_by_one.begin(acks)
    acks.confirmed_lsn = 200
    made.control.orders = replace(NOTHING, rewind=object())
    made.progress()
    assert made._one_by_one.is_on
    made.control.orders = NOTHING
    with pytest.raises(_RestartError):
        made.progress()
    assert not made._one_by_one.is_on
