"""Decisions of the account service: deductions and rejections, and refunds of failed payments.

Plain functions from state and messages to outcomes; no SQL, no Kafka. Messages for the same account are decided
in order on the running balance.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from contracts.events import (
    BalanceChecked,
    Event,
    MoneyDeducted,
    MoneyRefunded,
    PaymentFailed,
    WithdrawalRejected,
    WithdrawalRequested,
    follow,
    same_withdrawal,
)
from processors.runtime.messages import DeadLetter, Emitted, Message

UNKNOWN_ACCOUNT = "unknown_account"
CURRENCY_MISMATCH = "currency_mismatch"
INSUFFICIENT_FUNDS = "insufficient_funds"

DEDUCTED = "deducted"
COMPENSATED = "compensated"
REJECTED = "rejected"


class Account(msgspec.Struct):
    """An account as it stands; the balance in minor units."""

    account_id: str
    currency: str
    balance_minor: int


class LogEntry(msgspec.Struct):
    """What this service did for one withdrawal."""

    payment_id: UUID
    account_id: str
    amount_minor: int
    currency: str
    status: str
    reason: str | None = None


class Booking(msgspec.Struct, frozen=True):
    """A movement of money: negative for a deduction, positive for a refund."""

    payment_id: UUID
    kind: str
    account_id: str
    amount_minor: int


class Decision(msgspec.Struct):
    """What a batch changes: all of it is written in one transaction, or none."""

    accounts: dict[str, Account] = {}
    opened: list[LogEntry] = []
    compensated: list[LogEntry] = []
    bookings: list[Booking] = []
    emitted: list[Emitted] = []
    dead_letters: list[DeadLetter] = []


def decide(
    messages: Sequence[Message],
    accounts: dict[str, Account],
    log: dict[UUID, LogEntry],
    now: datetime,
) -> Decision:
    """Decide a batch in order of arrival.

    Args:
        messages: ``WithdrawalRequested`` and ``PaymentFailed``.
        accounts: the accounts they name, as far as they exist; changed in place.
        log: earlier decisions on the same payment IDs; grows as the batch is decided.
        now: the time that the events will carry.
    """
    decision = Decision()
    for message in messages:
        event = message.event
        if isinstance(event, PaymentFailed):
            _refund(message, event, accounts, log, now, decision)
        elif isinstance(event, WithdrawalRequested):
            _withdraw(message, event, accounts, log, now, decision)
    return decision


def _withdraw(
    message: Message,
    request: WithdrawalRequested,
    accounts: dict[str, Account],
    log: dict[UUID, LogEntry],
    now: datetime,
    decision: Decision,
) -> None:
    known = log.get(request.payment_id)
    if known is not None:
        if not same_withdrawal(known, request):
            reason = f"conflict: payment {request.payment_id} is known with other contents"
            decision.dead_letters.append(DeadLetter(message.record, reason))
        return
    entry = LogEntry(
        request.payment_id, request.account_id, request.amount_minor, request.currency, status=DEDUCTED
    )
    account = accounts.get(request.account_id)
    if account is None:
        entry.status, entry.reason = REJECTED, UNKNOWN_ACCOUNT
    elif account.currency != request.currency:
        entry.status, entry.reason = REJECTED, CURRENCY_MISMATCH
    else:
        sufficient = account.balance_minor >= request.amount_minor
        checked = follow(BalanceChecked, request, now, balance_minor=account.balance_minor, sufficient=sufficient)
        decision.emitted.append(Emitted(checked, message.context))
        if sufficient:
            account.balance_minor -= request.amount_minor
            decision.accounts[account.account_id] = account
            decision.bookings.append(
                Booking(entry.payment_id, "deduction", account.account_id, -entry.amount_minor)
            )
        else:
            entry.status, entry.reason = REJECTED, INSUFFICIENT_FUNDS
    outcome: Event
    if entry.status == REJECTED:
        outcome = follow(WithdrawalRejected, request, now, reason=entry.reason or "")
    else:
        assert account is not None
        outcome = follow(MoneyDeducted, request, now, balance_minor=account.balance_minor)
    decision.emitted.append(Emitted(outcome, message.context))
    decision.opened.append(entry)
    log[entry.payment_id] = entry


def _refund(
    message: Message,
    failure: PaymentFailed,
    accounts: dict[str, Account],
    log: dict[UUID, LogEntry],
    now: datetime,
    decision: Decision,
) -> None:
    entry = log.get(failure.payment_id)
    if entry is None:
        # Without a known deduction nothing is refunded; a failed withdrawal need not be deducted any more.
        entry = LogEntry(
            failure.payment_id,
            failure.account_id,
            failure.amount_minor,
            failure.currency,
            REJECTED,
            failure.reason,
        )
        decision.opened.append(entry)
        rejected = follow(WithdrawalRejected, failure, now, reason=failure.reason)
        decision.emitted.append(Emitted(rejected, message.context))
        log[entry.payment_id] = entry
        return
    if entry.status == REJECTED and entry.reason == failure.reason and same_withdrawal(entry, failure):
        return
    if entry.status == REJECTED or not same_withdrawal(entry, failure):
        reason = f"conflict: payment {failure.payment_id} failed, but was not deducted like this"
        decision.dead_letters.append(DeadLetter(message.record, reason))
        return
    if entry.status == COMPENSATED:
        return
    account = accounts[entry.account_id]
    account.balance_minor += entry.amount_minor
    entry.status, entry.reason = COMPENSATED, failure.reason
    decision.accounts[account.account_id] = account
    decision.compensated.append(entry)
    decision.bookings.append(Booking(entry.payment_id, "refund", account.account_id, entry.amount_minor))
    refunded = follow(MoneyRefunded, failure, now, balance_minor=account.balance_minor, reason=failure.reason)
    decision.emitted.append(Emitted(refunded, message.context))
