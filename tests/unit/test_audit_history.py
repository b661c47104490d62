"""The history of audits: the lock is looked at after the rows, so one that ends in between is looked at again."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import pytest

from operations.audit import history

NOW = datetime(2026, 12, 1, tzinfo=UTC)
NEW, OLD = UUID(int=2), UUID(int=1)
HOLDS = json.dumps({"ok": True, "checks": [], "withdrawals": 0, "outcomes": {}})


def row(audit_id, state):
    result = HOLDS if state == "holds" else None
    return (audit_id, "ada", NOW, NOW if result else None, state, result, None)


@pytest.mark.parametrize(
    ("looks", "is_now"),
    [
        (["running", "interrupted", "holds"], "holds"),
        (["interrupted", "holds"], "holds"),
        (["interrupted", "interrupted"], "interrupted"),
    ],
)
def test_one_that_ends_between_two_looks_is_not_interrupted_though_an_older_one_is(monkeypatch, looks, is_now):
    answers = iter(looks)

    def execute(*_):
        return SimpleNamespace(fetchall=lambda: [row(NEW, next(answers)), row(OLD, "interrupted")])

    monkeypatch.setattr(history.utc, "cursor", lambda _: SimpleNamespace(execute=execute))
    assert [run.state for run in history.history(None, 10)] == [is_now, "interrupted"]
