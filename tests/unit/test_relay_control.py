"""What is asked of a source is noticed whatever its session waits for."""

import threading
import time
from datetime import datetime
from functools import partial
from types import SimpleNamespace

import pytest

from outbox_relay.acknowledgements import Acknowledgements
from outbox_relay.columns import Column
from outbox_relay.control import acts, control, skips
from outbox_relay.control.acts import Asked
from outbox_relay.control.control import Control
from outbox_relay.control.table import REFUSED, Orders
from outbox_relay.errors import RefusedError
from outbox_relay.outbox import OUTBOX, ROLES
from outbox_relay.pgoutput import Begin, Commit
from outbox_relay.position import Origin
from outbox_relay.row import OutboxRow
from outbox_relay.source_settings import SourceSettings
from outbox_relay.table import Table
from outbox_relay.wal import Forwarder
from tests.unit.forwarded import undisturbed


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(control, "REST_LOOK_S", 0.01)
    return Control(SourceSettings("dbname=x", "nowhere:1"), "x", threading.Event(), lambda: None)


def test_a_wait_ends_once_something_new_is_asked(made):
    assert not made.is_called
    began = time.monotonic()
    threading.Timer(0.1, lambda: setattr(made._watch, "newest", 7)).start()
    made.rest(300)
    assert 0.05 < time.monotonic() - began < 100
    assert made.is_called
    made.orders = Orders(newest=7)
    assert not made.is_called


def test_a_wait_ends_with_the_relay(made):
    threading.Timer(0.1, made._stop.set).start()
    began = time.monotonic()
    made.rest(300)
    assert time.monotonic() - began < 100


@pytest.mark.parametrize("why", [None, "", "   "])
def test_a_reason_is_asked_for(why):
    with pytest.raises(RefusedError, match=r"a reason is needed|a line of text"):
        Asked("somebody", why).with_reason()


@pytest.mark.parametrize("text", ["x" * 501, "two\nlines", "\x00", "\x1b[0m", "\u202e"])
def test_who_and_why_are_lines_of_text(text):
    for one in (("who", text), (text, "why")):
        with pytest.raises(RefusedError):
            Asked(*one)


@pytest.mark.parametrize(
    "since",
    ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-10:00", "1969-12-31T23:59:59Z", "2026-11-28T10:00:00"],
)
def test_a_rewind_to_a_time_that_no_row_can_be_of_or_without_a_zone_is_refused(since):
    source = SourceSettings("dbname=x", "nowhere:1")
    with pytest.raises(RefusedError, match=r"not between 1970-01-01 and 9998-12-31|has no zone"):
        acts.rewind(source, Asked("somebody", "why"), since=datetime.fromisoformat(since))


class Stream:
    """The log as far as it has come: messages are what the decoder makes of them."""

    reply_requested = False

    def __init__(self, events, wal_end):
        self.events, self.wal_end, self.confirmed, self.waits = events, wal_end, [], 0

    def messages(self):
        while self.events:
            yield self.events.pop(0)

    def wait(self, _):
        self.waits += 1
        assert self.waits < 100, "it goes on for ever"
        return True

    def confirm(self, lsn, *, request_reply=False):
        self.confirmed.append(lsn)


@pytest.mark.parametrize("wal_end", [0, 150, 900], ids=["no keepalive", "an old one", "a later one"])
def test_a_session_that_rewinds_reads_up_to_its_snapshot_and_confirms_nothing_beyond(wal_end):
    before, after = (OutboxRow(b"%d" % n, b"t", b"k", b"e", b"{}") for n in (1, 2))
    stream = Stream([Begin(100, 0), before, Commit(110), Begin(200, 0), after, Commit(210)], wal_end)
    source = undisturbed()
    publisher = SimpleNamespace(poll=lambda: None, push=lambda _: None, answered=lambda: None, waiting=0)
    published = []

    def publish(row, _, delivered):
        published.append(row)
        delivered(None, None)

    acks = Acknowledgements(Origin(b"0", 90, 0))
    decoder = SimpleNamespace(decode=lambda event: event, incomplete=None, has_uuids=True)
    Forwarder(stream, decoder, acks, publisher, publish, publish, source, until_lsn=200).run()
    assert published == [before]
    assert acks.confirmed_lsn == 200
    assert max(stream.confirmed) == 200


def test_a_skip_is_not_late_before_a_kept_table_has_been_searched_for_its_row(monkeypatch):
    answered = []
    monkeypatch.setattr(skips, "answer", lambda *about: answered.append(about[2:]))
    open_ = {b"1": SimpleNamespace(position=100, number=7)}
    late = partial(skips.answer_late, None, OUTBOX, open_, None, 100, keeps=True, polls=False)
    late(searches=True)
    assert (answered, list(open_)) == ([], [b"1"])
    late(searches=False)
    assert (answered, open_) == ([(7, REFUSED, skips.TOO_LATE)], {})


def test_while_the_row_of_a_skip_is_there_nothing_is_asked_but_whether_it_is(made, monkeypatch):
    asked, answered, is_there = [], [], [True, True, False]

    def execute(query, *_):
        asked.append(query.as_string(None))
        return SimpleNamespace(fetchone=lambda: (is_there.pop(0),))

    monkeypatch.setattr(skips, "answer", lambda *about: answered.append(about[2:]))
    columns = {role: Column(role, "text") for role in ROLES}
    made._reading = lambda: (Table(OUTBOX, columns), 100, False, False)
    made.orders = Orders(skips={b"1": SimpleNamespace(position=100, number=7)})
    while is_there:
        made._tend(SimpleNamespace(execute=execute))
    assert len(asked) == 3
    assert all(query.startswith("SELECT count(*) > 0") for query in asked)
    assert answered == [(7, REFUSED, skips.TOO_LATE)]
