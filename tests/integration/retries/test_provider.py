"""Whatever the provider does, a withdrawal is paid once or refunded, and never both."""

import time
from urllib.error import HTTPError

import psutil
import pytest

from producers.requests import new_request
from tests.conftest import OPENING_MINOR, wait_until
from tests.instance import another_instance
from tests.integration.retries.stack import PATIENT_S, Retrying


def test_errors_are_tried_again_until_it_works(retrying: Retrying):
    with retrying.faults(error_share=1):
        payment_id = retrying.ask()
        wait_until(lambda: (retrying.payment(payment_id) or [0] * 3)[2] >= 2, "two attempts")
    assert retrying.finished(payment_id).state == "completed"
    assert retrying.at_provider(payment_id) == ["paid"]


def test_a_charge_that_was_done_and_never_answered_is_paid_once(retrying: Retrying):
    with retrying.faults(silent_share=1):
        payment_id = retrying.ask()
        known = wait_until(lambda: retrying.payment(payment_id), "the first attempt has timed out")
    assert known[:2] == ("pending", "provider_timeout")
    assert retrying.finished(payment_id).state == "completed"
    assert retrying.at_provider(payment_id) == ["paid"]


def test_after_the_last_attempt_the_payment_is_voided_and_only_then_refunded(retrying: Retrying):
    account = retrying.open_account()
    with retrying.faults(error_share=1):
        payment_id = retrying.client.request(account, "100.00").payment_id
        retrying.waiting(payment_id)
        retrying.due_now(payment_id)
        # The last attempt fails, and so does the void: nobody knows, so nothing is decided.
        wait_until(lambda: retrying.payment(payment_id)[4], "it is to be voided")
        assert retrying.payment(payment_id)[0] == "pending"
        assert retrying.balance(account) == OPENING_MINOR - 10_000
    retrying.due_now(payment_id)
    status = retrying.finished(payment_id)
    assert (status.state, status.reason) == ("compensated", "provider_unavailable")
    assert retrying.at_provider(payment_id) == ["voided"]
    assert retrying.balance(account) == OPENING_MINOR
    mail = retrying.stack.data / "mail" / f"{payment_id}.withdrawal_refunded.eml"
    wait_until(mail.exists, "the customer is told")


def test_what_was_paid_without_an_answer_is_not_refunded_after_the_last_attempt(retrying: Retrying):
    with retrying.faults(silent_share=1):
        payment_id = retrying.ask()
        retrying.waiting(payment_id)
    with retrying.faults(error_share=1, voids=False):  # charges fail, voids are answered
        retrying.due_now(payment_id)
        assert retrying.finished(payment_id).state == "completed"
    assert retrying.at_provider(payment_id) == ["paid"]


def test_a_rate_limit_is_waited_for_as_long_as_the_provider_says(retrying: Retrying):
    asked_at = time.monotonic()
    with retrying.faults(error_share=1, error_status=429, retry_after_s=3):
        payment_id = retrying.ask()
        _, reason, _, pause_s, _ = wait_until(lambda: retrying.payment(payment_id), "the first attempt")
    assert reason == "provider_rate_limit"
    assert pause_s < 10
    assert retrying.finished(payment_id).state == "completed"
    # However long all else took, the pause was part of it.
    assert time.monotonic() - asked_at > 2.5


def test_a_kill_between_the_provider_s_yes_and_the_commit_pays_once(retrying: Retrying):
    retrying.stack.stop_service("payment")
    # It waits for the provider's answer for as long as it takes to kill it.
    patient = another_instance(
        retrying.stack,
        "payment",
        may_die=True,
        SETTLE_PROVIDER_URL=f"http://127.0.0.1:{retrying.stack.state.http['provider']}",
        SETTLE_PROVIDER_TIMEOUT_S="60",
    )
    with patient as payment, retrying.faults(silent_share=1):
        many = [retrying.ask() for _ in range(5)]
        # They are on several partitions: any of them may be in the batch that comes first.
        booked = wait_until(lambda: [one for one in many if retrying.at_provider(one)], "a charge is booked")
        payment.kill()
        payment.wait()
        # Booked at the provider, not yet known to the payment service: it was still waiting for the answer.
        assert retrying.payment(booked[0]) is None
    retrying.stack.start_service("payment")
    for payment_id in many:
        assert retrying.finished(payment_id).state == "completed"
        assert retrying.at_provider(payment_id) == ["paid"]
    retrying.stack.wait_ready("payment")


def test_a_kill_in_the_middle_of_a_later_attempt_pays_once(retrying: Retrying):
    with retrying.faults(error_share=1):
        payment_id = retrying.ask()
        retrying.waiting(payment_id)
    with retrying.faults(silent_share=1):
        retrying.due_now(payment_id)
        wait_until(lambda: retrying.at_provider(payment_id), "the charge is booked")
        retrying.stack.kill("payment")
    retrying.due_now(payment_id)  # as if the claim of whoever died had run out
    assert retrying.finished(payment_id).state == "completed"
    assert retrying.at_provider(payment_id) == ["paid"]
    retrying.stack.wait_ready("payment")


def test_a_provider_away_under_load_holds_nothing_up_and_all_is_paid_afterwards(retrying: Retrying):
    """The shortened form of five minutes at 200 requests a second."""
    rate, seconds = 200, 3
    account = retrying.open_account(100_000_00)
    payment = psutil.Process(retrying.stack.pid("payment"))
    retrying.stack.stop_service("provider")
    memory_mb, wishes = [], []
    began = time.monotonic()
    for number in range(rate * seconds):
        wishes.append(new_request(account, amount_minor=100))
        retrying.client.send(wishes[-1], lambda _: None)
        time.sleep(max(began + number / rate - time.monotonic(), 0))
        if number % rate == 0:
            memory_mb.append(payment.memory_info().rss / 1e6)
    retrying.client.flush()
    ids = [wish.payment_id for wish in wishes]

    def pending() -> int:
        return retrying.query(
            "payment", "SELECT count(*) FROM payments WHERE payment_id = ANY(%s) AND status = 'pending'", ids
        )[0][0]

    # Nothing is held up: all are known to the payment service though nobody answers, and hardly one was tried.
    wait_until(lambda: pending() == len(ids), "every payment is pending")
    tried = retrying.query("payment", "SELECT sum(attempts) FROM payments WHERE payment_id = ANY(%s)", ids)[0][0]
    assert tried < len(ids) / 10
    memory_mb.append(payment.memory_info().rss / 1e6)
    assert memory_mb[-1] - memory_mb[1] < 15, memory_mb
    retrying.stack.start_service("provider")
    back = time.monotonic()
    wait_until(lambda: pending() == 0, "the payment service has caught up", PATIENT_S)
    print(
        f"{len(ids)} payments caught up {time.monotonic() - back:.1f} s after the provider's start; MB {memory_mb}"
    )
    states = retrying.query(
        "payment", "SELECT status, count(*) FROM payments WHERE payment_id = ANY(%s) GROUP BY 1", ids
    )
    assert states == [("processed", len(ids))]


def test_a_payment_that_the_database_refuses_holds_no_other_back(retrying: Retrying):
    with retrying.faults(error_share=1, error_status=429):
        ids = [retrying.ask() for _ in range(3)]
        wait_until(lambda: all(map(retrying.payment, ids)), "all are pending")
        refuse = f"ADD CONSTRAINT jammed CHECK (payment_id <> '{ids[1]}' OR status = 'pending')"
        retrying.execute("payment", f"ALTER TABLE payments {refuse}")
    try:
        assert {retrying.finished(one).state for one in (ids[0], ids[2])} == {"completed"}
        assert retrying.payment(ids[1])[0] == "pending"
    finally:
        retrying.execute("payment", "ALTER TABLE payments DROP CONSTRAINT jammed")
    retrying.due_now(ids[1])  # as if its claim had run out
    assert retrying.finished(ids[1]).state == "completed"


@pytest.mark.parametrize("body", [b"", b"{", b'{"account_id": "\xff"}', b'{"account_id": ' + b"[" * 5_000])
def test_what_is_no_charge_is_refused(retrying: Retrying, body):
    with pytest.raises(HTTPError) as told:
        retrying._ask("POST", "/charges", body)
    assert told.value.code == 400
