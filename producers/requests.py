"""Construction and validation of withdrawal requests, before anything is sent.

What only the account service knows (an unknown account, the account's currency, its balance) is not validated: it
ends as a rejected withdrawal.
"""

import re
from datetime import UTC, datetime
from typing import get_args
from uuid import UUID

from uuid_utils.compat import uuid7

from contracts import events
from contracts.money import CURRENCIES, MoneyError, amount_minor_max, format_amount, parse_amount, parse_currency
from producers.errors import InvalidRequestError

_ACCOUNT_ID = get_args(events.AccountId)[1]
_NAMELESS = (0, 2**128 - 1)
"""UUIDs that stand for none (RFC 9562, 5.9 and 5.10): a program that sends one has not filled it in."""

_ACCOUNT_ID_PATTERN = re.compile(_ACCOUNT_ID.pattern)


def new_request(
    account_id: str,
    amount: str | None = None,
    *,
    amount_minor: int | None = None,
    currency: str = "USD",
    payment_id: UUID | str | None = None,
) -> events.WithdrawalRequested:
    """Build a request, timestamped now, from a person's or a program's input.

    Args:
        account_id: 1 to 64 letters, digits, ``.``, ``_``, ``:`` or ``-``.
        amount: as people type it, ``"100.00"``; or instead
        amount_minor: in minor units of the currency, 1 to :func:`contracts.money.amount_minor_max`.
        currency: ISO 4217 code, in either case.
        payment_id: to repeat the same withdrawal; without it, a new one.

    Raises:
        InvalidRequestError: one of them is wrong; says which and why.
    """
    if (amount is None) == (amount_minor is None):
        raise InvalidRequestError("a request needs one amount: amount='100.00' or amount_minor=10000")
    try:
        currency = parse_currency(currency)
        minor = parse_amount(amount, currency) if amount is not None else amount_minor
    except MoneyError as error:
        raise InvalidRequestError(str(error)) from None
    request = events.WithdrawalRequested(
        # Time-ordered: new payments touch one end of every index.
        payment_id=uuid7() if payment_id is None else _parse_payment_id(payment_id),
        account_id=account_id,
        amount_minor=minor,  # type: ignore[arg-type]  # check_request is what refuses it
        currency=currency,
        occurred_at=datetime.now(UTC),
    )
    check_request(request)
    return request


def check_account_id(account_id: str) -> None:
    """Validate an account ID.

    Raises:
        InvalidRequestError: says what is wrong.
    """
    if not (
        isinstance(account_id, str)
        and len(account_id) <= _ACCOUNT_ID.max_length
        and _ACCOUNT_ID_PATTERN.fullmatch(account_id)
    ):
        raise InvalidRequestError(
            f"account {account_id!r} is not an account ID: 1 to 64 letters, digits, '.', '_', ':' or '-'"
        )


def check_request(request: events.WithdrawalRequested) -> None:
    """Refuse a request that no service would accept, however it was built. Cheap enough for every message.

    Raises:
        InvalidRequestError: a field is wrong; says which and why.
    """
    check_account_id(request.account_id)
    minor, currency = request.amount_minor, request.currency
    if currency not in CURRENCIES:
        raise InvalidRequestError(
            f"currency {currency!r} is not an ISO 4217 currency in use with 0, 2 or 3 decimals"
        )
    if type(minor) is not int:  # a bool is an int to isinstance, and no amount
        raise InvalidRequestError(f"amount {minor!r} is not a whole number of minor units")
    if not 0 < minor <= amount_minor_max(currency):
        wrong, least, most = (format_amount(n, currency) for n in (minor, 1, amount_minor_max(currency)))
        raise InvalidRequestError(f"amount {wrong} is not between {least} and {most}")
    at = request.occurred_at
    if at.tzinfo is None or not events.FIRST_TIME <= at <= events.LAST_TIME:
        first, last = events.FIRST_TIME, events.LAST_TIME
        raise InvalidRequestError(f"time {at} has no zone, or is not from {first:%Y-%m-%d} to {last:%Y-%m-%d} UTC")
    if not isinstance(request.payment_id, UUID):
        raise InvalidRequestError(f"payment ID {request.payment_id!r} is not a UUID")
    if request.payment_id.int in _NAMELESS:
        raise InvalidRequestError(f"payment ID {request.payment_id} names nothing: it is the nil or the max UUID")


def _parse_payment_id(text: UUID | str) -> UUID:
    if isinstance(text, UUID):
        return text
    try:
        return UUID(text.strip())
    except (ValueError, AttributeError):
        raise InvalidRequestError(f"payment ID {text!r} is not a UUID") from None
