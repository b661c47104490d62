"""Does the audit see what is off in one withdrawal's story?"""

from uuid import uuid4

import pytest

from audit.story import AccountSide, NotificationSide, PaymentSide, ProviderSide, SagaSide, Story, faults

TOLD = NotificationSide(1, 0)
CONTENTS = ("acc-1", 10_000, "USD")
TAKEN = ["BalanceChecked", "MoneyDeducted"]
TYPES = {
    "completed": [*TAKEN, "PaymentProcessed", "NotificationSent", "WithdrawalCompleted"],
    "compensated": [*TAKEN, "PaymentFailed", "MoneyRefunded", "NotificationSent", "WithdrawalCompensated"],
    "rejected": ["BalanceChecked", "WithdrawalRejected", "NotificationSent"],
}


def story(state, *more):
    """A withdrawal that ended well in this state, as every service tells it, with further events in the store."""
    payment_id, types = uuid4(), ["WithdrawalRequested", *TYPES[state], *more]
    saga = SagaSide(CONTENTS, state, types)
    if state == "rejected":
        return Story(payment_id, AccountSide(CONTENTS, "rejected", 0, 0, 0), saga=saga, notification=TOLD)
    paid = state == "completed"
    booked = ("deducted", 1, 0, -10_000) if paid else ("compensated", 1, 1, 0)
    return Story(
        payment_id,
        AccountSide(CONTENTS, *booked),
        PaymentSide(CONTENTS, "processed" if paid else "failed"),
        ProviderSide(CONTENTS, "paid" if paid else "declined"),
        saga,
        TOLD,
    )


@pytest.mark.parametrize("state", TYPES)
@pytest.mark.parametrize("more", [(), ("WithdrawalRequested",), ("WithdrawalRequested", "WithdrawalRequested")])
def test_a_request_may_be_told_again(state, more):
    assert list(faults(story(state, *more))) == []


@pytest.mark.parametrize("state", TYPES)
@pytest.mark.parametrize("again", [(), ("WithdrawalRequested",)])
def test_nothing_else_happens_twice_even_where_the_request_was_told_again(state, again):
    for twice in TYPES[state]:
        if (state, twice) != ("rejected", "BalanceChecked"):  # none for an unknown account, so it is not counted
            ((check, reason),) = faults(story(state, *again, twice))
            assert check == "events"
            assert reason.startswith(f"{twice} is told 2 times")


def test_a_completed_withdrawal_has_its_whole_story():
    one = story("completed")
    for missing in one.saga.types:
        types = [name for name in one.saga.types if name != missing]
        ((check, reason),) = faults(one._replace(saga=SagaSide(CONTENTS, "completed", types)))
        assert check == "events"
        assert reason.startswith(f"{missing} is missing")


def test_an_event_that_an_unfinished_withdrawal_lacks_is_late_until_all_is_quiet():
    one = story("completed")._replace(saga=SagaSide(CONTENTS, "deducted", ["WithdrawalRequested", *TAKEN]))
    late = {check for check, _ in faults(one, quiet=False)}
    lost = [reason for check, reason in faults(one) if check == "events"]
    assert late == {"finished"}
    assert lost == [
        "PaymentProcessed is missing: the payment service did it, no event tells of it",
        "NotificationSent is missing: the notification service did it, no event tells of it",
    ]


def test_a_charge_that_was_made_twice_is_named():
    one = story("completed")
    assert list(faults(one._replace(provider=ProviderSide(CONTENTS, "paid", 2)))) == [
        ("provider", "charged 2 times")
    ]


def test_what_nobody_asked_for_is_listed_as_unfinished():
    forged = Story(uuid4(), saga=SagaSide(CONTENTS, "incomplete", ["PaymentFailed"]))
    assert ("finished", "events without a request") in list(faults(forged))
