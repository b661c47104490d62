"""Lost events are only those that a service has not acted on, and another one's tables prove."""

import pytest

from contracts.events import EVENT_TYPES
from operations.lost import Known, acted_on, everything, happened, lacking
from processors.notification.decide import PAID, REFUNDED, REJECTED
from processors.saga.decide import BITS


def seen(*types: str) -> int:
    return sum(BITS[EVENT_TYPES[event_type]] for event_type in types)


PAID_EVENTS = ("WithdrawalRequested", "BalanceChecked", "MoneyDeducted", "PaymentProcessed", "NotificationSent")
DEDUCTED = Known("deducted", True, payment="processed", templates=frozenset({PAID}), notifications={"sent"})
COMPENSATED = Known("compensated", True, payment="failed", templates=frozenset({REFUNDED}), notifications={"sent"})
REFUSED = Known("rejected", True, templates=frozenset({REJECTED}), notifications={"failed"})
RETURNED = (*PAID_EVENTS[:3], "PaymentFailed", "MoneyRefunded", "NotificationSent")


def test_nothing_is_lost_where_everybody_has_acted():
    assert lacking(DEDUCTED._replace(seen=seen(*PAID_EVENTS, "WithdrawalCompleted"))) == set()
    assert lacking(COMPENSATED._replace(seen=seen(*RETURNED))) == set()
    told = ("WithdrawalRequested", "WithdrawalRejected", "NotificationFailed")
    assert lacking(REFUSED._replace(seen=seen(*told))) == set()
    assert lacking(Known(seen=0)) == set()
    assert lacking(Known()) == set()


@pytest.mark.parametrize(
    ("known", "types"), [(DEDUCTED, PAID_EVENTS), (COMPENSATED, RETURNED)], ids=["paid", "refunded"]
)
def test_the_saga_lacks_what_it_has_not_stored_of_what_happened(known, types):
    assert lacking(known) == set(types)
    for event_type in types:
        assert lacking(known._replace(seen=seen(*(set(types) - {event_type})))) == {event_type}
    assert everything(known._replace(seen=seen("WithdrawalCompleted"))) == {*types, "WithdrawalCompleted"}


@pytest.mark.parametrize(
    ("known", "lost"),
    [
        (Known(seen=seen("WithdrawalRequested")), "WithdrawalRequested"),
        (Known("deducted", True, seen=seen(*PAID_EVENTS[:3])), "MoneyDeducted"),
        (Known("deducted", True, payment="awaited", seen=seen(*PAID_EVENTS[:3])), "MoneyDeducted"),
        (Known("deducted", True, payment="pending", seen=seen(*PAID_EVENTS[:3])), None),
        (DEDUCTED._replace(templates=frozenset(), notifications=frozenset()), "PaymentProcessed"),
        (COMPENSATED._replace(templates=frozenset(), notifications=frozenset()), "MoneyRefunded"),
        (REFUSED._replace(templates=frozenset(), notifications=frozenset()), "WithdrawalRejected"),
        (Known("deducted", True, payment="failed"), "PaymentFailed"),
        (Known("deducted", True, refund_due=True, payment="failed"), None),
    ],
)
def test_a_service_lacks_what_it_acts_on_and_has_not(known, lost):
    if known.seen is None:  # the saga has all of it
        known = known._replace(seen=seen(*happened(known)))
    assert lacking(known) == ({lost} if lost else set())


def test_a_refused_cancellation_is_told_again():
    known = DEDUCTED._replace(cancel_refused=True, seen=seen(*PAID_EVENTS))
    assert lacking(known) == {"CancelRefused"}


def test_nobody_asked_for_what_was_refused_on_hearsay():
    assert "WithdrawalRequested" not in happened(REFUSED._replace(requested=False))
    assert "WithdrawalRequested" in happened(REFUSED)


def test_a_request_that_only_the_api_knows_is_lost_by_all_others():
    assert lacking(Known(accepted=True)) == everything(Known(accepted=True)) == {"WithdrawalRequested"}


def test_the_waiting_step_acts_on_one_event_of_those_that_are_stored():
    assert acted_on(Known(seen=seen("WithdrawalRequested"))) == {"WithdrawalRequested"}
    assert acted_on(Known(seen=seen(*PAID_EVENTS[:3]))) == {"MoneyDeducted"}
    assert acted_on(Known(seen=seen(*PAID_EVENTS[:4]))) == {"PaymentProcessed"}
    assert acted_on(Known(seen=seen("MoneyDeducted"))) == set()
    assert acted_on(Known()) == set()
