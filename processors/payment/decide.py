"""Decisions of the payment service: admission of payments, cancellation, and outcomes of provider calls.

Plain functions from state and messages to outcomes; no SQL, no Kafka. A payment ends in one of two ways: the
provider paid, or the provider declined or voided it. A cancellation and a deadline only ask: they turn the next
call from a charge into a void, and the provider's answer decides.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from contracts.events import (
    CancelRefused,
    CancelRequested,
    Event,
    MoneyDeducted,
    PaymentFailed,
    PaymentProcessed,
    Withdrawal,
    follow,
    same_withdrawal,
)
from processors.payment.gateway import Charge, Declined, NotTried, Outcome, Paid, Unavailable, Voided
from processors.runtime.messages import DeadLetter, Emitted, Message
from processors.runtime.retry import RetryPolicy
from tracing import TraceContext

AWAITED = "awaited"
"""A cancellation arrived before the deduction; nothing is to be paid yet."""
PENDING = "pending"
PROCESSED = "processed"
FAILED = "failed"

# Why a payment is to be voided; also the reason of its failure.
CANCELLED = "cancelled"
DEADLINE = "deadline"
PROVIDER_UNAVAILABLE = "provider_unavailable"
VOIDED = "voided_at_provider"

# The reasons of a pending payment, where the provider has not given one.
NOT_TRIED = "provider_not_asked_yet"

ALREADY_PAID = "already_paid"
ALREADY_FAILED = "already_failed"


class Payment(msgspec.Struct):
    """A payment as this service knows it; the amount in minor units.

    Attributes:
        attempts: charges tried so far.
        next_attempt_at: when a pending payment is due; while it is claimed, when the claim expires.
        deadline_at: from when on it is voided rather than paid; None before the first charge.
        void_reason: why it is to be voided rather than paid; None while it is to be paid.
        cancel_refused: whether a refusal of its cancellation was emitted.
    """

    payment_id: UUID
    account_id: str
    amount_minor: int
    currency: str
    context: TraceContext
    status: str = PENDING
    provider_reference: str | None = None
    reason: str | None = None
    attempts: int = 0
    next_attempt_at: datetime | None = None
    deadline_at: datetime | None = None
    void_reason: str | None = None
    cancel_refused: bool = False

    def charge(self) -> Charge:
        """The request to the provider."""
        attempt = self.attempts + 1
        return Charge(self.payment_id, self.account_id, self.amount_minor, self.currency, self.context, attempt)


class Admission(msgspec.Struct):
    """The deductions of a batch, sorted.

    Attributes:
        new: payments unknown so far.
        awaited: payments that were cancelled before their deduction arrived, now known in full.
        dead_letters: deductions that contradict what is known.
    """

    new: list[Payment] = []
    awaited: list[Payment] = []
    dead_letters: list[DeadLetter] = []

    def chargeable(self) -> list[Payment]:
        """Those to be paid at once."""
        return [payment for payment in self.new if payment.void_reason is None]


def admit(messages: Sequence[Message], known: Mapping[UUID, Payment], now: datetime) -> Admission:
    """Sort the deductions of a batch: each payment ID once, without those known already.

    Args:
        messages: ``MoneyDeducted``, and ``CancelRequested``, which count before deductions of the same batch.
        known: the payments that exist already.
        now: the time.
    """
    admission = Admission()
    seen = dict(known)
    wishes: dict[UUID, list[Withdrawal]] = {
        payment_id: [payment] for payment_id, payment in known.items() if payment.status == AWAITED
    }
    for message in messages:
        if isinstance(message.event, CancelRequested):
            wishes.setdefault(message.event.payment_id, []).append(message.event)
    for message in messages:
        event = message.event
        if not isinstance(event, MoneyDeducted):
            continue
        earlier = seen.get(event.payment_id)
        is_new = earlier is None or earlier.status == AWAITED
        if earlier is not None and not is_new and not same_withdrawal(earlier, event):
            reason = f"conflict: payment {event.payment_id} is known with other contents"
            admission.dead_letters.append(DeadLetter(message.record, reason))
        elif is_new:
            payment = Payment(
                event.payment_id, event.account_id, event.amount_minor, event.currency, message.context
            )
            seen[event.payment_id] = payment
            # A cancellation with other contents does not concern this payment: the deduction counts.
            if any(same_withdrawal(wish, event) for wish in wishes.get(event.payment_id, ())):
                _void_instead(payment, CANCELLED, now)
            elif earlier is not None:
                payment.next_attempt_at = now
            (admission.new if earlier is None else admission.awaited).append(payment)
    return admission


class Cancellation(msgspec.Struct):
    """What the cancellations of a batch change.

    Attributes:
        awaited: payments that are not known yet, to be stored.
        to_void: pending payments that are to be voided instead of paid.
        refused: payments whose cancellation is refused for the first time.
        emitted: the refusals.
        dead_letters: cancellations whose contents differ from the known payment's.
    """

    awaited: list[Payment] = []
    to_void: list[Payment] = []
    refused: list[Payment] = []
    emitted: list[Emitted] = []
    dead_letters: list[DeadLetter] = []


def cancel(messages: Sequence[Message], known: Mapping[UUID, Payment], now: datetime) -> Cancellation:
    """Decide the cancellations of a batch; redelivered ones change nothing.

    Args:
        messages: ``CancelRequested``; others are ignored.
        known: the payments that they name, as far as they exist, locked; changed in place.
        now: the time of the decision.
    """
    decision = Cancellation()
    seen = dict(known)
    for message in messages:
        event = message.event
        if not isinstance(event, CancelRequested):
            continue
        payment = seen.get(event.payment_id)
        if payment is None:
            payment = Payment(
                event.payment_id, event.account_id, event.amount_minor, event.currency, message.context, AWAITED
            )
            payment.void_reason = CANCELLED
            seen[event.payment_id] = payment
            decision.awaited.append(payment)
        elif not same_withdrawal(payment, event):
            reason = f"conflict: payment {event.payment_id} is known with other contents"
            decision.dead_letters.append(DeadLetter(message.record, reason))
        elif payment.status == PENDING and payment.void_reason is None:
            _void_instead(payment, CANCELLED, now)
            decision.to_void.append(payment)
        elif refusal := _refuse_cancel(payment, now):
            decision.emitted += refusal
            decision.refused.append(payment)
    return decision


def must_void(payment: Payment, now: datetime) -> bool:
    """Whether a due payment may no longer be charged; sets ``void_reason``."""
    deadline_at = payment.deadline_at if payment.attempts else None
    if payment.void_reason is None and deadline_at is not None and deadline_at <= now:
        payment.void_reason = DEADLINE
    return payment.void_reason is not None


def count_attempt(
    payment: Payment, outcome: Outcome, policy: RetryPolicy, now: datetime, allowed: timedelta
) -> bool:
    """Count a charge; True if it was the last one, by number or by time, and got no answer: it must be voided.

    A payment that has met nothing but rate limits has no attempt. Its turn may come late: it is charged past its
    deadline too, and voided if it meets a rate limit once more.

    Args:
        payment: what was charged; changed in place.
        outcome: the provider's answer.
        policy: how many charges there are.
        now: when it was charged.
        allowed: the time from the first charge to the deadline.
    """
    if isinstance(outcome, NotTried):
        return False
    if isinstance(outcome, Unavailable) and not outcome.counts:
        if payment.deadline_at is None:
            payment.deadline_at = now + allowed
        elif payment.deadline_at <= now:
            payment.void_reason = DEADLINE
        return payment.void_reason is not None
    if payment.deadline_at is None or (not payment.attempts and payment.deadline_at <= now):
        payment.deadline_at = now + allowed
    payment.attempts += 1
    if isinstance(outcome, Unavailable) and policy.has_run_out(payment.attempts):
        payment.void_reason = PROVIDER_UNAVAILABLE
        return True
    return False


def conclude(
    payment: Payment, outcome: Outcome, now: datetime, policy: RetryPolicy, wished: str | None = None
) -> list[Emitted]:
    """Apply an outcome to a payment, in place; returns the events that follow, if it is final.

    Args:
        payment: pending, as it was when the provider was asked.
        outcome: the provider's answer, to a charge or to a void.
        now: the time of the answer.
        policy: when to retry without an answer.
        wished: the current reason to void it; set by a cancellation that arrived during the provider call.
    """
    is_news = wished is not None and payment.void_reason is None
    payment.void_reason = wished or payment.void_reason
    payment.next_attempt_at = None
    match outcome:
        case Paid(reference):
            payment.status, payment.provider_reference, payment.reason = PROCESSED, reference, None
            return _end(payment, follow(PaymentProcessed, payment, now, provider_reference=reference), now)
        case Declined(reason):
            payment.status, payment.reason = FAILED, reason
            return _end(payment, follow(PaymentFailed, payment, now, reason=reason), now)
        case Voided():
            payment.status, payment.reason = FAILED, payment.void_reason or VOIDED
            return _end(payment, follow(PaymentFailed, payment, now, reason=payment.reason), now)
        case Unavailable(reason, retry_after_s):
            due = policy.next_at(max(payment.attempts, 1), now, retry_after_s)
            payment.reason = reason
            payment.next_attempt_at = now if is_news else _not_after_deadline(payment, due, now)
        case NotTried():
            payment.reason = payment.reason or NOT_TRIED
            payment.next_attempt_at = now
    return []


def _end(payment: Payment, event: Event, now: datetime) -> list[Emitted]:
    """The event that ends a payment; plus a refusal, if its cancellation was requested and it ended otherwise."""
    ending = [Emitted(event, payment.context)]
    return ending + _refuse_cancel(payment, now) if payment.void_reason == CANCELLED else ending


def _refuse_cancel(payment: Payment, now: datetime) -> list[Emitted]:
    """The refusal, once, if the payment has ended in another way than by being cancelled."""
    if payment.cancel_refused or payment.status not in (PROCESSED, FAILED) or payment.reason == CANCELLED:
        return []
    payment.cancel_refused = True
    reason = ALREADY_PAID if payment.status == PROCESSED else f"{ALREADY_FAILED}: {payment.reason}"
    return [Emitted(follow(CancelRefused, payment, now, reason=reason), payment.context)]


def _void_instead(payment: Payment, reason: str, now: datetime) -> None:
    payment.void_reason, payment.next_attempt_at = reason, now


def _not_after_deadline(payment: Payment, due: datetime, now: datetime) -> datetime:
    """The next attempt, no later than the deadline, when the payment is voided."""
    if payment.void_reason is None and payment.deadline_at is not None and now < payment.deadline_at:
        return min(due, payment.deadline_at)
    return due
