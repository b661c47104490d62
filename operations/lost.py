"""Lost events: those that a service lacks although another one's tables prove that they happened.

Pure functions of what the services know of one withdrawal; no SQL, no Kafka. The cause of the loss does not
matter: a lost Kafka volume, a retention shorter than an outage, or offsets that somebody moved.
"""

from typing import NamedTuple
from uuid import UUID

import msgspec

from contracts.events import EVENT_TYPES
from processors.account import decide as account
from processors.notification import decide as notification
from processors.payment import decide as payment
from processors.saga.decide import BITS, needed_for

REQUEST = "WithdrawalRequested"
_NAMES = {bit: event_type.__name__ for event_type, bit in BITS.items()}


class Known(NamedTuple):
    """What the services know of one withdrawal.

    Attributes:
        account: status in the account service's saga log; None where it knows nothing.
        requested: whether that service has received the request, and not only a failed payment.
        refund_due: whether that service is retrying the refund.
        payment: status of the payment; None where that service knows nothing.
        cancel_refused: whether it refused a cancellation.
        templates: of the customer's mails that the notification service knows.
        notifications: status of these.
        seen: bits of what is in the event store; None where the saga service knows nothing.
        accepted: whether the API has accepted the request, and it is lost.
    """

    account: str | None = None
    requested: bool = False
    refund_due: bool = False
    payment: str | None = None
    cancel_refused: bool = False
    templates: frozenset[str] = frozenset()
    notifications: frozenset[str] = frozenset()
    seen: int | None = None
    accepted: bool = False


class Lost(msgspec.Struct, frozen=True):
    """An event to be republished.

    Attributes:
        message_id: the original's, if only from its dead letter; where that is lost, one derived from payment ID
            and type.
        key: of the record.
        body: JSON text, the original's where that is known.
        made_again: whether it was rebuilt from its service's tables.
    """

    payment_id: UUID
    event_type: str
    message_id: UUID
    key: str
    body: str
    traceparent: str | None = None
    tracestate: str | None = None
    made_again: bool = False

    @property
    def topic(self) -> str:
        """The topic of its type."""
        return EVENT_TYPES[self.event_type].topic


class Preview(NamedTuple):
    """What would be republished.

    Attributes:
        events: by withdrawal and in the order in which they happened.
        lost_requests: payment IDs of requests that only the API has, by ascending ID, no more than were asked for;
            none where withdrawals are named. None where that cannot be told, as the saga service is behind.
        lost_requests_total: how many there are; None likewise.
    """

    events: list[Lost]
    lost_requests: list[UUID] | None
    lost_requests_total: int | None


def stored(known: Known) -> set[str]:
    """The types in the event store."""
    return {name for bit, name in _NAMES.items() if (known.seen or 0) & bit}


def happened(known: Known) -> set[str]:
    """The types of the events that the services' own tables prove."""
    types = set()
    if known.requested or known.accepted:
        types.add(REQUEST)
    if known.account in (account.DEDUCTED, account.COMPENSATED):
        types |= {"BalanceChecked", "MoneyDeducted"}
    if known.account == account.COMPENSATED:
        types.add("MoneyRefunded")
    if known.account == account.REJECTED:
        types.add("WithdrawalRejected")
    if known.payment == payment.PROCESSED:
        types.add("PaymentProcessed")
    if known.payment == payment.FAILED:
        types.add("PaymentFailed")
    if known.cancel_refused:
        types.add("CancelRefused")
    if notification.SENT in known.notifications:
        types.add("NotificationSent")
    if notification.FAILED in known.notifications:
        types.add("NotificationFailed")
    return types


def lacking(known: Known) -> set[str]:
    """The types of the events that some service would act on and has not."""
    is_stored, types = stored(known), happened(known)
    lacks = types - is_stored
    if known.account is None and REQUEST in is_stored:
        lacks.add(REQUEST)
    if known.account == account.DEDUCTED and known.payment in (None, payment.AWAITED):
        lacks.add("MoneyDeducted")
    if known.account == account.DEDUCTED and known.payment == payment.FAILED and not known.refund_due:
        lacks.add("PaymentFailed")
    for event_type, template in (
        ("PaymentProcessed", notification.PAID),
        ("MoneyRefunded", notification.REFUNDED),
        ("WithdrawalRejected", notification.REJECTED),
    ):
        if event_type in types and template not in known.templates:
            lacks.add(event_type)
    return lacks


def acted_on(known: Known) -> set[str]:
    """The type of the event that the next step acts on, where the event store has it."""
    needed = needed_for(known.seen) if known.seen is not None else None
    return {needed.__name__} & stored(known) if needed is not None else set()


def everything(known: Known) -> set[str]:
    """The types of all its events, for topics that other systems read too."""
    return stored(known) | happened(known)
