"""What a cancellation ends with, whatever the saga service knows of the withdrawal."""

from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import pytest
from typer.testing import CliRunner

from cli import cancel as command
from cli.main import app
from operations import cancel
from operations.accepted import ACCEPTED
from operations.stuck import Silent
from processors.saga.decide import BITS, INCOMPLETE, state_of
from processors.saga.status import Status, Step

ONE = UUID(int=7)
NOW = datetime(2026, 12, 1, tzinfo=UTC)
WAIT_S = 3_600.0
NAMES = {event_type.__name__: bit for event_type, bit in BITS.items()}


def known(*events: str, state: str | None = None, reason: str | None = None) -> Status:
    """A withdrawal with these events; all have the same reason."""
    seen = sum(NAMES[one] for one in events)
    steps = [Step(one, NOW, reason) for one in events]
    state = state or state_of(seen)
    return Status(ONE, state, False, None, steps, None, None, "acc-1", 500, "USD", reason, None, seen)


class Asked:
    """A system that is asked for a cancellation: what is known before, and what after each look from then on."""

    def __init__(self, monkeypatch, before, *after):
        self.now_s, self.requests = 0.0, []
        self._known = [before, *after]
        monkeypatch.setattr(cancel, "time", SimpleNamespace(monotonic=lambda: self.now_s, sleep=self._sleep))

    def _sleep(self, seconds):
        self.now_s += seconds

    def _find(self):
        return self._known.pop(0) if len(self._known) > 1 else self._known[0]

    def cancelled(self):
        return cancel.cancel(self._find, self.requests.append, WAIT_S)


TAKEN = ("BalanceChecked", "MoneyDeducted")


@pytest.mark.parametrize(
    ("events", "reason", "answer"),
    [
        ([*TAKEN, "PaymentProcessed", "NotificationSent"], None, "already_paid"),
        (["PaymentProcessed"], None, "already_paid"),
        (["CancelRefused"], "already_paid", "already_paid"),
        ([*TAKEN, "PaymentFailed"], "declined", "already_failed: declined"),
        ([*TAKEN, "PaymentFailed"], "cancelled", "cancelled"),
        (["WithdrawalRejected"], "insufficient_funds", "rejected: insufficient_funds"),
    ],
)
def test_what_is_decided_is_told_though_the_saga_service_lacks_the_request(monkeypatch, events, reason, answer):
    of = Asked(monkeypatch, known(*events, reason=reason))
    done = of.cancelled()
    assert (done.status.state, done.answer, done.is_recorded, of.requests) == (INCOMPLETE, answer, True, [])


@pytest.mark.parametrize("event", ["CancelRefused", "PaymentProcessed"])
def test_a_decision_without_a_request_is_waited_for(monkeypatch, event):
    before = known(*TAKEN)
    of = Asked(monkeypatch, *[before] * 1_000, known(*TAKEN, event, reason="already_paid"))
    assert of.cancelled().answer == "already_paid"
    assert of.requests == [before]


@pytest.mark.parametrize("before", [None, known(state=ACCEPTED)])
def test_a_withdrawal_that_the_saga_service_never_knows_is_not_decided(monkeypatch, before):
    of = Asked(monkeypatch, before)
    done = of.cancelled()
    assert (done.answer, done.is_recorded, of.requests) == (None, False, [before])
    assert of.now_s >= WAIT_S


@pytest.mark.parametrize("before", [None, known(state=ACCEPTED)])
def test_a_withdrawal_that_becomes_known_is_waited_for_as_any_other(monkeypatch, before):
    asked_for = known("WithdrawalRequested", *TAKEN)
    of = Asked(monkeypatch, before, before, *[asked_for] * 1_000, known("CancelRefused", reason="already_paid"))
    assert of.cancelled().answer == "already_paid"
    assert of.requests == [before]


@pytest.mark.parametrize("status", [None, known(*TAKEN)])
def test_the_wish_for_a_lost_request_has_the_contents_that_the_api_stored(monkeypatch, status):
    stored = Silent(ONE, ACCEPTED, 0, "acc-9", 700, "USD", None, NOW, NOW)
    sent = []
    monkeypatch.setattr(command, "_accepted", lambda *_: stored)
    monkeypatch.setattr(command.settings, "kafka_bootstrap", lambda _: "kafka")
    monkeypatch.setattr("producers.cancel.request_cancel", lambda _, withdrawal, __: sent.append(withdrawal))
    command._request(ONE, status, None)
    assert sent == [stored]


@pytest.mark.parametrize(
    ("status", "what"),
    [
        (
            known(state=ACCEPTED),
            "the saga service does not know the withdrawal; the payment service is asked to void it: unless it is "
            "paid by then, it never is",
        ),
        (known(*TAKEN), "the withdrawal waits for the payment service to pay"),
    ],
)
def test_a_command_tells_what_nobody_will_decide_from_what_is_not_decided_yet(monkeypatch, status, what):
    """A script goes on only where it is known that nothing is paid."""
    answers = {"find": status}
    monkeypatch.setattr("cli.withdrawal._find_by_api", lambda *_: answers["find"])
    monkeypatch.setattr(command, "ask", lambda *_: None)
    monkeypatch.setattr(command, "look", lambda *_, **__: SimpleNamespace(words="the payment service to pay"))
    asked = ["cancel", str(ONE), "--timeout", "0", "--api", "http://127.0.0.1:8000", "--why", "x"]
    done = CliRunner().invoke(app, asked)
    still = "not decided after 0 s, but the request stays in force"
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [f"settle: {still}", f"settle: {what}"]
