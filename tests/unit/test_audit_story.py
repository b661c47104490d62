"""The audit sees what is off in one withdrawal's story."""

from uuid import uuid4

import pytest

from contracts.events import made_again_id
from operations.audit.story import (
    AccountSide,
    NotificationSide,
    PaymentSide,
    ProviderSide,
    SagaSide,
    Story,
    faults,
)

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
def test_an_event_that_was_made_again_and_its_original_are_one(state):
    for twice in TYPES[state]:
        one = story(state, twice)
        made = made_again_id(one.payment_id, twice)
        assert list(faults(one._replace(saga=one.saga._replace(derived=[uuid4(), made])))) == []
        three = one.saga._replace(types=[*one.saga.types, twice], derived=[made])
        if (state, twice) != ("rejected", "BalanceChecked"):
            ((_, reason),) = faults(one._replace(saga=three))
            assert reason.startswith(f"{twice} is stored 2 times")


@pytest.mark.parametrize("state", TYPES)
def test_an_event_that_was_made_again_and_has_no_other_is_still_one(state):
    one = story(state)
    derived = [made_again_id(one.payment_id, event_type) for event_type in TYPES[state]]
    assert list(faults(one._replace(saga=one.saga._replace(derived=derived)))) == []


@pytest.mark.parametrize("state", TYPES)
@pytest.mark.parametrize("again", [(), ("WithdrawalRequested",)])
def test_nothing_else_happens_twice_even_where_the_request_was_told_again(state, again):
    for twice in TYPES[state]:
        if (state, twice) != ("rejected", "BalanceChecked"):  # none for an unknown account, so it is not counted
            ((check, reason),) = faults(story(state, *again, twice))
            assert check == "events"
            assert reason.startswith(f"{twice} is stored 2 times")


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
        "PaymentProcessed is missing: the payment service did it, no event records it",
        "NotificationSent is missing: the notification service did it, no event records it",
    ]


OTHER = ("acc-2", 10_000, "USD")
REQUESTED = ["WithdrawalRequested"]
DEDUCTED = AccountSide(CONTENTS, "deducted", 1, 0, -10_000)
COMPENSATED = AccountSide(CONTENTS, "compensated", 1, 1, 0)
REJECTED = AccountSide(CONTENTS, "rejected", 0, 0, 0)


def without(state, *missing, more=(), contents=CONTENTS):
    """What the saga knows of a withdrawal that ended, less some events."""
    return SagaSide(contents, state, [*REQUESTED, *(t for t in TYPES[state] if t not in missing), *more])


def known(state, *types):
    """What the saga knows of a withdrawal that has not ended."""
    return SagaSide(CONTENTS, state, [*REQUESTED, *types])


def side(of, **changed):
    return of._replace(**changed)


FAULTS = {
    # Each is one fault in what is otherwise whole, with all that follows from it; nothing else may be found.
    "booked without a decision": (
        {"account": AccountSide(None, None, 1, 0, -10_000)},
        [("ledger", "booked, but not in the saga log")],
    ),
    "deducted, never booked": (
        {"state": "completed", "account": side(DEDUCTED, deductions=0)},
        [("ledger", "deducted, but the ledger has 0 deductions, 0 refunds, net -10000")],
    ),
    "deducted twice": (
        {"state": "completed", "account": side(DEDUCTED, deductions=2)},
        [("ledger", "deducted, but the ledger has 2 deductions, 0 refunds, net -10000")],
    ),
    "deducted and given back": (
        {"state": "completed", "account": side(DEDUCTED, refunds=1)},
        [("ledger", "deducted, but the ledger has 1 deductions, 1 refunds, net -10000")],
    ),
    "another amount deducted": (
        {"state": "completed", "account": side(DEDUCTED, net_minor=-9_999)},
        [("ledger", "deducted, but the ledger has 1 deductions, 0 refunds, net -9999")],
    ),
    "refunded, never booked": (
        {"state": "compensated", "account": side(COMPENSATED, refunds=0)},
        [("ledger", "compensated, but the ledger has 1 deductions, 0 refunds, net 0")],
    ),
    "refunded, never deducted": (
        {"state": "compensated", "account": side(COMPENSATED, deductions=0)},
        [("ledger", "compensated, but the ledger has 0 deductions, 1 refunds, net 0")],
    ),
    "another amount refunded": (
        {"state": "compensated", "account": side(COMPENSATED, net_minor=1)},
        [("ledger", "compensated, but the ledger has 1 deductions, 1 refunds, net 1")],
    ),
    "booked on another account": (
        {"state": "completed", "account": side(DEDUCTED, elsewhere="acc-2")},
        [("ledger", "booked on account acc-2, but it is of account acc-1")],
    ),
    "rejected, and booked": (
        {"state": "rejected", "account": side(REJECTED, deductions=1)},
        [("ledger", "rejected, but the ledger has 1 deductions, 0 refunds, net 0")],
    ),
    "rejected, and refunded": (
        {"state": "rejected", "account": side(REJECTED, refunds=1)},
        [("ledger", "rejected, but the ledger has 0 deductions, 1 refunds, net 0")],
    ),
    "rejected, and money gone": (
        {"state": "rejected", "account": side(REJECTED, net_minor=-1)},
        [("ledger", "rejected, but the ledger has 0 deductions, 0 refunds, net -1")],
    ),
    "not yet paid": (
        {"account": DEDUCTED, "saga": known("deducted", *TAKEN)},
        [("finished", "deducted, waits for payment"), ("finished", "deducted")],
    ),
    "a cancellation waits, the money is not yet paid": (
        {"account": DEDUCTED, "payment": PaymentSide(CONTENTS, "awaited"), "saga": known("deducted", *TAKEN)},
        [("finished", "deducted, waits for payment"), ("finished", "deducted")],
    ),
    "refunded without a failed payment": (
        {"account": COMPENSATED, "saga": known("compensating", *TAKEN, "MoneyRefunded")},
        [("payments", "refunded, but no payment failed"), ("finished", "compensating")],
    ),
    "refunded on a wish alone": (
        {
            "account": COMPENSATED,
            "payment": PaymentSide(CONTENTS, "awaited"),
            "saga": known("compensating", *TAKEN, "MoneyRefunded"),
        },
        [("payments", "refunded, but no payment failed"), ("finished", "compensating")],
    ),
    "paid without a deduction": (
        {
            "payment": PaymentSide(CONTENTS, "processed"),
            "provider": ProviderSide(CONTENTS, "paid"),
            "saga": known("paid", "PaymentProcessed"),
        },
        [("payments", "payment processed, but never deducted like this"), ("finished", "paid")],
    ),
    "paid, the refund is booked": (
        {
            "account": COMPENSATED,
            "payment": PaymentSide(CONTENTS, "processed"),
            "provider": ProviderSide(CONTENTS, "paid"),
            "saga": known("paid", *TAKEN, "PaymentProcessed", "MoneyRefunded"),
        },
        [("payments", "paid, but the account says compensated"), ("finished", "paid")],
    ),
    "paid although rejected": (
        {
            "account": REJECTED,
            "payment": PaymentSide(CONTENTS, "processed"),
            "provider": ProviderSide(CONTENTS, "paid"),
            "saga": known("paid", "WithdrawalRejected", "PaymentProcessed"),
        },
        [("payments", "paid, but the account says rejected"), ("finished", "paid")],
    ),
    "not yet refunded": (
        {
            "account": DEDUCTED,
            "payment": PaymentSide(CONTENTS, "failed"),
            "provider": ProviderSide(CONTENTS, "declined"),
            "saga": known("compensating", *TAKEN, "PaymentFailed"),
        },
        [("finished", "payment failed, waits for refund"), ("finished", "compensating")],
    ),
    "the payment is under way": (
        {
            "account": DEDUCTED,
            "payment": PaymentSide(CONTENTS, "pending"),
            "saga": known("deducted", *TAKEN),
        },
        [("finished", "payment pending"), ("finished", "deducted")],
    ),
    "the provider knows more than we do": (
        {
            "account": DEDUCTED,
            "payment": PaymentSide(CONTENTS, "pending"),
            "provider": ProviderSide(CONTENTS, "paid"),
            "saga": known("deducted", *TAKEN),
        },
        [("finished", "payment pending"), ("finished", "deducted")],
    ),
    "refunded while the payment is under way": (
        {
            "account": COMPENSATED,
            "payment": PaymentSide(CONTENTS, "pending"),
            "saga": known("compensating", *TAKEN, "MoneyRefunded"),
        },
        [("payments", "payment pending, but refunded already"), ("finished", "compensating")],
    ),
    "paid, and the provider never heard of it": (
        {"state": "completed", "provider": None},
        [("provider", "paid according to us, unknown to the provider")],
    ),
    "failed, and the provider never heard of it": (
        {"state": "compensated", "provider": None},
        [("provider", "failed according to us, but the provider might still pay")],
    ),
    "charged twice": (
        {"state": "completed", "provider": ProviderSide(CONTENTS, "paid", 2)},
        [("provider", "charged 2 times")],
    ),
    "charged, and nobody asked": (
        {"provider": ProviderSide(CONTENTS, "paid")},
        [("provider", "paid at the provider, unknown to us")],
    ),
    "charged although rejected": (
        {"state": "rejected", "provider": ProviderSide(CONTENTS, "declined")},
        [("provider", "declined at the provider, unknown to us")],
    ),
    "charged, not yet written down": (
        {"account": DEDUCTED, "provider": ProviderSide(CONTENTS, "paid"), "saga": known("deducted", *TAKEN)},
        [("finished", "deducted, waits for payment"), ("finished", "deducted")],
    ),
    "the provider paid other contents": (
        {"state": "completed", "provider": ProviderSide(OTHER, "paid")},
        [("provider", "the provider charged other contents")],
    ),
    "the provider declined what we call paid": (
        {"state": "completed", "provider": ProviderSide(CONTENTS, "declined")},
        [("provider", "declined at the provider, processed according to us")],
    ),
    "the provider paid what we call failed": (
        {"state": "compensated", "provider": ProviderSide(CONTENTS, "paid")},
        [("provider", "paid at the provider, failed according to us")],
    ),
    "the saga never heard of it": (
        {"account": REJECTED},
        [("finished", "rejected, not yet known to the saga")],
    ),
    "the saga has events and no standing": (
        {"account": REJECTED, "saga": SagaSide(None, None, REQUESTED)},
        [("finished", "rejected, not yet known to the saga"), ("events", "events without a standing")],
    ),
    "events of what nobody asked for": (
        {"saga": SagaSide(CONTENTS, "incomplete", REQUESTED)},
        [("finished", "events without a request")],
    ),
    "the saga has other contents": (
        {"state": "completed", "saga": without("completed", contents=OTHER)},
        [("saga", "the saga has other contents than the account")],
    ),
    "a notification nobody made": (
        {"state": "completed", "notification": NotificationSide(0, 1)},
        [
            ("events", "NotificationSent is stored 1 times, the notification service did it 0 times"),
            ("events", "NotificationFailed is missing: the notification service did it, no event records it"),
        ],
    ),
    "nobody was told": (
        {
            "state": "completed",
            "notification": None,
            "saga": without("completed", "NotificationSent"),
        },
        [("events", "completed without a notification")],
    ),
    "told twice": (
        {
            "state": "completed",
            "notification": NotificationSide(2, 0),
            "saga": without("completed", more=["NotificationSent"]),
        },
        [("events", "completed, and the customer was notified 2 times")],
    ),
    "told in vain and once more": (
        {
            "state": "rejected",
            "notification": NotificationSide(1, 1),
            "saga": without("rejected", more=["NotificationFailed"]),
        },
        [("events", "rejected, and the customer was notified 2 times")],
    ),
    "nobody asked for it": (
        {
            "state": "completed",
            "saga": SagaSide(CONTENTS, "completed", TYPES["completed"]),
        },
        [("events", "WithdrawalRequested is missing: nobody asked for it")],
    ),
}


@pytest.mark.parametrize(("sides", "found"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_found_and_nothing_else(sides, found):
    changed = dict(sides)
    state = changed.pop("state", None)
    whole = story(state) if state else Story(uuid4())
    assert list(faults(whole._replace(**changed))) == found


@pytest.mark.parametrize("field", range(3))
@pytest.mark.parametrize("who", ["payment", "provider", "saga"])
def test_every_part_of_the_contents_counts(who, field):
    other = [*CONTENTS]
    other[field] = ("acc-2", 10_001, "EUR")[field]
    whole = story("completed")
    changed = getattr(whole, who)._replace(contents=tuple(other))
    assert list(faults(whole._replace(**{who: changed})))


@pytest.mark.parametrize(
    ("state", "account", "payment", "said"),
    [
        ("completed", COMPENSATED, "failed", "completed, but the account says compensated and the payment failed"),
        (
            "compensated",
            DEDUCTED,
            "processed",
            "compensated, but the account says deducted and the payment processed",
        ),
        ("rejected", DEDUCTED, "processed", "rejected, but the account says deducted and the payment processed"),
        ("completed", REJECTED, None, "completed, but the account says rejected and the payment None"),
        ("completed", DEDUCTED, "awaited", "completed, but the account says deducted and the payment None"),
        ("rejected", None, None, "rejected, but the account says None and the payment None"),
    ],
)
def test_an_ending_is_what_the_services_say(state, account, payment, said):
    paid = PaymentSide(CONTENTS, payment) if payment else None
    one = Story(uuid4(), account, paid, saga=without(state))
    assert [reason for check, reason in faults(one) if check == "saga"] == [said]


@pytest.mark.parametrize("status", ["failed", "awaited"])
def test_a_rejection_may_follow_a_wish_to_cancel(status):
    """The wish was there before anything was deducted: a payment that waits, or that has failed already."""
    more = ["PaymentFailed"] if status == "failed" else []
    one = story("rejected")._replace(payment=PaymentSide(CONTENTS, status), saga=without("rejected", more=more))
    if status == "failed":
        one = one._replace(provider=ProviderSide(CONTENTS, "declined"))
    assert list(faults(one)) == []


def test_a_request_that_is_late_is_not_missed_until_all_is_quiet():
    one = Story(uuid4(), saga=SagaSide(CONTENTS, "incomplete", []))
    assert [check for check, _ in faults(one, quiet=False)] == ["finished"]
    assert [check for check, _ in faults(one)] == ["finished", "events"]


def test_what_an_ended_withdrawal_lacks_is_lost_also_while_others_are_under_way():
    one = story("completed")
    for missing in one.saga.types:
        types = [name for name in one.saga.types if name != missing]
        found = list(faults(one._replace(saga=SagaSide(CONTENTS, "completed", types)), quiet=False))
        assert [check for check, _ in found] == ["events"]
