"""The audit's rules on one withdrawal: whether the services' records of it agree.

Pure functions of a :class:`Story`; no SQL. Each rule belongs to a check of the audit and says why it fails.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from contracts.events import made_again_id
from processors.account import decide as account
from processors.payment import decide as payment
from processors.saga import decide as saga

CHECK_LEDGER = "ledger"
CHECK_PAYMENTS = "payments"
CHECK_PROVIDER = "provider"
CHECK_SAGA = "saga"
CHECK_EVENTS = "events"
CHECK_FINISHED = "finished"

CHECKS = (CHECK_LEDGER, CHECK_PAYMENTS, CHECK_PROVIDER, CHECK_SAGA, CHECK_EVENTS, CHECK_FINISHED)

_WRITTEN_BY = {
    "BalanceChecked": "account",
    "MoneyDeducted": "account",
    "MoneyRefunded": "account",
    "WithdrawalRejected": "account",
    "PaymentProcessed": "payment",
    "PaymentFailed": "payment",
    "NotificationSent": "notification",
    "NotificationFailed": "notification",
    "WithdrawalCompleted": "saga",
    "WithdrawalCompensated": "saga",
}
"""Event types whose number follows from a service's tables."""

_NOTIFICATIONS = {"NotificationSent", "NotificationFailed"}


class AccountSide(NamedTuple):
    """The account service's saga log and ledger for one withdrawal; None where a row is missing.

    Attributes:
        elsewhere: an account that is booked on and is not the withdrawal's.
    """

    contents: tuple[str, int, str] | None
    status: str | None
    deductions: int
    refunds: int
    net_minor: int
    elsewhere: str | None = None


class PaymentSide(NamedTuple):
    """The payment service's row."""

    contents: tuple[str, int, str]
    status: str


class ProviderSide(NamedTuple):
    """The provider's row, and how many there are: there should be one."""

    contents: tuple[str, int, str]
    status: str
    charges: int = 1


class NotificationSide(NamedTuple):
    """How many mails to the customer were sent, and how many have failed for good."""

    sent: int
    failed: int


class SagaSide(NamedTuple):
    """The withdrawal's state and the types in the event store; no contents where it has no row.

    Attributes:
        derived: the message IDs of version 5 among its events (RFC 9562), as those that were rebuilt have.
    """

    contents: tuple[str, int, str] | None
    state: str | None
    types: list[str]
    derived: Sequence[UUID] = ()


class Story(NamedTuple):
    """What the services have of one withdrawal; contents are (account ID, minor units, currency)."""

    payment_id: UUID
    account: AccountSide | None = None
    payment: PaymentSide | None = None
    provider: ProviderSide | None = None
    saga: SagaSide | None = None
    notification: NotificationSide | None = None


def faults(story: Story, quiet: bool = True) -> Iterator[tuple[str, str]]:
    """Violations, as pairs of check and reason.

    Args:
        story: what the services have of one withdrawal.
        quiet: nothing is in flight, so an event that an unfinished withdrawal lacks is lost rather than late.
    """
    yield from _ledger(story)
    yield from _payments(story)
    yield from _provider(story)
    yield from _saga(story)
    yield from _events(story, quiet)


def _ledger(story: Story) -> Iterator[tuple[str, str]]:
    side = story.account
    if side is None:
        return
    if side.contents is None:
        yield CHECK_LEDGER, "booked, but not in the saga log"
        return
    amount_minor = side.contents[1]
    wanted = {
        account.DEDUCTED: (1, 0, -amount_minor),
        account.COMPENSATED: (1, 1, 0),
        account.REJECTED: (0, 0, 0),
    }[side.status or ""]
    if (side.deductions, side.refunds, side.net_minor) != wanted:
        booked = f"{side.deductions} deductions, {side.refunds} refunds, net {side.net_minor}"
        yield CHECK_LEDGER, f"{side.status}, but the ledger has {booked}"
    if side.elsewhere is not None:
        yield CHECK_LEDGER, f"booked on account {side.elsewhere}, but it is of account {side.contents[0]}"


def _payments(story: Story) -> Iterator[tuple[str, str]]:
    paid, side = story.payment, story.account
    status = side.status if side else None
    if paid is None or paid.status == payment.AWAITED:
        if status == account.DEDUCTED:
            yield CHECK_FINISHED, "deducted, waits for payment"
        elif status == account.COMPENSATED:
            yield CHECK_PAYMENTS, "refunded, but no payment failed"
        return
    if side is None or side.contents != paid.contents:
        yield CHECK_PAYMENTS, f"payment {paid.status}, but never deducted like this"
    elif paid.status == payment.PROCESSED and status != account.DEDUCTED:
        yield CHECK_PAYMENTS, f"paid, but the account says {status}"
    elif paid.status == payment.FAILED and status == account.DEDUCTED:
        yield CHECK_FINISHED, "payment failed, waits for refund"
    elif paid.status == payment.PENDING:
        if status == account.COMPENSATED:
            yield CHECK_PAYMENTS, "payment pending, but refunded already"
        else:
            yield CHECK_FINISHED, "payment pending"


def _provider(story: Story) -> Iterator[tuple[str, str]]:
    charge, paid = story.provider, story.payment
    if charge is None:
        if paid is not None and paid.status == payment.PROCESSED:
            yield CHECK_PROVIDER, "paid according to us, unknown to the provider"
        elif paid is not None and paid.status == payment.FAILED:
            yield CHECK_PROVIDER, "failed according to us, but the provider might still pay"
        return
    if charge.charges != 1:
        yield CHECK_PROVIDER, f"charged {charge.charges} times"
    if paid is None:
        # Between the call and the commit; if it stays so, the withdrawal is listed as unfinished.
        if story.account is None or story.account.status != account.DEDUCTED:
            yield CHECK_PROVIDER, f"{charge.status} at the provider, unknown to us"
    elif charge.contents != paid.contents:
        yield CHECK_PROVIDER, "the provider charged other contents"
    elif (charge.status == "paid") != (paid.status == payment.PROCESSED) and paid.status != payment.PENDING:
        yield CHECK_PROVIDER, f"{charge.status} at the provider, {paid.status} according to us"


def _saga(story: Story) -> Iterator[tuple[str, str]]:
    side = story.saga
    status = story.account.status if story.account else None
    if side is None or side.state is None:
        if status is not None:
            yield CHECK_FINISHED, f"{status}, not yet known to the saga"
        return
    if side.state not in saga.FINISHED:
        yield CHECK_FINISHED, "events without a request" if side.state == saga.INCOMPLETE else side.state
        return
    paid = story.payment.status if story.payment and story.payment.status != payment.AWAITED else None
    wanted = {
        saga.COMPLETED: (account.DEDUCTED, payment.PROCESSED),
        saga.COMPENSATED: (account.COMPENSATED, payment.FAILED),
        # Rejected with a failed payment: the failure was known before anything was deducted.
        saga.REJECTED: (account.REJECTED, paid if paid == payment.FAILED else None),
    }[side.state]
    if (status, paid) != wanted:
        yield CHECK_SAGA, f"{side.state}, but the account says {status} and the payment {paid}"
    elif story.account is not None and story.account.contents != side.contents:
        yield CHECK_SAGA, "the saga has other contents than the account"


def _events(story: Story, quiet: bool) -> Iterator[tuple[str, str]]:
    side = story.saga
    if side is None:
        return
    if side.state is None:
        yield CHECK_EVENTS, "events without a standing"
        return
    found = Counter(side.types)
    for event_type, count in found.items():
        # Its original came back after it was rebuilt: one event under two message IDs.
        if count > 1 and made_again_id(story.payment_id, event_type) in side.derived:
            found[event_type] -= 1
    wanted = Counter(_emitted(story))
    finished = side.state in saga.FINISHED
    for event_type, service in _WRITTEN_BY.items():
        if event_type == "BalanceChecked" and side.state == saga.REJECTED:
            continue  # not every rejection has checked the balance
        there, done = found[event_type], wanted[event_type]
        if there < done and (finished or quiet):
            yield CHECK_EVENTS, f"{event_type} is missing: the {service} service did it, no event records it"
        elif there > done:
            yield CHECK_EVENTS, f"{event_type} is stored {there} times, the {service} service did it {done} times"
    # The same request may be stored twice under two message IDs.
    if not found["WithdrawalRequested"] and (finished or quiet):
        yield CHECK_EVENTS, "WithdrawalRequested is missing: nobody asked for it"
    told = sum(wanted[event_type] for event_type in _NOTIFICATIONS)
    if side.state == saga.COMPLETED and not told:
        yield CHECK_EVENTS, "completed without a notification"
    elif told > 1:
        yield CHECK_EVENTS, f"{side.state}, and the customer was notified {told} times"


def _emitted(story: Story) -> Iterator[str]:
    """The event types that must exist, by the services' tables."""
    status = story.account.status if story.account else None
    if status in (account.DEDUCTED, account.COMPENSATED):
        yield from ("BalanceChecked", "MoneyDeducted")
    if status == account.COMPENSATED:
        yield "MoneyRefunded"
    if status == account.REJECTED:
        yield "WithdrawalRejected"
    if story.payment is not None and story.payment.status == payment.PROCESSED:
        yield "PaymentProcessed"
    if story.payment is not None and story.payment.status == payment.FAILED:
        yield "PaymentFailed"
    if story.notification is not None:
        yield from ["NotificationSent"] * story.notification.sent
        yield from ["NotificationFailed"] * story.notification.failed
    if story.saga is not None and story.saga.state == saga.COMPLETED:
        yield "WithdrawalCompleted"
    if story.saga is not None and story.saga.state == saga.COMPENSATED:
        yield "WithdrawalCompensated"
