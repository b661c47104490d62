"""The thread that looks for what is asked goes on, whatever goes wrong once."""

import threading

import psycopg

from outbox_relay.control import watch
from outbox_relay.control.watch import Watch
from outbox_relay.outbox import OUTBOX


def test_the_watch_goes_on_and_tells_once_what_is_wrong(monkeypatch):
    monkeypatch.setattr(watch, "LOOK_INTERVAL_S", 0.001)
    stop, seen, warned = threading.Event(), threading.Event(), []
    made = Watch("dbname=x", OUTBOX, stop, lambda _: None, warned.append)
    outcomes = iter([ValueError("no such act"), ValueError("no such act"), 7])

    def look(_):
        outcome = next(outcomes, 7)
        if isinstance(outcome, Exception):
            raise outcome
        if made.newest and made.trouble is None:
            seen.set()
        return outcome

    made._with_connection = look
    made.start()
    try:
        assert seen.wait(60)
    finally:
        stop.set()
        made._thread.join(60)
    assert (made.newest, warned) == (7, ["no such act"])


def test_the_watch_tells_when_it_alone_cannot_connect_for_long(monkeypatch):
    """The session's own connection may be there all the while."""
    monkeypatch.setattr(watch, "LOOK_INTERVAL_S", 0.001)
    monkeypatch.setattr(watch, "AWAY_S_MAX", 0.01)
    stop, told, over, warned = threading.Event(), threading.Event(), threading.Event(), []
    made = Watch("dbname=x", OUTBOX, stop, lambda _: None, lambda line: (warned.append(line), told.set()))

    def look(_):
        if not told.is_set():
            raise psycopg.OperationalError("too many clients\nDETAIL: more")
        if made.newest and made.trouble is None:
            over.set()
        return 7

    made._with_connection = look
    made.start()
    try:
        assert told.wait(60)
        assert over.wait(60)
    finally:
        stop.set()
        made._thread.join(60)
    assert warned == ["what is asked of it cannot be read: too many clients\nDETAIL: more"]
