"""The events of a withdrawal: each type, its fields, and its one encoding.

An event is a fact in the past tense. On the wire its body is a JSON object and its type stands in the
``eventType`` header. Readers ignore fields they do not know; a missing or wrong field is a
:class:`ContractError` that names it.

Whatever passes here can be stored, read again and published by every service: so each value has a bound, and a
message that is refused is refused by all, for the same reason.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Protocol, TypeVar
from uuid import UUID, uuid5

import msgspec
import uuid_utils

from contracts.money import AMOUNT_MINOR_MAX, CURRENCIES, amount_minor_max

AccountId = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"\A[A-Za-z0-9._:-]+\Z")]
AmountMinor = Annotated[int, msgspec.Meta(gt=0, le=max(map(amount_minor_max, CURRENCIES)))]
Currency = Annotated[str, msgspec.Meta(pattern=r"\A[A-Z]{3}\Z")]
Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]
BalanceMinor = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # a bigint
Text = Annotated[str, msgspec.Meta(max_length=4_000)]

FIRST_TIME = datetime(1970, 1, 1, tzinfo=UTC)
LAST_TIME = datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
"""The times that an event may have. Outside of them some time zone, driver or tool cannot say the same instant."""

NESTING_MAX = 64
"""Nesting depth of arrays and objects, also in fields that are not read: parsers have different limits."""


class ContractError(ValueError):
    """A message that violates its type's contract; the text names the field and the reason."""


EVENT_TYPES: "dict[str, type[Event]]" = {}
"""Every event type by the name it has in the ``eventType`` header; a subclass of :class:`Event` is one."""


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The fields common to all events. A subclass declares an event type: once, here or in a service.

    Attributes:
        payment_id: names the withdrawal, everywhere; the idempotency key of every step.
        account_id: the account the money is taken from.
        amount_minor: the amount in minor units of the currency, 1 to :func:`contracts.money.amount_minor_max`.
        currency: ISO 4217 code.
        occurred_at: when the service decided it, by the clock of that service; with an offset on the wire, UTC
            once read, and from :data:`FIRST_TIME` to :data:`LAST_TIME`.
        topic: of the type: where it is written.
        saga_bit: of the type: its bit in the stored set of types that the saga service has seen; None for a type
            that is not part of the saga.
        unusual: of the type: whether it deviates from the normal course and carries a reason, noted in a trace.
    """

    topic: ClassVar[str]
    saga_bit: ClassVar[int | None] = None
    unusual: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__name__ in EVENT_TYPES:
            raise TypeError(f"there is an event type {cls.__name__} already")
        EVENT_TYPES[cls.__name__] = cls

    payment_id: UUID
    account_id: str  # an AccountId
    amount_minor: AmountMinor  # and no more than its currency may have
    currency: str  # a Currency
    occurred_at: Timestamp


class WithdrawalRequested(Event, frozen=True, kw_only=True, gc=False):
    """A customer asks for money. Written by producers."""

    topic = "withdrawal.requests"
    saga_bit = 0


class BalanceChecked(Event, frozen=True, kw_only=True, gc=False):
    """The account service compared the amount with the balance (minor units, before any deduction)."""

    topic = "account.events"
    saga_bit = 1

    balance_minor: BalanceMinor
    sufficient: bool


class MoneyDeducted(Event, frozen=True, kw_only=True, gc=False):
    """The amount left the account; ``balance_minor`` is what remains."""

    topic = "account.events"
    saga_bit = 2

    balance_minor: BalanceMinor


class WithdrawalRejected(Event, frozen=True, kw_only=True, gc=False):
    """Nothing was taken and nothing will be: the end of this withdrawal."""

    topic = "account.events"
    saga_bit = 3
    unusual = True

    reason: Text


class MoneyRefunded(Event, frozen=True, kw_only=True, gc=False):
    """The amount went back to the account (the compensation); ``balance_minor`` is the balance after it."""

    topic = "account.events"
    saga_bit = 6
    unusual = True

    balance_minor: BalanceMinor
    reason: Text


class PaymentProcessed(Event, frozen=True, kw_only=True, gc=False):
    """The provider paid out: the pivot, after which nothing is undone."""

    topic = "payment.events"
    saga_bit = 4

    provider_reference: Text


class PaymentFailed(Event, frozen=True, kw_only=True, gc=False):
    """The provider did not and will not pay out; the account service must refund."""

    topic = "payment.events"
    saga_bit = 5
    unusual = True

    reason: Text


class CancelRequested(Event, frozen=True, kw_only=True, gc=False):
    """A cancellation was requested; the payment service decides. Written by ``settle cancel``."""

    topic = "payment.requests"


class CancelRefused(Event, frozen=True, kw_only=True, gc=False):
    """The withdrawal cannot be cancelled any more: it was paid, or has failed already."""

    topic = "payment.events"
    saga_bit = 11
    unusual = True

    reason: Text


class NotificationSent(Event, frozen=True, kw_only=True, gc=False):
    """The customer was notified, with this template, at this address."""

    topic = "notification.events"
    saga_bit = 7

    template: Text
    recipient: Text


class NotificationFailed(Event, frozen=True, kw_only=True, gc=False):
    """The customer could not be notified; nothing is compensated for that."""

    topic = "notification.events"
    saga_bit = 8
    unusual = True

    template: Text
    reason: Text


class WithdrawalCompleted(Event, frozen=True, kw_only=True, gc=False):
    """Deducted, paid and notified: the successful end of a withdrawal. Written by the saga service."""

    topic = "withdrawal.events"
    saga_bit = 9


class WithdrawalCompensated(Event, frozen=True, kw_only=True, gc=False):
    """Deducted, not paid and refunded: the compensated end of a withdrawal. Written by the saga service."""

    topic = "withdrawal.events"
    saga_bit = 10
    unusual = True

    reason: Text


E = TypeVar("E", bound=Event)


class _Decoders(dict[str, msgspec.json.Decoder[Event]]):
    """One for each event type, made when it is first needed."""

    def __missing__(self, event_type: str) -> msgspec.json.Decoder[Event]:
        decoder = self[event_type] = msgspec.json.Decoder(EVENT_TYPES[event_type])
        return decoder


_DECODERS = _Decoders()
_ENCODER = msgspec.json.Encoder()

REMEMBERED_MAX = 50_000
"""Texts of a kind that matched their pattern; some 8 MB."""

# JSON may escape U+0000, which no text column of PostgreSQL takes; the backslash may itself be escaped.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _check(field: str, text_type: Any) -> Callable[[str], None]:
    """A cached pattern check: matching costs as much as decoding the rest, and the same texts recur."""

    @lru_cache(REMEMBERED_MAX)
    def check(text: str) -> None:
        try:
            msgspec.convert(text, text_type)
        except msgspec.ValidationError as error:
            raise msgspec.ValidationError(f"{error} - at `$.{field}`") from None

    return check


_check_account_id = _check("account_id", AccountId)
_check_currency = _check("currency", Currency)


def _check_amount(event: Event) -> None:
    most = amount_minor_max(event.currency)
    if event.amount_minor > most:
        raise msgspec.ValidationError(f"Expected `int` <= {most} - at `$.amount_minor`")


# What it has taken it keeps, and a string without an end goes to the end: no part of a body is read twice.
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def _is_nested_too_deeply(text: str) -> bool:
    depth = 0
    for match in _BRACKETS.finditer(text):
        token = match[0]
        if token in "[{":  # noqa: S105 no password
            depth += 1
            if depth > NESTING_MAX:
                return True
        elif token in "]}":  # noqa: S105 no password
            depth -= 1
    return False


def _in_utc(at: datetime) -> datetime:
    """A time with any offset in UTC.

    Raises:
        msgspec.ValidationError: it is outside of what an event may have.
    """
    try:
        at = at.astimezone(UTC)
        if FIRST_TIME <= at <= LAST_TIME:
            return at
    except OverflowError:
        pass
    raise msgspec.ValidationError(
        f"Expected a time from {FIRST_TIME:%Y-%m-%d} to {LAST_TIME:%Y-%m-%d} UTC - at `$.occurred_at`"
    )


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
        # The decoder ignores unknown fields, whatever they hold; the event store keeps them.
        text = body.decode()
        if ("[" in text or text.find("{", 1) > 0) and _is_nested_too_deeply(text):
            raise RecursionError
        event = decoder.decode(body)
        _check_account_id(event.account_id)
        if event.currency not in CURRENCIES:
            _check_currency(event.currency)
        if event.amount_minor > AMOUNT_MINOR_MAX:
            _check_amount(event)
        at = event.occurred_at
        # Those two are the first and the last moment of their years.
        if at.tzinfo is not UTC or not FIRST_TIME.year <= at.year <= LAST_TIME.year:
            msgspec.structs.force_setattr(event, "occurred_at", _in_utc(at))
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
    """Anything that identifies a withdrawal: an event, or a service's own record of it."""

    @property
    def payment_id(self) -> UUID: ...  # noqa: D102
    @property
    def account_id(self) -> str: ...  # noqa: D102
    @property
    def amount_minor(self) -> int: ...  # noqa: D102
    @property
    def currency(self) -> str: ...  # noqa: D102


def follow(event_type: type[E], cause: Withdrawal, now: datetime, **details: object) -> E:
    """A follow-up event in the same withdrawal.

    Args:
        event_type: its type.
        cause: what led to it; identifies the withdrawal.
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

    A request has no outbox row with an ID, so its contents give it (UUID version 5 in the payment ID).
    """
    contents = f"{request.account_id}|{request.amount_minor}|{request.currency}"
    return str(uuid_utils.uuid5(uuid_utils.UUID(int=request.payment_id.int), contents))


def made_again_id(payment_id: UUID, event_type: str) -> UUID:
    """The message ID of an event that is rebuilt, as the original's is lost; the same each time."""
    return uuid5(payment_id, event_type)
