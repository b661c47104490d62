import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import BalanceChecked, MoneyDeducted, MoneyRefunded, PaymentFailed, WithdrawalRejected
from processors.account.decide import Account, LogEntry, decide
from tests.unit.messages import NOW, after, message, request


def accounts(balance_minor=25_000, currency="USD"):
    return {"acc-1": Account("acc-1", currency, balance_minor)}


def types(decision):
    return [type(emitted.event) for emitted in decision.emitted]


def test_a_request_is_deducted_and_told_in_order():
    decision = decide([message(request())], accounts(), {}, NOW)
    assert types(decision) == [BalanceChecked, MoneyDeducted]
    checked, deducted = (emitted.event for emitted in decision.emitted)
    assert (checked.balance_minor, checked.sufficient) == (25_000, True)
    assert deducted.balance_minor == decision.accounts["acc-1"].balance_minor == 15_000
    assert [(b.kind, b.amount_minor) for b in decision.bookings] == [("deduction", -10_000)]
    assert [entry.status for entry in decision.opened] == ["deducted"]


def test_a_booking_is_not_changed_once_it_is_decided():
    (booking,) = decide([message(request())], accounts(), {}, NOW).bookings
    with pytest.raises(AttributeError):
        booking.amount_minor = 0


def test_requests_of_one_batch_are_decided_on_the_running_balance():
    decision = decide([message(request()) for _ in range(3)], accounts(), {}, NOW)
    assert [entry.status for entry in decision.opened] == ["deducted", "deducted", "rejected"]
    assert decision.accounts["acc-1"].balance_minor == 5_000
    assert types(decision)[-2:] == [BalanceChecked, WithdrawalRejected]
    assert decision.emitted[-1].event.reason == "insufficient_funds"


def test_the_last_cent_can_be_withdrawn():
    decision = decide([message(request(25_000))], accounts(), {}, NOW)
    assert decision.accounts["acc-1"].balance_minor == 0
    assert types(decision)[-1] is MoneyDeducted


def test_an_unknown_account_is_rejected():
    decision = decide([message(request(account_id="nobody"))], accounts(), {}, NOW)
    assert types(decision) == [WithdrawalRejected]
    assert decision.emitted[0].event.reason == "unknown_account"
    assert not decision.bookings


def test_another_currency_is_rejected():
    decision = decide([message(request(currency="EUR"))], accounts(), {}, NOW)
    assert decision.emitted[0].event.reason == "currency_mismatch"
    assert not decision.bookings


def test_the_same_request_again_changes_nothing():
    one = request()
    first = decide([message(one), message(one)], accounts(), {}, NOW)
    assert len(first.opened) == 1
    log = {entry.payment_id: entry for entry in first.opened}
    again = decide([message(one)], accounts(), log, NOW)
    assert not (again.opened or again.bookings or again.emitted or again.dead_letters or again.accounts)


def test_the_same_payment_id_with_other_contents_is_refused():
    one = request()
    log = {entry.payment_id: entry for entry in decide([message(one)], accounts(), {}, NOW).opened}
    others = [
        request(9_999, payment_id=one.payment_id),
        request(account_id="acc-2", payment_id=one.payment_id),
        request(currency="EUR", payment_id=one.payment_id),
    ]
    decision = decide([message(other) for other in others], accounts(), log, NOW)
    assert len(decision.dead_letters) == 3
    assert all("conflict" in letter.reason for letter in decision.dead_letters)
    assert not (decision.opened or decision.bookings or decision.emitted)


def test_a_failed_payment_is_refunded_once():
    one = request()
    state, log = accounts(), {}
    decide([message(one)], state, log, NOW)
    failed = message(after(one, PaymentFailed, reason="declined"))
    decision = decide([failed, failed], state, log, NOW)
    assert types(decision) == [MoneyRefunded]
    assert decision.emitted[0].event.reason == "declined"
    assert state["acc-1"].balance_minor == 25_000
    assert [(b.kind, b.amount_minor) for b in decision.bookings] == [("refund", 10_000)]
    assert not decide([failed], state, log, NOW).bookings


def test_a_failure_that_comes_before_its_request_leaves_nothing_to_deduct():
    one = request()
    failed = message(after(one, PaymentFailed, reason="declined"))
    for batches in ([[failed, failed], [message(one)], [failed]], [[failed, message(one), failed]]):
        state, log = accounts(), {}
        decisions = [decide(batch, state, log, NOW) for batch in batches]
        assert [kind for decision in decisions for kind in types(decision)] == [WithdrawalRejected]
        assert not any(decision.dead_letters or decision.bookings for decision in decisions)
        assert state["acc-1"].balance_minor == 25_000
        assert (log[one.payment_id].status, log[one.payment_id].reason) == ("rejected", "declined")


def test_a_failure_of_what_was_rejected_is_refused():
    one = request()
    rejected = LogEntry(one.payment_id, "acc-1", one.amount_minor, "USD", "rejected", "insufficient_funds")
    decision = decide([message(after(one, PaymentFailed))], accounts(), {one.payment_id: rejected}, NOW)
    assert len(decision.dead_letters) == 1
    assert not (decision.bookings or decision.accounts)


def test_the_trace_context_of_the_request_goes_on():
    one = message(request())
    decision = decide([one], accounts(), {}, NOW)
    assert {emitted.context for emitted in decision.emitted} == {one.context}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 20_000), st.booleans()), max_size=40))
def test_whatever_comes_no_cent_is_lost_and_no_balance_is_negative(steps):
    state, log, sent = accounts(50_000), {}, {}
    booked = 0
    for number, amount_minor, failed in steps:
        one = sent.setdefault(number, request(amount_minor))
        event = after(one, PaymentFailed) if failed else one
        decision = decide([message(event)], state, log, NOW)
        booked += sum(booking.amount_minor for booking in decision.bookings)
        assert state["acc-1"].balance_minor == 50_000 + booked >= 0
