"""What `settle stuck`, `status` and `cancel` say where the cause is not in a database."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest
from typer.testing import CliRunner

from cli import hold_up
from cli.main import app
from operations import hold_ups, waits
from operations.hold_ups import Found

ID = UUID(int=1)


@pytest.mark.parametrize(
    ("idle", "unasked", "stdout", "stderr"),
    [
        (set(), {}, "nothing is stuck: every withdrawal has ended", ""),
        ({"payment"}, {}, "nothing is stuck: every withdrawal has ended", ""),
        (
            {"saga"},
            {},
            "nothing is known to be stuck",
            "the saga service does not run: withdrawals",
        ),
        (set(), {"Kafka": TimeoutError("no answer")}, "nothing is known to be stuck", "Kafka could not be asked"),
    ],
    ids=["all run", "another is down", "saga is down", "Kafka is away"],
)
def test_stuck_vouches_only_for_what_the_saga_service_can_have_read(monkeypatch, idle, unasked, stdout, stderr):
    monkeypatch.setattr("operations.stuck.stuck", lambda *_: ([], Found({}, {}, idle, unasked)))
    dsns = {f"SETTLE_{name}_DSN": "postgresql://a@127.0.0.1:1/a" for name in ("ACCOUNT", "PAYMENT", "SAGA")}
    dsns |= {"SETTLE_NOTIFICATION_DSN": "postgresql://a@127.0.0.1:1/a", "SETTLE_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    result = CliRunner().invoke(app, ["stuck"], env=dsns)
    assert result.exit_code == 0
    assert stdout in result.stdout
    assert stderr in result.stderr
    assert bool(result.stderr) == bool(stderr)


def test_who_is_idle_is_known_though_no_withdrawal_is_open(monkeypatch):
    monkeypatch.setattr(hold_ups, "existing_topics", lambda *_: set())
    monkeypatch.setattr(hold_ups, "without_members", lambda _, services, __: set(services))
    found = hold_ups.find({"payment": "not asked"}, "kafka:9092", [])
    assert (found.idle, found.unasked) == ({"saga"}, {})


@pytest.mark.parametrize(("ago_s", "hint"), [(15.0, False), (31.0, True)])
def test_a_withdrawal_that_is_silent_without_a_cause_may_need_a_nudge(monkeypatch, ago_s, hint):
    monkeypatch.setattr(waits, "find", lambda *_: Found({}, {}, set(), {}))
    monkeypatch.setattr(hold_up, "_dsns", lambda _: ({}, {}))
    monkeypatch.setattr(hold_up.settings, "kafka_bootstrap", lambda _: "kafka:9092")
    step = SimpleNamespace(at=datetime.now(UTC) - timedelta(seconds=ago_s))
    status = SimpleNamespace(steps=[step], account_id="a", seen=1, waiting_for="the payment service to pay")
    words = hold_up.look(ID, status, None).words
    assert words.startswith("the payment service to pay")
    assert (f"`settle nudge {ID}`" in words) == hint
