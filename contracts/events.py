"""What can happen to a withdrawal? Each event type, its fields, and its one encoding.

An event is a fact in the past tense. On the wire its body is a JSON object and its type stands in the
``eventType`` header. Readers ignore fields they do not know; a missing or wrong field is a
:class:`ContractError` that names it.
"""

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Protocol, TypeVar
from uuid import UUID

import msgspec
import uuid_utils

from contracts.money import AMOUNT_MINOR_MAX

AccountId = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"\A[A-Za-z0-9._:-]+\Z")]
AmountMinor = Annotated[int, msgspec.Meta(gt=0, le=AMOUNT_MINOR_MAX)]
Currency = Annotated[str, msgspec.Meta(pattern=r"\A[A-Z]{3}\Z")]
Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]


class ContractError(ValueError):
    """A message that is not what its type promises; the text names the field and the reason."""


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What every event says about its withdrawal.

    Attributes:
        payment_id: names the withdrawal, everywhere; the idempotency key of every step.
        account_id: the account the money is taken from.
        amount_minor: the amount in minor units (cents), 1 to 100,000,000.
        currency: ISO 4217 code.
        occurred_at: when the service decided it (UTC), by the clock of that service.
    """

    payment_id: UUID
    account_id: str  # an AccountId
    amount_minor: AmountMinor
    currency: str  # a Currency
    occurred_at: Timestamp


class WithdrawalRequested(Event, frozen=True, kw_only=True, gc=False):
    """A customer asks for money. Written by producers."""


class BalanceChecked(Event, frozen=True, kw_only=True, gc=False):
    """The account service compared the amount with the balance (minor units, before any deduction)."""

    balance_minor: int
    sufficient: bool


class MoneyDeducted(Event, frozen=True, kw_only=True, gc=False):
    """The amount left the account; ``balance_minor`` is what remains."""

    balance_minor: int


class WithdrawalRejected(Event, frozen=True, kw_only=True, gc=False):
    """Nothing was taken and nothing will be: the end of this withdrawal."""

    reason: str


class MoneyRefunded(Event, frozen=True, kw_only=True, gc=False):
    """The amount went back to the account (the compensation); ``balance_minor`` is the balance after it."""

    balance_minor: int
    reason: str


class PaymentProcessed(Event, frozen=True, kw_only=True, gc=False):
    """The provider paid out: the pivot, after which nothing is undone."""

    provider_reference: str


class PaymentFailed(Event, frozen=True, kw_only=True, gc=False):
    """The provider did not and will not pay out; the account service must refund."""

    reason: str


class CancelRequested(Event, frozen=True, kw_only=True, gc=False):
    """Someone wishes the withdrawal undone; the payment service decides. Written by ``settle cancel``."""


class CancelRefused(Event, frozen=True, kw_only=True, gc=False):
    """The withdrawal cannot be cancelled any more: it was paid, or has failed already."""

    reason: str


class NotificationSent(Event, frozen=True, kw_only=True, gc=False):
    """The customer was told, with this template, at this address."""

    template: str
    recipient: str


class NotificationFailed(Event, frozen=True, kw_only=True, gc=False):
    """The customer could not be told; this undoes nothing."""

    template: str
    reason: str


class WithdrawalCompleted(Event, frozen=True, kw_only=True, gc=False):
    """Deducted, paid and told: the end of a withdrawal that went well. Written by the saga service."""


class WithdrawalCompensated(Event, frozen=True, kw_only=True, gc=False):
    """Deducted, not paid and refunded: the end of one that did not. Written by the saga service."""

    reason: str


EVENT_TYPES: dict[str, type[Event]] = {
    event_type.__name__: event_type
    for event_type in (
        WithdrawalRequested,
        BalanceChecked,
        MoneyDeducted,
        WithdrawalRejected,
        MoneyRefunded,
        PaymentProcessed,
        PaymentFailed,
        NotificationSent,
        NotificationFailed,
        WithdrawalCompleted,
        WithdrawalCompensated,
        CancelRequested,
        CancelRefused,
    )
}
"""Every event type by the name it has in the ``eventType`` header."""

E = TypeVar("E", bound=Event)

_DECODERS = {name: msgspec.json.Decoder(event_type) for name, event_type in EVENT_TYPES.items()}
_ENCODER = msgspec.json.Encoder()

REMEMBERED_MAX = 50_000
"""Texts of a kind that matched their pattern; some 8 MB."""

# JSON may spell the one character that no text column of PostgreSQL takes; a backslash may itself be escaped.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _check(field: str, text_type: Any) -> Callable[[str], None]:
    """A pattern costs as much as the rest of a message, and the same texts come again: each is looked at once."""

    @lru_cache(REMEMBERED_MAX)
    def check(text: str) -> None:
        try:
            msgspec.convert(text, text_type)
        except msgspec.ValidationError as error:
            raise msgspec.ValidationError(f"{error} - at `$.{field}`") from None

    return check


_check_account_id = _check("account_id", AccountId)
_check_currency = _check("currency", Currency)


def encode(event: Event) -> bytes:
    """The JSON body of an event, UTF-8."""
    return _ENCODER.encode(event)


def decode(event_type: str, body: bytes) -> Event:
    """Read the body of an event of a known type.

    Raises:
        KeyError: no such event type.
        ContractError: not JSON in UTF-8, or a field that is missing or wrong (named, with the reason).
    """
    decoder = _DECODERS[event_type]
    try:
        # The decoder passes over fields that it does not know, whatever they hold; the event store keeps them.
        text = body.decode()
        event = decoder.decode(body)
        _check_account_id(event.account_id)
        _check_currency(event.currency)
    except msgspec.ValidationError as error:
        raise ContractError(f"{event_type}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"{event_type}: body is not JSON: {error}") from None
    except RecursionError:
        raise ContractError(f"{event_type}: body is nested too deeply") from None
    if "\\" in text and _NUL.search(text):
        raise ContractError(f"{event_type}: body has the character U+0000, which cannot be stored")
    return event


class Withdrawal(Protocol):
    """Whatever says which withdrawal it is about: an event, or a service's own record of it."""

    @property
    def payment_id(self) -> UUID: ...  # noqa: D102
    @property
    def account_id(self) -> str: ...  # noqa: D102
    @property
    def amount_minor(self) -> int: ...  # noqa: D102
    @property
    def currency(self) -> str: ...  # noqa: D102


def follow(event_type: type[E], cause: Withdrawal, now: datetime, **details: object) -> E:
    """The event of a type that follows in the same withdrawal.

    Args:
        event_type: what happened.
        cause: what led to it; says which withdrawal.
        now: when it happened.
        details: the fields that the type has of its own.
    """
    return event_type(
        payment_id=cause.payment_id,
        account_id=cause.account_id,
        amount_minor=cause.amount_minor,
        currency=cause.currency,
        occurred_at=now,
        **details,
    )


def same_withdrawal(left: Withdrawal, right: Withdrawal) -> bool:
    """Whether both speak of the same payment ID *and* agree on account, amount and currency."""
    return (
        left.payment_id == right.payment_id
        and left.account_id == right.account_id
        and left.amount_minor == right.amount_minor
        and left.currency == right.currency
    )


def request_id(request: WithdrawalRequested) -> str:
    """The message ID of a request: the same for the same request, another one for other contents.

    A request enters without an outbox row to name it, so its contents do (UUID version 5 in the payment ID).
    """
    contents = f"{request.account_id}|{request.amount_minor}|{request.currency}"
    return str(uuid_utils.uuid5(uuid_utils.UUID(int=request.payment_id.int), contents))
