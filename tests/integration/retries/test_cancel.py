"""Whoever cancels, and whenever: a withdrawal is paid once or refunded, and never both."""

import pytest
from uuid_utils.compat import uuid7

from producers.cancel import request_cancel
from producers.requests import new_request
from tests.conftest import OPENING_MINOR, wait_until
from tests.instance import another_instance
from tests.integration.retries.stack import PATIENT_S, TIMEOUT_S, Retrying, race


def test_a_deadline_that_passes_gives_the_money_back(retrying: Retrying):
    with retrying.faults(error_share=1, voids=False):
        payment_id = retrying.ask()
        retrying.waiting(payment_id)
        retrying.query(
            "payment", "UPDATE payments SET deadline_at = now() WHERE payment_id = %s RETURNING 1", payment_id
        )
        retrying.due_now(payment_id)
        status = retrying.finished(payment_id)
    assert (status.state, status.reason) == ("compensated", "deadline")
    assert retrying.at_provider(payment_id) == ["voided"]


@pytest.mark.parametrize(("amount", "currency"), [("100.00", "USD"), ("100", "JPY"), ("1.234", "KWD")])
def test_cancelling_gives_the_money_back_and_says_so(retrying: Retrying, amount, currency):
    account = retrying.open_account(currency=currency)
    with retrying.faults(error_share=1, voids=False):
        payment_id = retrying.client.request(account, amount, currency=currency).payment_id
        retrying.waiting(payment_id)
        assert f" {amount} {currency} " in retrying.settle("stuck", "--older-than", "0").stdout
        done = retrying.settle("cancel", str(payment_id), "--timeout", f"{PATIENT_S:g}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"cancelled: {amount} {currency} ")
    status = retrying.finished(payment_id)
    assert (status.state, status.reason) == ("compensated", "cancelled")
    assert retrying.balance(account) == OPENING_MINOR
    again = retrying.settle("cancel", str(payment_id))
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"settle: withdrawal {payment_id} is finished: compensated (cancelled)\n"


def test_cancelling_what_is_paid_or_unknown_says_so(retrying: Retrying):
    payment_id = retrying.ask()
    retrying.finished(payment_id)
    done = retrying.settle("cancel", str(payment_id))
    assert (done.returncode, done.stderr) == (2, f"settle: withdrawal {payment_id} is finished: completed\n")
    unknown = retrying.told("cancel", str(uuid7()))
    assert unknown.returncode == 2
    assert unknown.stderr.count("\n") == 1
    assert "no withdrawal" in unknown.stderr


def test_a_cancellation_after_the_payment_is_refused_once_and_the_story_says_why(retrying: Retrying):
    payment_id = retrying.ask()
    status = retrying.finished(payment_id)
    for _ in range(3):
        request_cancel(retrying.bootstrap, status)
    wait_until(lambda: "CancelRefused" in retrying.events(payment_id), "the refusal")
    retrying.audit()
    refusals = [s.reason for s in retrying.status(payment_id).steps if s.event == "CancelRefused"]
    assert refusals == ["already_paid"]
    assert retrying.status(payment_id).state == "completed"


def test_a_cancellation_before_its_deduction_is_remembered(retrying: Retrying):
    wish = new_request(retrying.open_account(), amount_minor=10_000)
    request_cancel(retrying.bootstrap, wish)
    wait_until(lambda: retrying.payment(wish.payment_id), "the cancellation is known")
    assert retrying.payment(wish.payment_id)[0] == "awaited"
    retrying.audit()
    retrying.send_request(wish)
    status = retrying.finished(wish.payment_id)
    assert (status.state, status.reason) == ("compensated", "cancelled")
    assert retrying.at_provider(wish.payment_id) == ["voided"]


def test_a_cancellation_of_something_else_does_not_stand_in_the_way(retrying: Retrying):
    wish = new_request(retrying.open_account(), amount_minor=10_000)
    other = new_request(wish.account_id, amount_minor=1, payment_id=wish.payment_id)
    request_cancel(retrying.bootstrap, other)
    wait_until(lambda: retrying.payment(wish.payment_id), "the cancellation is known")
    retrying.send_request(wish)
    assert retrying.finished(wish.payment_id).state == "completed"
    retrying.audit()


def test_a_success_that_comes_after_the_cancellation_pays_nothing(retrying: Retrying):
    account = retrying.open_account()
    # No charge gets through for a minute: we stop waiting, cancel, and only then one reaches the provider.
    with retrying.faults(delay_s=60, voids=False):
        payment_id = retrying.client.request(account, "100.00").payment_id
        wait_until(lambda: retrying.payment(payment_id), "the first attempt has timed out")
        request_cancel(
            retrying.bootstrap, wait_until(lambda: retrying.status(payment_id), "the saga service knows of it")
        )
        status = retrying.finished(payment_id)
        assert (status.state, status.reason) == ("compensated", "cancelled")
    assert retrying.charge(status) == "voided"
    assert retrying.at_provider(payment_id) == ["voided"]
    assert retrying.balance(account) == OPENING_MINOR
    retrying.audit()


def test_a_thousand_cancellations_race_their_payments_and_none_is_both_paid_and_refunded(retrying: Retrying):
    """Two instances of the payment service, a provider that is slow, silent and out of order at times."""
    count = 1_000
    accounts = [retrying.open_account(1_000_000_00) for _ in range(20)]
    second = another_instance(
        retrying.stack,
        "payment",
        SETTLE_PROVIDER_URL=f"http://127.0.0.1:{retrying.stack.state.http['provider']}",
        SETTLE_PROVIDER_TIMEOUT_S=str(TIMEOUT_S),
        SETTLE_RETRY_BACKOFF_S="[0.2, 0.4]",
    )
    with second, retrying.faults(error_share=0.05, silent_share=0.005):
        wishes = [new_request(accounts[n % 20], amount_minor=100) for n in range(count)]
        race(retrying, wishes)
        ids = [wish.payment_id for wish in wishes]

        def unfinished() -> int:
            # The second instance gives up sooner; what waits for the long pause of the first need not.
            retrying.query(
                "payment",
                """UPDATE payments SET next_attempt_at = now() WHERE status = 'pending' AND claim IS NULL
                AND next_attempt_at > now() + interval '2 s' RETURNING 1""",
            )
            rows = retrying.query(
                "saga",
                "SELECT count(*) FROM withdrawals WHERE finished_at IS NOT NULL AND payment_id = ANY(%s)",
                ids,
            )
            return count - rows[0][0]

        wait_until(lambda: unfinished() == 0, "every withdrawal has ended", PATIENT_S)
    retrying.audit()
    outcomes = dict(
        retrying.query("payment", "SELECT coalesce(reason, 'paid'), count(*) FROM payments GROUP BY 1")
    )
    print(outcomes)
    assert outcomes["cancelled"] > count / 20
    assert outcomes["paid"] > count / 20
    paid = retrying.query("provider", "SELECT payment_id FROM charges WHERE status = 'paid'")
    refunded = retrying.query("account", "SELECT payment_id FROM ledger WHERE kind = 'refund'")
    assert not {row[0] for row in paid} & {row[0] for row in refunded}
    ends = retrying.query(
        "saga",
        """SELECT payment_id, count(*) FROM event_store WHERE type IN ('PaymentProcessed', 'PaymentFailed')
        GROUP BY 1 HAVING count(*) > 1""",
    )
    assert ends == []
