"""What an open page of stuck withdrawals says of a row that is on the list no more."""

from datetime import UTC, datetime

import msgspec
import pytest
from uuid_utils.compat import uuid7

from api.console.stuck import View, _fragments
from api.stuck import StuckWithdrawals

NOTHING = StuckWithdrawals([], [], {}, datetime(2026, 12, 1, tzinfo=UTC))
UNASKED = msgspec.structs.replace(NOTHING, unasked={"Kafka": "does not answer"})


@pytest.mark.parametrize(
    ("found", "state", "has_moved", "has_state"),
    [
        (NOTHING, "completed", True, True),
        (NOTHING, None, True, False),  # its dead letter was discarded, or its request has just been published
        (UNASKED, None, False, False),
    ],
)
def test_a_row_that_is_gone_has_moved_unless_not_everything_could_be_asked(found, state, has_moved, has_state):
    payment_id = uuid7()
    states = {payment_id: state} if state is not None else {}
    shown = _fragments(View(60.0, 50, frozenset({payment_id})), found, states)
    assert ("It has moved" in shown.get(f"waits-{payment_id}", "")) == has_moved
    assert (f"state-{payment_id}" in shown) == has_state
