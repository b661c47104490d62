"""Decisions of the notification service: which mail a customer gets, and the event that follows its delivery.

Plain functions from state and messages to outcomes; no SQL, no Kafka, no SMTP.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from contracts.events import (
    MoneyRefunded,
    NotificationFailed,
    NotificationSent,
    PaymentProcessed,
    WithdrawalRejected,
    follow,
)
from contracts.money import format_amount
from processors.notification.mailer import Delivered, Delivery, Mail, NotTried, Refused, Undelivered
from processors.runtime.messages import Emitted, Message
from processors.runtime.retry import RetryPolicy
from tracing import TraceContext

PENDING = "pending"
SENT = "sent"
FAILED = "failed"

PAID = "withdrawal_paid"
REFUNDED = "withdrawal_refunded"
REJECTED = "withdrawal_rejected"

REFUSAL_PAUSE_SHARE = 0.25
"""After a refusal that may not be the mail's fault, the pause is at least this share of the mail's age."""

REFUSAL_PAUSE_S_MIN = 300.0
"""And at least so long: a server may block a client that soon repeats what it has refused."""

REFUSAL_PAUSE_S_MAX = 4 * 3600.0
"""With the share some 50 attempts in five days."""

_TEMPLATES = {PaymentProcessed: PAID, MoneyRefunded: REFUNDED, WithdrawalRejected: REJECTED}

_SUBJECTS = {
    PAID: "Your withdrawal of {amount} {currency}",
    REFUNDED: "Your withdrawal of {amount} {currency} was not possible",
    REJECTED: "Your withdrawal of {amount} {currency} was refused",
}

_TEXTS = {
    PAID: "{amount} {currency} left account {account} and was paid out.\n",
    REFUNDED: "{amount} {currency} could not be paid out and is back on account {account}.\n",
    REJECTED: "{amount} {currency} could not be withdrawn from account {account}. Nothing was taken.\n",
}


class Notification(msgspec.Struct):
    """A mail to a customer as this service knows it; the amount in minor units.

    Attributes:
        attempts: to send it, made so far.
        next_attempt_at: when a pending one is due.
        created_at: when it was stored; None before that.
    """

    payment_id: UUID
    template: str
    account_id: str
    amount_minor: int
    currency: str
    recipient: str
    context: TraceContext
    status: str = PENDING
    reason: str | None = None
    attempts: int = 0
    next_attempt_at: datetime | None = None
    created_at: datetime | None = None

    @property
    def key(self) -> tuple[UUID, str]:
        """Payment ID and template: there is never a second mail with the same two."""
        return self.payment_id, self.template

    def mail(self) -> Mail:
        """The mail to send."""
        words = {
            "amount": format_amount(self.amount_minor, self.currency),
            "currency": self.currency,
            "account": self.account_id,
        }
        subject = _SUBJECTS[self.template].format(**words)
        text = f"{_TEXTS[self.template].format(**words)}\nPayment {self.payment_id}\n"
        return Mail(self.payment_id, self.template, self.recipient, subject, text, self.context, self.attempts + 1)


def admit(
    messages: Sequence[Message], known: Collection[tuple[UUID, str]], address_of: Callable[[str], str]
) -> list[Notification]:
    """The notifications of a batch that are new: one per payment ID and template.

    Args:
        messages: ``PaymentProcessed``, ``MoneyRefunded`` and ``WithdrawalRejected``.
        known: payment ID and template of those that exist already.
        address_of: from an account ID to the customer's mail address.
    """
    seen = set(known)
    new = []
    for message in messages:
        event = message.event
        key = (event.payment_id, _TEMPLATES[type(event)])
        if key in seen:
            continue
        seen.add(key)
        address = address_of(event.account_id)
        new.append(
            Notification(*key, event.account_id, event.amount_minor, event.currency, address, message.context)
        )
    return new


def conclude(
    notification: Notification, delivery: Delivery, now: datetime, policy: RetryPolicy, lifetime: timedelta
) -> Emitted | None:
    """Apply a delivery outcome in place; returns the event that follows, if the outcome is final.

    Args:
        notification: pending; its attempts are incremented, if there was one.
        delivery: the mail's outcome.
        now: the time of it.
        policy: when to retry.
        lifetime: the age from which on a mail that cannot be sent has failed, however many attempts there were.
    """
    if isinstance(delivery, NotTried):
        notification.reason = notification.reason or delivery.reason
        notification.next_attempt_at = now
        return None
    notification.attempts += 1
    notification.next_attempt_at = None
    is_too_old = notification.created_at is not None and now >= notification.created_at + lifetime
    match delivery:
        case Delivered():
            notification.status, notification.reason = SENT, None
            event = follow(
                NotificationSent,
                notification,
                now,
                template=notification.template,
                recipient=notification.recipient,
            )
            return Emitted(event, notification.context)
        case Undelivered(reason, is_refusal) if not is_too_old:
            notification.reason = reason
            pause_s = _pause_after_refusal_s(notification, now) if is_refusal else 0.0
            notification.next_attempt_at = policy.next_at(notification.attempts, now, pause_s)
            return None
        case Refused(reason) | Undelivered(reason):
            notification.status, notification.reason = FAILED, reason
            failed = follow(NotificationFailed, notification, now, template=notification.template, reason=reason)
            return Emitted(failed, notification.context)


def _pause_after_refusal_s(notification: Notification, now: datetime) -> float:
    """The least pause after a refusal, seconds: it grows with the mail's age."""
    age_s = (now - notification.created_at).total_seconds() if notification.created_at is not None else 0.0
    return min(max(REFUSAL_PAUSE_SHARE * age_s, REFUSAL_PAUSE_S_MIN), REFUSAL_PAUSE_S_MAX)
