from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from contracts.events import (
    BalanceChecked,
    MoneyDeducted,
    MoneyRefunded,
    NotificationFailed,
    NotificationSent,
    PaymentFailed,
    PaymentProcessed,
    WithdrawalCompensated,
    WithdrawalCompleted,
    WithdrawalRejected,
    WithdrawalRequested,
)
from processors.saga.decide import BITS, FINISHED, awaited_service, decide, needed_for, waiting_for
from tests.unit.messages import NOW, after, message, request
from tracing import TraceContext

LATER = NOW + timedelta(seconds=1)

TAKEN = [BalanceChecked, MoneyDeducted]
STORIES = {
    "completed": [*TAKEN, PaymentProcessed, NotificationSent],
    "compensated": [*TAKEN, PaymentFailed, MoneyRefunded, NotificationSent],
    "rejected": [BalanceChecked, WithdrawalRejected, NotificationSent],
}


def story(state, one=None):
    one = one or request()
    return [message(one), *(message(after(one, event_type)) for event_type in STORIES[state])]


def tell(batches):
    """Feed batches one after another; the standings, all stored events and all emitted ones."""
    known, stored, emitted = {}, [], []
    for batch in batches:
        decision = decide(batch, known, NOW)
        known |= {standing.payment_id: standing for standing in decision.standings}
        stored += decision.stored + decision.stored_again
        emitted += decision.emitted
    return known, stored, emitted


@pytest.mark.parametrize("state", STORIES)
@given(data=st.data())
def test_any_order_of_arrival_and_any_repetition_ends_the_same(state, data):
    messages = story(state)
    order = data.draw(st.permutations(messages + data.draw(st.lists(st.sampled_from(messages)))))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=len(order), max_size=len(order)))
    batches, rest = [], list(order)
    for size in sizes:
        batches.append(rest[:size])
        rest = rest[size:]
    known, stored, emitted = tell(batches)
    (standing,) = known.values()
    assert standing.state == state
    assert standing.finished_at is not None
    closing = {"completed": [WithdrawalCompleted], "compensated": [WithdrawalCompensated], "rejected": []}[state]
    assert [type(e.event) for e in emitted] == closing
    told = {type(m.event) for m in messages}
    assert {type(s.event) for s in stored} == told | set(closing)


def test_the_closing_event_comes_only_with_the_whole_story():
    messages = story("completed")
    for missing in range(len(messages)):
        _, _, emitted = tell([messages[:missing] + messages[missing + 1 :]])
        assert not emitted


def test_an_event_for_the_store_is_not_changed_once_it_is_decided():
    (stored,) = decide([message(request())], {}, NOW).stored
    with pytest.raises(AttributeError):
        stored.record = None


def test_a_mail_that_never_left_does_not_undo_a_payment():
    one = request()
    events = [*TAKEN, PaymentProcessed, NotificationFailed]
    known, _, emitted = tell([[message(one), *(message(after(one, t)) for t in events)]])
    assert known[one.payment_id].state == "completed"
    assert [type(e.event) for e in emitted] == [WithdrawalCompleted]


def test_the_state_follows_the_story():
    seen = []
    known = {}
    for one in story("completed"):
        decision = decide([one], known, NOW)
        known |= {standing.payment_id: standing for standing in decision.standings}
        seen.append(known[one.event.payment_id].state)
    assert seen == ["requested", "requested", "deducted", "paid", "completed"]


def test_it_says_what_a_withdrawal_waits_for():
    known, waits = {}, []
    for one in story("compensated"):
        decision = decide([one], known, NOW)
        known |= {standing.payment_id: standing for standing in decision.standings}
        waits.append(waiting_for(known[one.event.payment_id].seen))
    assert waits[0] == "the account service to check the balance"
    assert waits[2] == "the payment service to pay"
    assert waits[3] == "the account service to refund"
    assert waits[4] is None


def test_it_says_what_is_left_once_the_money_is_taken_or_paid():
    requested, checked, paid = (BITS[one] for one in (WithdrawalRequested, BalanceChecked, PaymentProcessed))
    taken = requested | checked | BITS[MoneyDeducted]
    assert waiting_for(requested | checked) == "the account service to deduct"
    assert waiting_for(taken | paid) == "the notification service to tell the customer"
    assert waiting_for(taken | paid | BITS[NotificationSent]) == "the saga service to close"
    told = paid | BITS[NotificationSent]
    assert waiting_for(requested | checked | told) == "MoneyDeducted to reach the saga service"
    assert waiting_for(taken | BITS[MoneyRefunded]) == "PaymentFailed to reach the saga service"


def test_it_says_whose_step_is_next():
    known, services = {}, []
    for one in story("compensated"):
        known |= {standing.payment_id: standing for standing in decide([one], known, NOW).standings}
        services.append(awaited_service(known[one.event.payment_id].seen))
    assert services == ["account", "saga", "payment", "account", "saga", "saga"]
    assert awaited_service(known[one.event.payment_id].seen | BITS[PaymentProcessed]) == "saga"


def test_it_says_which_event_the_waiting_step_acts_on():
    known, needed = {}, []
    for one in story("compensated"):
        decision = decide([one], known, NOW)
        known |= {standing.payment_id: standing for standing in decision.standings}
        needed.append(needed_for(known[one.event.payment_id].seen))
    assert needed == [WithdrawalRequested, None, MoneyDeducted, PaymentFailed, None, None]


@pytest.mark.parametrize("state", STORIES)
def test_nothing_is_believed_before_the_request_is_seen(state):
    request_, *rest = story(state)
    known, _, emitted = tell([[one] for one in rest])
    (standing,) = known.values()
    assert (standing.state, standing.finished_at, standing.finished_by) == ("incomplete", None, None)
    assert waiting_for(standing.seen) == "the request to reach the saga service"
    assert not emitted
    decision = decide([request_], known, NOW)
    assert decision.standings == [standing]
    assert (standing.state, standing.finished_at is not None) == (state, True)


def test_hearsay_of_a_payment_that_nobody_asked_for_stays_incomplete():
    known, stored, emitted = tell([[message(after(request(), PaymentFailed))]])
    (standing,) = known.values()
    assert (standing.state, standing.finished_at) == ("incomplete", None)
    assert (len(stored), emitted) == (1, [])


def test_a_rejection_that_came_first_is_finished_when_its_request_is_here():
    one = request()
    known, _, _ = tell([[message(after(one, WithdrawalRejected))]])
    decide([message(one)], known, LATER)
    assert known[one.payment_id].finished_at == LATER


def test_the_trace_is_that_of_the_request_which_the_account_service_took():
    one = request()
    other = request(1, payment_id=one.payment_id)
    mine, foreign, forged = (TraceContext(f"00-{digit * 32}-{'b' * 16}-01") for digit in "123")
    told = [
        message(after(other, PaymentFailed), context=forged),
        message(other, context=foreign),
        message(one, context=mine),
        message(after(one, BalanceChecked), context=mine),
        message(other, context=foreign),
    ]
    traces, contents, known = [], [], {}
    for batch in told:
        decision = decide([batch], known, NOW)
        known |= {standing.payment_id: standing for standing in decision.standings}
        standing = known[one.payment_id]
        traces.append(standing.trace_id[0])
        contents.append(standing.amount_minor)
    assert "".join(traces) == "32211"
    assert contents == [1, 1, 1, one.amount_minor, one.amount_minor]


def test_the_compensation_says_why():
    one = request()
    events = [after(one, t, reason="declined") for t in STORIES["compensated"]]
    _, _, emitted = tell([[message(one), *map(message, events)]])
    assert emitted[0].event.reason == "declined"


def test_a_request_with_other_contents_is_no_part_of_the_story():
    one = request()
    other = request(1, payment_id=one.payment_id)
    known, stored, _ = tell([[*story("completed", one), message(other)]])
    assert known[one.payment_id].amount_minor == one.amount_minor
    assert other not in [s.event for s in stored]


def test_what_the_account_service_says_counts_even_if_a_conflicting_request_came_first():
    one = request()
    other = request(1, payment_id=one.payment_id)
    known, _, _ = tell([[message(other)], story("completed", one)])
    assert known[one.payment_id].amount_minor == one.amount_minor
    assert known[one.payment_id].state == "completed"


def test_finished_states_are_those_with_an_end():
    for state in STORIES:
        assert state in FINISHED
        known, _, _ = tell([story(state)])
        (standing,) = known.values()
        assert waiting_for(standing.seen) is None
        assert standing.finished_by is not None


def test_each_event_has_the_bit_that_stored_standings_have():
    ordered = sorted(BITS, key=lambda event_type: BITS[event_type])
    assert [event_type.__name__ for event_type in ordered] == [
        "WithdrawalRequested",
        "BalanceChecked",
        "MoneyDeducted",
        "WithdrawalRejected",
        "PaymentProcessed",
        "PaymentFailed",
        "MoneyRefunded",
        "NotificationSent",
        "NotificationFailed",
        "WithdrawalCompleted",
        "WithdrawalCompensated",
        "CancelRefused",
    ]
    assert [BITS[event_type] for event_type in ordered] == [2**place for place in range(12)]


@pytest.mark.parametrize("said", TAKEN)
def test_the_trace_that_the_account_service_acted_in_is_not_that_of_a_later_request(said):
    one = request()
    mine, later = (TraceContext(f"00-{digit * 32}-{'b' * 16}-01") for digit in "12")
    known, _, _ = tell([[message(after(one, said), context=mine)], [message(one, context=later)]])
    assert known[one.payment_id].trace_id == "1" * 32


def test_no_other_service_changes_what_a_withdrawal_is():
    one = request()
    known, _, _ = tell([[message(one)], [message(after(request(1, payment_id=one.payment_id), PaymentProcessed))]])
    assert known[one.payment_id].amount_minor == one.amount_minor


def test_a_withdrawal_was_requested_when_its_request_says():
    one = request()
    later = [message(replace(after(one, t), occurred_at=LATER)) for t in STORIES["completed"]]
    for told in ([message(one), *later], [*later, message(one)]):
        known, _, _ = tell([told])
        assert known[one.payment_id].requested_at == NOW
    known, _, _ = tell([later])
    assert known[one.payment_id].requested_at is None


def test_while_nobody_knows_which_of_two_requests_will_be_taken_both_are_stored():
    one = request()
    other = request(1, payment_id=one.payment_id)
    checked = after(one, BalanceChecked)
    _, stored, _ = tell([[message(one)], [message(other)], [message(checked)], [message(other)]])
    assert [s.event.amount_minor for s in stored] == [one.amount_minor, 1, one.amount_minor]
