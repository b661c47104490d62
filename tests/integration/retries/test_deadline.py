"""A deadline counts from the first attempt to pay, and neither from an outage before it nor by another clock."""

import json
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from contracts.events import MoneyDeducted
from processors.saga.status import Status
from tests.conftest import wait_until
from tests.instance import another_instance
from tests.integration.retries.stack import TIMEOUT_S, Retrying

DEADLINE_S = 3.0


def with_a_short_deadline(retrying: Retrying) -> AbstractContextManager[object]:
    """The payment service by itself, instead of the stack's."""
    return another_instance(
        retrying.stack,
        "payment",
        SETTLE_PROVIDER_URL=f"http://127.0.0.1:{retrying.stack.state.http['provider']}",
        SETTLE_PROVIDER_TIMEOUT_S=str(10 * TIMEOUT_S),
        SETTLE_RETRY_BACKOFF_S=json.dumps([0.2] * 20),
        SETTLE_DEADLINE_S=str(DEADLINE_S),
    )


def test_what_waited_out_an_outage_is_paid_and_what_was_tried_for_too_long_is_not(retrying: Retrying):
    retrying.stack.stop_service("payment")
    waited, redriven = retrying.ask(), retrying.ask()

    def deducted_at(status: Status) -> list[datetime]:
        return [step.at for step in status.steps if step.event == MoneyDeducted.__name__]

    def age_s(payment_id) -> float:
        said = deducted_at(retrying.status(payment_id))
        return (datetime.now(UTC) - said[0]).total_seconds() if said else 0.0

    for one in (waited, redriven):
        wait_until(lambda one=one: retrying.status(one), "it is known")
        wait_until(lambda one=one: age_s(one) > 2 * DEADLINE_S, "it is older than the deadline")
    nudged = retrying.settle("nudge", str(redriven))
    assert "republished on account.events: MoneyDeducted" in nudged.stdout
    with with_a_short_deadline(retrying):
        assert {retrying.finished(one).state for one in (waited, redriven)} == {"completed"}
        with retrying.faults(error_share=1, voids=False):
            tried = retrying.ask()
            status = retrying.finished(tried)
    assert (status.state, status.reason) == ("compensated", "deadline")
    assert retrying.at_provider(tried) == ["voided"]
    ((ended_at,),) = retrying.query("payment", "SELECT updated_at FROM payments WHERE payment_id = %s", tried)
    assert (ended_at - deducted_at(status)[0]).total_seconds() > 0.5 * DEADLINE_S
    retrying.stack.start_service("payment")
    retrying.stack.wait_ready("payment")
    retrying.audit()


def test_a_payment_that_only_ever_meets_a_rate_limit_gives_the_money_back_at_its_deadline(retrying: Retrying):
    retrying.stack.stop_service("payment")
    with (
        with_a_short_deadline(retrying),
        retrying.faults(error_share=1, error_status=429, retry_after_s=1, voids=False),
    ):
        payment_id = retrying.ask()
        status = retrying.finished(payment_id)
    assert (status.state, status.reason) == ("compensated", "deadline")
    assert retrying.payment(payment_id)[2] == 0
    assert retrying.at_provider(payment_id) == ["voided"]
    retrying.stack.start_service("payment")
    retrying.stack.wait_ready("payment")
    retrying.audit()
