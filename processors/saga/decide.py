"""Decisions of the saga service: the state of a withdrawal, and whether it is finished.

Plain functions from the events seen to the state; no SQL, no Kafka. The order of arrival does not matter:
the state follows from the *set* of its events, and the withdrawal is closed when that set is complete.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from uuid import UUID

import msgspec

from broker.records import Record
from contracts.events import (
    EVENT_TYPES,
    BalanceChecked,
    Event,
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
    follow,
    same_withdrawal,
)
from processors.runtime.messages import Emitted, Message
from tracing import TraceContext

INCOMPLETE = "incomplete"
REQUESTED = "requested"
DEDUCTED = "deducted"
PAID = "paid"
COMPENSATING = "compensating"
COMPLETED = "completed"
COMPENSATED = "compensated"
REJECTED = "rejected"

FINISHED = frozenset({COMPLETED, COMPENSATED, REJECTED})
OPEN_STATES = (INCOMPLETE, REQUESTED, DEDUCTED, PAID, COMPENSATING)

BITS = {
    event_type: 1 << event_type.saga_bit for event_type in EVENT_TYPES.values() if event_type.saga_bit is not None
}
"""One bit per event type of a saga; stored."""

_REQUESTED = BITS[WithdrawalRequested]
_TAKEN = _REQUESTED | BITS[BalanceChecked] | BITS[MoneyDeducted]
_TOLD = BITS[NotificationSent] | BITS[NotificationFailed]
_RETURNED = _TAKEN | BITS[PaymentFailed] | BITS[MoneyRefunded]
_FROM_ACCOUNT = BITS[BalanceChecked] | BITS[MoneyDeducted] | BITS[WithdrawalRejected] | BITS[MoneyRefunded]
_ACTED_ON: dict[str, type[Event]] = {
    DEDUCTED: MoneyDeducted,
    PAID: PaymentProcessed,
    COMPENSATING: PaymentFailed,
}
_ACTS_ON = {
    WithdrawalRequested: "account",
    MoneyDeducted: "payment",
    PaymentProcessed: "notification",
    PaymentFailed: "account",
}
_GIVE_REASON = (WithdrawalRejected, PaymentFailed)


class Standing(msgspec.Struct):
    """The state of one withdrawal; the amount in minor units.

    ``requested_at`` is the request's time; ``seen_before`` and ``contents_before`` are the events seen and the
    :attr:`contents` when it was read from the database, None if it is new.
    """

    payment_id: UUID
    account_id: str
    amount_minor: int
    currency: str
    state: str
    seen: int
    reason: str | None
    trace_id: str | None
    finished_at: datetime | None
    finished_by: str | None
    requested_at: datetime | None = None
    seen_before: int | None = None
    contents_before: tuple[object, ...] | None = None

    @property
    def contents(self) -> tuple[object, ...]:
        """What few events change; the rest advances with each."""
        return self.account_id, self.amount_minor, self.currency, self.reason, self.trace_id, self.requested_at


class StoredEvent(msgspec.Struct, frozen=True):
    """An event for the store; without a record if this service emitted it."""

    event_id: UUID
    event: Event
    record: Record | None


class Transitions(msgspec.Struct):
    """What a batch changes: all of it is written in one transaction, or none.

    ``stored`` are the first events of their type, ``stored_again`` any later ones; ``finished`` are the standings
    that this batch finishes, each with the trace context in which it did.
    """

    standings: list[Standing] = []
    stored: list[StoredEvent] = []
    stored_again: list[StoredEvent] = []
    emitted: list[Emitted] = []
    finished: list[tuple[Standing, TraceContext]] = []


@cache
def state_of(seen: int) -> str:
    """The state that a set of events amounts to.

    Without the request the state is ``incomplete``: the request may be late, or there never was one.
    """
    if not seen & _REQUESTED:
        return INCOMPLETE
    if seen & BITS[WithdrawalRejected]:
        return REJECTED
    if seen & BITS[WithdrawalCompensated]:
        return COMPENSATED
    if seen & BITS[WithdrawalCompleted]:
        return COMPLETED
    if seen & BITS[PaymentProcessed]:
        return PAID
    if seen & (BITS[PaymentFailed] | BITS[MoneyRefunded]):
        return COMPENSATING
    return DEDUCTED if seen & BITS[MoneyDeducted] else REQUESTED


@cache
def closing_of(seen: int) -> type[Event] | None:
    """The event that closes the withdrawal now, if its events are complete and it is not closed yet."""
    if seen & (BITS[WithdrawalCompleted] | BITS[WithdrawalCompensated]):
        return None
    if seen & _RETURNED == _RETURNED:
        return WithdrawalCompensated
    paid = _TAKEN | BITS[PaymentProcessed]
    return WithdrawalCompleted if seen & paid == paid and seen & _TOLD else None


def is_decided(seen: int) -> bool:
    """Whether the account service has decided: the withdrawal's contents are those of the request that it took."""
    return bool(seen & _FROM_ACCOUNT)


def waiting_for(seen: int) -> str | None:
    """The step that has to happen next, as text; None when the withdrawal is finished."""
    state = state_of(seen)
    if state in FINISHED:
        return None
    if state == INCOMPLETE:
        return "the request to reach the saga service"
    if not seen & _FROM_ACCOUNT:
        return "the account service to check the balance"
    if state == COMPENSATING and not seen & BITS[MoneyRefunded]:
        return "the account service to refund"
    if state == PAID and not seen & _TOLD:
        return "the notification service to tell the customer"
    if state in (COMPENSATING, PAID):
        lacks = (_RETURNED if state == COMPENSATING else _TAKEN) & ~seen
        names = [event_type.__name__ for event_type, bit in BITS.items() if lacks & bit]
        return f"{' and '.join(names)} to reach the saga service" if names else "the saga service to close"
    if state == DEDUCTED:
        return "the payment service to pay"
    return "the account service to deduct"


def needed_for(seen: int) -> type[Event] | None:
    """The event that triggers the next step; None when the withdrawal is finished, or waits for no step."""
    state = state_of(seen)
    if state in FINISHED:
        return None
    if not seen & _FROM_ACCOUNT:
        return WithdrawalRequested
    return _ACTED_ON.get(state)


def awaited_service(seen: int) -> str:
    """The service whose step is next; the saga service where only events have not reached it yet."""
    needed = needed_for(seen)
    return _ACTS_ON.get(needed, "saga") if needed is not None else "saga"


def decide(messages: Sequence[Message], known: Mapping[UUID, Standing], now: datetime) -> Transitions:
    """Record a batch, and close the withdrawals that it finishes.

    Args:
        messages: events of any type, in any order.
        known: the states of their withdrawals so far; changed in place.
        now: the time that closing events carry.
    """
    transitions = Transitions()
    standings = dict(known)
    for message in messages:
        event = message.event
        standing = standings.get(event.payment_id)
        if standing is None:
            standing = standings[event.payment_id] = _begin(message)
        elif isinstance(event, WithdrawalRequested) and not _belongs(event, standing):
            continue
        bit = BITS[type(event)]
        stored = StoredEvent(message.id, event, message.record)
        if standing.seen & bit:
            transitions.stored_again.append(stored)
            continue
        transitions.stored.append(stored)
        # The account service's events determine the contents of the withdrawal; before those, the first request.
        if bit & _FROM_ACCOUNT or (bit & _REQUESTED and not standing.seen & _FROM_ACCOUNT):
            standing.account_id, standing.amount_minor = event.account_id, event.amount_minor
            standing.currency = event.currency
            standing.trace_id = message.context.trace_id or standing.trace_id
        standing.seen |= bit
        if bit & _REQUESTED:
            standing.requested_at = event.occurred_at
        if isinstance(event, _GIVE_REASON):
            standing.reason = event.reason
        closing = closing_of(standing.seen)
        if closing is not None:
            _close(closing, message, standing, now, transitions)
        standing.state = state_of(standing.seen)
        if standing.finished_at is None and standing.state == REJECTED:
            standing.finished_at = event.occurred_at if isinstance(event, WithdrawalRejected) else now
            standing.finished_by = WithdrawalRejected.__name__
            transitions.finished.append((standing, message.context))
    transitions.standings = [s for s in standings.values() if s.seen != s.seen_before]
    return transitions


def _begin(message: Message) -> Standing:
    event = message.event
    return Standing(
        event.payment_id,
        event.account_id,
        event.amount_minor,
        event.currency,
        state=REQUESTED,
        seen=0,
        reason=None,
        trace_id=message.context.trace_id,
        finished_at=None,
        finished_by=None,
    )


def _belongs(request: WithdrawalRequested, standing: Standing) -> bool:
    """Whether a request is part of the saga; a second one with other contents, which will be refused, is not.

    Until the account service has decided it is: either of the two may be accepted.
    """
    return same_withdrawal(request, standing) or not standing.seen & _FROM_ACCOUNT


def _close(
    closing: type[Event], message: Message, standing: Standing, now: datetime, transitions: Transitions
) -> None:
    details = {"reason": standing.reason or ""} if closing is WithdrawalCompensated else {}
    emitted = Emitted(follow(closing, standing, now, **details), message.context)
    transitions.emitted.append(emitted)
    transitions.stored.append(StoredEvent(emitted.id, emitted.event, None))
    standing.seen |= BITS[closing]
    standing.finished_at, standing.finished_by = now, closing.__name__
    transitions.finished.append((standing, message.context))
