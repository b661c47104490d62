from datetime import timedelta

import pytest

from contracts.events import (
    MoneyRefunded,
    NotificationFailed,
    NotificationSent,
    PaymentProcessed,
    WithdrawalRejected,
)
from processors.notification.decide import admit, conclude
from processors.notification.mailer import Delivered, NotTried, Refused, Undelivered
from processors.runtime.retry import RetryPolicy
from tests.unit.messages import NOW, after, message, request

BACKOFF_S = (1.0, 2.0)
POLICY = RetryPolicy(BACKOFF_S)
LIFETIME = timedelta(hours=1)


def admitted(event_type=PaymentProcessed, known=()):
    return admit([message(after(request(123_456), event_type))], known, "{}@bank.example".format)


def test_the_customer_is_told_what_happened_to_the_money():
    texts = {}
    for event_type in (PaymentProcessed, MoneyRefunded, WithdrawalRejected):
        (notification,) = admitted(event_type)
        mail = notification.mail()
        assert mail.recipient == "acc-1@bank.example"
        assert "1,234.56 USD" in mail.subject
        assert str(notification.payment_id) in mail.text
        texts[mail.template] = mail.text
    assert "paid out" in texts["withdrawal_paid"]
    assert "is back on account acc-1" in texts["withdrawal_refunded"]
    assert "Nothing was taken" in texts["withdrawal_rejected"]


@pytest.mark.parametrize(("currency", "amount"), [("JPY", "123,456 JPY"), ("KWD", "123.456 KWD")])
@pytest.mark.parametrize("event_type", [PaymentProcessed, MoneyRefunded, WithdrawalRejected])
def test_the_customer_reads_the_amount_with_the_decimals_of_its_currency(event_type, currency, amount):
    (notification,) = admit([message(after(request(123_456, currency=currency), event_type))], (), str)
    mail = notification.mail()
    assert f"withdrawal of {amount}" in mail.subject
    assert mail.text.startswith(f"{amount} ")


def test_one_mail_per_payment_and_template():
    one = message(after(request(), PaymentProcessed))
    (notification,) = admit([one, one], (), str)
    assert notification.key == (notification.payment_id, notification.template)
    assert not admit([one], {notification.key}, str)


def test_delivered_is_told():
    (notification,) = admitted()
    emitted = conclude(notification, Delivered(), NOW, POLICY, LIFETIME)
    assert isinstance(emitted.event, NotificationSent)
    assert (notification.status, notification.next_attempt_at) == ("sent", None)


def test_an_outage_is_waited_for_whatever_the_number_of_attempts_and_told_once_the_mail_is_too_old():
    (notification,) = admitted()
    for pause_s in (*BACKOFF_S, *[BACKOFF_S[-1]] * 100):
        assert conclude(notification, Undelivered("down"), NOW, POLICY, LIFETIME) is None
        assert notification.next_attempt_at == NOW + timedelta(seconds=pause_s)
        notification.created_at = NOW - LIFETIME + timedelta(seconds=1)
    assert (notification.attempts, notification.reason) == (102, "down")
    notification.created_at = NOW - LIFETIME
    emitted = conclude(notification, Undelivered("still down"), NOW, POLICY, LIFETIME)
    assert isinstance(emitted.event, NotificationFailed)
    assert emitted.event.reason == "still down"
    assert (notification.status, notification.next_attempt_at) == ("failed", None)


def test_after_refusals_that_may_be_of_all_mail_the_pauses_grow_to_hours_and_after_an_outage_no_longer():
    """Some tens of attempts in five days, where each minutes apart would be more than a thousand."""
    (notification,) = admitted()
    policy, lifetime, now = RetryPolicy((1.0, 60.0, 300.0)), timedelta(hours=120), NOW
    notification.created_at = NOW
    ages = []
    while conclude(notification, Undelivered("554 no", is_refusal=True), now, policy, lifetime) is None:
        ages.append(now - NOW)
        pause = notification.next_attempt_at - now
        assert timedelta(minutes=5) <= pause <= timedelta(hours=4)
        now += pause
    assert sum(age < timedelta(hours=1) for age in ages) <= 10
    assert 20 < notification.attempts < 100

    (notification,) = admitted()
    notification.created_at = NOW - timedelta(hours=100)
    for pause_s in (1.0, 60.0, 300.0, 300.0):
        assert conclude(notification, Undelivered("down"), NOW, policy, lifetime) is None
        assert notification.next_attempt_at == NOW + timedelta(seconds=pause_s)


def test_a_mail_that_is_too_old_is_sent_all_the_same_if_it_can_be():
    (notification,) = admitted()
    notification.created_at = NOW - 2 * LIFETIME
    assert conclude(notification, NotTried("it rests"), NOW, POLICY, LIFETIME) is None
    emitted = conclude(notification, Delivered(), NOW, POLICY, LIFETIME)
    assert isinstance(emitted.event, NotificationSent)


def test_a_refused_address_is_not_tried_again():
    (notification,) = admitted()
    emitted = conclude(notification, Refused("550 no such user"), NOW, POLICY, LIFETIME)
    assert isinstance(emitted.event, NotificationFailed)
    assert emitted.event.reason == "550 no such user"


def test_a_mail_server_that_rests_costs_no_attempt():
    (notification,) = admitted()
    for _ in range(10):
        assert conclude(notification, NotTried("it rests"), NOW, POLICY, LIFETIME) is None
    assert (notification.attempts, notification.next_attempt_at, notification.reason) == (0, NOW, "it rests")
    conclude(notification, Undelivered("down"), NOW, POLICY, LIFETIME)
    conclude(notification, NotTried("it rests"), NOW, POLICY, LIFETIME)
    assert notification.reason == "down"
