"""What the page of an audit says of each state."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from api.console.audit import _shown
from operations.audit.history import AuditRun
from operations.audit.run import Audit, Check

AT = datetime(2026, 11, 30, 2, 15, tzinfo=UTC)
ID = UUID("01a20aeb-4358-716a-b291-9134760df1f7")


def run(state, result=None, error=None) -> AuditRun:
    took = timedelta(seconds=2.5) if state in ("holds", "does not hold", "failed") else None
    return AuditRun(ID, "o<b>ps", AT, AT + took if took else None, state, result, error)


FOUND = Audit(
    False, [Check("balances", False, "acc-1: off by 7"), Check("gaps", True, "none")], 1, {"paid": 1}, {"saga": 2}
)


@pytest.mark.parametrize(
    ("audit", "words"),
    [
        (None, ["No audit has run yet"]),
        (run("running"), ["It runs, for", "The one before took", "1.5 s"]),
        (run("holds", Audit(True, [], 0, {})), ["It holds: no cent is lost or doubled", "2.5 s"]),
        (
            run("does not hold", FOUND),
            [
                "1 of 2 checks found something",
                'href="/console/accounts/acc-1"',
                "off by 7",
                "open dead letters of saga",
            ],
        ),
        (run("failed", error="Kafka <i>is away"), ["could not look at everything", "Kafka &lt;i&gt;is away"]),
        (run("interrupted"), ["It was interrupted", "says nothing about the money"]),
    ],
)
def test_each_state_has_its_words(audit, words):
    said = _shown(audit, 1_500.0)
    for one in words:
        assert one in said
    assert ("data-running" in said) == (audit is not None and audit.state == "running")
    assert "<b>ps" not in said
    assert "<i>is" not in said
