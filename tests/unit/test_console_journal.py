"""The journal of a withdrawal: in the order of what happened, with work and waiting told apart as far as known."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec
import pytest

from api.console.steps import THIN, WIDTH, journal
from contracts.events import (
    BalanceChecked,
    MoneyDeducted,
    MoneyRefunded,
    NotificationSent,
    PaymentFailed,
    PaymentProcessed,
    WithdrawalCompensated,
    WithdrawalCompleted,
    WithdrawalRequested,
    encode,
)
from operations.events import Recorded

BEGIN = datetime(2026, 11, 30, 2, 15, tzinfo=UTC)
ABOUT = {"payment_id": uuid4(), "account_id": "acc-1", "amount_minor": 10_005, "currency": "USD"}


def at(ms: float) -> datetime:
    return BEGIN + timedelta(milliseconds=ms)


def recorded(number: int, event_type, ms: float, **more) -> Recorded:
    body = encode(event_type(occurred_at=at(ms), **ABOUT, **more))
    name = event_type.__name__
    return Recorded(
        number, ABOUT["payment_id"], uuid4(), name, msgspec.Raw(body), event_type.topic, 0, number, at(ms + 50)
    )


def completed() -> list[Recorded]:
    return [
        recorded(1, WithdrawalRequested, 0),
        # The saga service reads several topics: the payment's event was there first.
        recorded(2, PaymentProcessed, 60, provider_reference="ref"),
        recorded(3, BalanceChecked, 20, balance_minor=1_000_000, sufficient=True),
        recorded(4, MoneyDeducted, 20, balance_minor=989_995),
        recorded(5, NotificationSent, 90, template="withdrawal_paid", recipient="x@example.org"),
        recorded(6, WithdrawalCompleted, 100),
    ]


PUBLISHED = {1: at(5), 2: at(65), 3: at(30), 4: at(30), 5: at(95)}


def test_steps_are_in_the_order_of_what_happened():
    assert [step.name for step in journal(completed(), PUBLISHED).steps] == [
        "WithdrawalRequested",
        "BalanceChecked",
        "MoneyDeducted",
        "PaymentProcessed",
        "NotificationSent",
        "WithdrawalCompleted",
    ]


def test_a_step_takes_from_the_record_it_follows_from_and_then_waits_for_its_own():
    found = journal(completed(), PUBLISHED)
    assert [(step.after_ms, step.took_ms, step.waited_ms) for step in found.steps] == [
        (0, None, 5),
        (20, 15, 10),
        (20, 15, 10),
        (60, 30, 5),
        (90, 25, 5),
        (100, 5, None),
    ]
    assert (found.total_ms, found.has_kafka) == (100, True)
    assert [step.is_end for step in found.steps] == [False] * 5 + [True]


def test_without_kafkas_times_a_step_takes_from_event_to_event():
    found = journal(completed(), {})
    assert [step.took_ms for step in found.steps] == [None, 20, 20, 40, 30, 10]
    assert {step.waited_ms for step in found.steps} == {None}
    assert not found.has_kafka


def test_bars_are_within_the_picture_and_never_invisible():
    events = completed()
    steps = journal(events, PUBLISHED | {6: at(100.001)}).steps
    bars = [bar for step in steps for bar in (step.work, step.waited) if bar is not None]
    assert len(bars) == 11
    for bar in bars:
        assert bar.x >= 0
        assert bar.x + bar.width <= WIDTH + 0.1
        assert bar.width >= THIN


def test_where_clocks_differ_no_time_is_negative():
    events = [recorded(1, WithdrawalRequested, 0), recorded(2, MoneyDeducted, 3, balance_minor=1)]
    step = journal(events, {1: at(5), 2: at(1)}).steps[1]
    assert (step.took_ms, step.waited_ms, step.work, step.waited) == (None, None, None, None)


def test_a_record_within_the_millisecond_of_its_event_did_not_come_before_it():
    """Kafka's times have no microseconds, and a relay may need less than one millisecond."""
    events = [recorded(1, WithdrawalRequested, 0), recorded(2, MoneyDeducted, 3.9, balance_minor=1)]
    step = journal(events, {1: at(0), 2: at(3)}).steps[1]
    assert step.waited_ms == 0
    assert step.waited is not None


def test_one_that_was_undone_says_so_and_why():
    events = [
        recorded(1, WithdrawalRequested, 0),
        recorded(2, MoneyDeducted, 10, balance_minor=989_995),
        recorded(3, PaymentFailed, 20, reason="declined"),
        recorded(4, MoneyRefunded, 30, balance_minor=1_000_000, reason="declined"),
        recorded(5, WithdrawalCompensated, 30, reason="declined"),
    ]
    steps = journal(events, {}).steps
    assert [step.is_compensation for step in steps] == [False, False, True, True, False]
    assert [step.took_ms for step in steps] == [None, 10, 10, 10, 0]
    assert [step.note for step in steps][1:4] == [
        "balance 9,899.95 USD",
        "declined",
        "balance 10,000.00 USD, declined",
    ]


@pytest.mark.parametrize("body", [b"{}", b"[1]", b"nothing", b'{"occurred_at": "noon", "reason": 7}'])
def test_a_body_that_nobody_can_read_has_the_time_of_its_recording(body):
    event = Recorded(1, ABOUT["payment_id"], uuid4(), "SomethingElse", msgspec.Raw(body), None, None, None, at(7))
    (step,) = journal([event], {}).steps
    assert (step.at, step.note, step.took_ms) == (at(7), "", None)


def test_a_type_of_a_service_that_was_added_follows_from_what_was_before_it():
    events = [recorded(1, WithdrawalRequested, 0), recorded(2, MoneyDeducted, 10, balance_minor=1)]
    body = msgspec.json.encode({"occurred_at": at(25).isoformat(), "reason": "odd‮"})
    events.append(
        Recorded(3, ABOUT["payment_id"], uuid4(), "Suspected", msgspec.Raw(body), None, None, None, at(30))
    )
    step = journal(events, {2: at(12)}).steps[-1]
    assert (step.name, step.took_ms, step.note) == ("Suspected", 13, "odd\\u202e")


def test_nothing_recorded_is_an_empty_journal():
    assert journal([], {}).steps == []
