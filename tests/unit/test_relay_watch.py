"""The thread that looks for what is asked goes on, whatever goes wrong once."""

import threading

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
