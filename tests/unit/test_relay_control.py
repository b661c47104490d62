"""What is asked of a source is noticed whatever its session waits for."""

import threading
import time

import pytest

from outbox_relay.control import control
from outbox_relay.control.acts import Asked
from outbox_relay.control.control import Control
from outbox_relay.control.table import Orders
from outbox_relay.errors import RefusedError
from outbox_relay.source_settings import SourceSettings


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(control, "REST_LOOK_S", 0.01)
    return Control(SourceSettings("dbname=x", "nowhere:1"), "x", threading.Event(), lambda: None)


def test_a_wait_ends_once_something_new_is_asked(made):
    assert not made.is_called
    began = time.monotonic()
    threading.Timer(0.1, lambda: setattr(made._watch, "newest", 7)).start()
    made.rest(30)
    assert 0.05 < time.monotonic() - began < 10
    assert made.is_called
    made.orders = Orders(newest=7)
    assert not made.is_called


def test_a_wait_ends_with_the_relay(made):
    threading.Timer(0.1, made._stop.set).start()
    began = time.monotonic()
    made.rest(30)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("why", [None, "", "   "])
def test_a_reason_is_asked_for(why):
    with pytest.raises(RefusedError, match=r"a reason is needed|a line of text"):
        Asked("somebody", why).with_reason()


@pytest.mark.parametrize("text", ["x" * 501, "two\nlines", "\x00", "\x1b[0m", "\u202e"])
def test_who_and_why_are_lines_of_text(text):
    for one in (("who", text), (text, "why")):
        with pytest.raises(RefusedError):
            Asked(*one)
