from datetime import timedelta

import pytest

from contracts.events import CancelRefused, CancelRequested, MoneyDeducted, PaymentFailed, PaymentProcessed
from processors.payment.decide import NOT_TRIED, admit, cancel, conclude, count_attempt, must_void
from processors.payment.gateway import Declined, NotTried, Paid, Unavailable, Voided
from processors.runtime.retry import RetryPolicy
from tests.unit.messages import NOW, after, message, request

BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0)
POLICY = RetryPolicy(BACKOFF_S)
ALLOWED = timedelta(seconds=600)
DEADLINE_AT = NOW + ALLOWED


def deduction(**about):
    return message(after(request(**about), MoneyDeducted))


def wish(of, **changed):
    fields = {"amount_minor": of.event.amount_minor, "payment_id": of.event.payment_id, **changed}
    return message(after(request(**fields), CancelRequested))


def admitted(messages, known=(), now=NOW):
    return admit(messages, {p.payment_id: p for p in known}, now)


def payment():
    return admitted([deduction()]).new[0]


def cancelled(one, *wishes, known=True):
    return cancel(wishes, {one.payment_id: one} if known else {}, NOW)


def types(emitted):
    return [type(e.event) for e in emitted]


def charge(one, outcome):
    """As the processor does it: count, then conclude."""
    ran_out = count_attempt(one, outcome, POLICY, NOW, ALLOWED)
    return ran_out, conclude(one, outcome, NOW, POLICY)


def test_a_payment_id_is_admitted_once():
    one = deduction()
    admission = admitted([one, one])
    assert len(admission.new) == 1
    assert admission.chargeable() == admission.new
    assert not admitted([one], admission.new).new


def test_a_payment_id_with_other_contents_is_refused():
    one = deduction()
    other = deduction(amount_minor=1, payment_id=one.event.payment_id)
    admission = admitted([one, other])
    assert [p.amount_minor for p in admission.new] == [10_000]
    assert "conflict" in admission.dead_letters[0].reason


def test_paid_is_final():
    one = payment()
    _, (emitted,) = charge(one, Paid("ref-1"))
    assert (one.status, one.provider_reference, one.next_attempt_at) == ("processed", "ref-1", None)
    assert isinstance(emitted.event, PaymentProcessed)
    assert emitted.event.provider_reference == "ref-1"
    assert emitted.context == one.context


def test_declined_is_final_at_once():
    one = payment()
    _, emitted = charge(one, Declined("account_closed"))
    assert (one.status, one.reason) == ("failed", "account_closed")
    assert types(emitted) == [PaymentFailed]


def test_no_answer_is_tried_again_after_1_2_4_8_16_seconds_and_then_voided():
    one = payment()
    pauses = []
    for _ in range(5):
        assert charge(one, Unavailable("down")) == (False, [])
        pauses.append((one.next_attempt_at - NOW) / timedelta(seconds=1))
        assert not must_void(one, NOW)
    assert pauses == [1, 2, 4, 8, 16]
    assert one.status == "pending"
    assert count_attempt(one, Unavailable("down"), POLICY, NOW, ALLOWED)
    assert must_void(one, NOW)
    (emitted,) = conclude(one, Voided(), NOW, POLICY)
    assert emitted.event.reason == "provider_unavailable"


def test_without_an_answer_to_the_void_no_payment_fails():
    one = payment()
    for _ in range(6):
        charge(one, Unavailable("down"))
    for _ in range(100):
        assert must_void(one, NOW)
        assert conclude(one, Unavailable("down"), NOW, POLICY) == []
        assert one.next_attempt_at == NOW + timedelta(seconds=16)
    assert (one.status, one.attempts) == ("pending", 6)


def test_what_turns_out_to_be_paid_when_it_is_to_be_voided_is_paid():
    one = payment()
    for _ in range(6):
        charge(one, Unavailable("down"))
    assert types(conclude(one, Paid("ref-1"), NOW, POLICY)) == [PaymentProcessed]


def test_a_provider_that_rests_costs_no_attempt():
    one = payment()
    for _ in range(100):
        assert charge(one, NotTried()) == (False, [])
    assert (one.attempts, one.status, one.next_attempt_at) == (0, "pending", NOW)
    assert one.reason == NOT_TRIED
    one.reason = "down"
    charge(one, NotTried())
    assert one.reason == "down"


def test_what_is_asked_of_the_provider_is_what_the_payment_says():
    one = payment()
    asked = one.charge()
    assert (asked.payment_id, asked.account_id) == (one.payment_id, one.account_id)
    assert (asked.amount_minor, asked.currency) == (one.amount_minor, one.currency)


def test_a_provider_that_asks_for_time_gets_it():
    one = payment()
    charge(one, Unavailable("rate_limit", 30.0))
    assert one.next_attempt_at == NOW + timedelta(seconds=30)


def test_a_provider_that_takes_no_more_calls_just_now_uses_up_no_attempt():
    one = payment()
    for _ in range(100):
        assert charge(one, Unavailable("rate_limit", 3.0, counts=False)) == (False, [])
    assert (one.attempts, one.void_reason, one.reason) == (0, None, "rate_limit")
    assert one.next_attempt_at == NOW + timedelta(seconds=3)


def rate_limited_at(one, now):
    """Charged when it is due, as the processor does it; whether it is to be voided then."""
    limit = Unavailable("rate_limit", 300.0, counts=False)
    voided = must_void(one, now) or count_attempt(one, limit, POLICY, now, ALLOWED)
    conclude(one, limit, now, POLICY)
    return voided


def test_a_payment_that_only_ever_meets_a_rate_limit_is_voided_at_its_deadline():
    one = payment()
    for now, next_attempt_at in ((NOW, NOW + ALLOWED / 2), (NOW + ALLOWED / 2, DEADLINE_AT)):
        assert not rate_limited_at(one, now)
        assert (one.attempts, one.next_attempt_at) == (0, next_attempt_at)
    assert rate_limited_at(one, DEADLINE_AT)
    (emitted,) = conclude(one, Voided(), DEADLINE_AT, POLICY)
    assert (type(emitted.event), emitted.event.reason) == (PaymentFailed, "deadline")


def test_a_payment_whose_turn_after_a_rate_limit_comes_late_is_still_charged():
    after_its_turn = DEADLINE_AT + ALLOWED
    paid, tried = payment(), payment()
    for one in (paid, tried):
        assert not rate_limited_at(one, NOW)
        assert not must_void(one, after_its_turn)
    assert not count_attempt(paid, Paid("ref-1"), POLICY, after_its_turn, ALLOWED)
    assert types(conclude(paid, Paid("ref-1"), after_its_turn, POLICY)) == [PaymentProcessed]
    # An attempt that has no answer has all of the time.
    assert not count_attempt(tried, Unavailable("down"), POLICY, after_its_turn, ALLOWED)
    assert tried.deadline_at == after_its_turn + ALLOWED


def test_a_rate_limit_before_the_first_attempt_moves_no_deadline():
    one = payment()
    assert not rate_limited_at(one, NOW)
    count_attempt(one, Unavailable("down"), POLICY, NOW + ALLOWED / 2, ALLOWED)
    assert (one.attempts, one.deadline_at) == (1, DEADLINE_AT)
    assert not rate_limited_at(one, NOW + ALLOWED / 2)
    assert rate_limited_at(one, DEADLINE_AT)


@pytest.mark.parametrize(("drawn", "share"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_pauses_are_off_by_the_jitter(drawn, share):
    policy = RetryPolicy(BACKOFF_S, 0.2, lambda: drawn)
    assert policy.next_at(3, NOW) == NOW + timedelta(seconds=4 * share)


@pytest.mark.parametrize("minutes", [-60 * 24 * 365, -15, 15])
def test_what_another_clock_says_of_the_deduction_makes_no_payment_late(minutes):
    admission = admitted([deduction()], now=NOW + timedelta(minutes=minutes))
    (one,) = admission.new
    assert admission.chargeable() == [one]
    assert not must_void(one, NOW + timedelta(minutes=minutes))


def test_a_deadline_counts_from_the_first_attempt():
    one = payment()
    charge(one, NotTried())
    assert one.deadline_at is None
    assert not must_void(one, NOW + timedelta(days=1))
    later = NOW + timedelta(days=1)
    assert not count_attempt(one, Unavailable("down"), POLICY, later, ALLOWED)
    assert not count_attempt(one, Unavailable("down"), POLICY, later + timedelta(seconds=1), ALLOWED)
    assert one.deadline_at == later + ALLOWED
    assert not must_void(one, later + ALLOWED - timedelta(seconds=1))
    assert must_void(one, later + ALLOWED)
    assert one.void_reason == "deadline"


def test_a_deadline_that_an_earlier_version_set_does_not_count_before_the_first_attempt():
    one = payment()
    one.deadline_at = NOW - timedelta(days=1)
    assert not must_void(one, NOW)
    charge(one, Unavailable("down"))
    assert one.deadline_at == DEADLINE_AT


def test_a_payment_that_waits_is_due_at_its_deadline_at_the_latest():
    one = payment()
    deadline_at = NOW + timedelta(seconds=0.5)
    assert not count_attempt(one, Unavailable("down"), POLICY, NOW, deadline_at - NOW)
    conclude(one, Unavailable("down"), NOW, POLICY)
    assert one.next_attempt_at == one.deadline_at == deadline_at
    # From that moment on it is no longer looked at for the deadline's sake.
    conclude(one, Unavailable("down"), deadline_at, POLICY)
    assert one.next_attempt_at > deadline_at
    assert must_void(one, deadline_at)
    (emitted,) = conclude(one, Voided(), NOW, POLICY)
    assert emitted.event.reason == "deadline"


def test_a_cancelled_payment_is_voided_and_fails_if_it_was_not_paid():
    deducted = deduction()
    (one,) = admitted([deducted]).new
    charge(one, Unavailable("down"))
    decision = cancelled(one, wish(deducted), wish(deducted))
    assert (decision.to_void, decision.emitted) == ([one], [])
    assert must_void(one, NOW)
    (emitted,) = conclude(one, Voided(), NOW, POLICY)
    assert (type(emitted.event), emitted.event.reason) == (PaymentFailed, "cancelled")


def test_a_cancellation_that_came_too_late_is_refused_once_with_the_reason():
    deducted = deduction()
    (one,) = admitted([deducted]).new
    charge(one, Paid("ref"))
    decision = cancelled(one, wish(deducted), wish(deducted))
    assert [e.event.reason for e in decision.emitted] == ["already_paid"]
    assert decision.refused == [one]
    assert not cancelled(one, wish(deducted)).emitted


def test_a_cancellation_of_a_failed_payment_is_refused_and_of_a_cancelled_one_is_old_news():
    deducted = deduction()
    (declined,) = admitted([deducted]).new
    charge(declined, Declined("declined"))
    assert [e.event.reason for e in cancelled(declined, wish(deducted)).emitted] == ["already_failed: declined"]
    (one,) = admitted([deducted]).new
    cancelled(one, wish(deducted))
    conclude(one, Voided(), NOW, POLICY)
    again = cancelled(one, wish(deducted))
    assert not (again.emitted or again.to_void or again.refused or again.awaited)


def test_a_cancellation_that_lost_the_race_at_the_provider_is_refused():
    deducted = deduction()
    (one,) = admitted([deducted]).new
    cancelled(one, wish(deducted))
    assert types(conclude(one, Paid("ref"), NOW, POLICY)) == [PaymentProcessed, CancelRefused]
    assert (one.status, one.cancel_refused) == ("processed", True)


def test_a_cancellation_while_the_provider_is_asked_counts_as_soon_as_it_has_not_answered():
    one = payment()
    count_attempt(one, Unavailable("timeout"), POLICY, NOW, ALLOWED)
    assert conclude(one, Unavailable("timeout"), NOW, POLICY, "cancelled") == []
    assert (one.next_attempt_at, one.void_reason) == (NOW, "cancelled")
    other = payment()
    assert types(conclude(other, Paid("ref"), NOW, POLICY, "cancelled")) == [PaymentProcessed, CancelRefused]


def test_a_cancellation_before_its_deduction_is_remembered():
    deducted = deduction()
    (awaited,) = cancel([wish(deducted), wish(deducted)], {}, NOW).awaited
    assert (awaited.status, awaited.next_attempt_at) == ("awaited", None)
    admission = admitted([deducted, deducted], [awaited])
    (one,) = admission.awaited
    assert not (admission.new or admission.chargeable() or admission.dead_letters)
    assert (one.status, one.void_reason, one.next_attempt_at) == ("pending", "cancelled", NOW)


def test_a_cancellation_with_other_contents_does_not_stand_in_the_way_of_the_deduction():
    deducted = deduction()
    (awaited,) = cancel([wish(deducted, amount_minor=1)], {}, NOW).awaited
    (one,) = admitted([deducted, deducted], [awaited]).awaited
    assert (one.amount_minor, one.void_reason, one.next_attempt_at) == (10_000, None, NOW)
    also = wish(deducted)
    (one,) = admitted([deducted, also], [awaited]).awaited
    assert one.void_reason == "cancelled"


def test_a_cancellation_in_the_same_batch_as_its_deduction_counts_first():
    deducted = deduction()
    admission = admitted([deducted, wish(deducted)])
    assert not admission.chargeable()
    (one,) = admission.new
    assert one.void_reason == "cancelled"
    decision = cancelled(one, wish(deducted))
    assert not (decision.emitted or decision.to_void or decision.awaited)


def test_a_cancellation_of_something_else_is_refused():
    deducted = deduction()
    (one,) = admitted([deducted, wish(deducted, amount_minor=1)]).new
    assert one.void_reason is None
    decision = cancelled(one, wish(deducted, amount_minor=1))
    assert "conflict" in decision.dead_letters[0].reason
    assert not decision.to_void


def test_whatever_the_provider_answers_a_payment_ends_at_most_once():
    for wished in (None, "cancelled"):
        for outcome in (Paid("r"), Declined("d"), Voided(), Unavailable("u"), NotTried()):
            one = payment()
            emitted = conclude(one, outcome, NOW, POLICY, wished)
            ends = [e for e in emitted if not isinstance(e.event, CancelRefused)]
            assert len(ends) == (one.status != "pending")
            assert (one.next_attempt_at is not None) == (one.status == "pending")
            assert (one.provider_reference is not None) == (one.status == "processed")
