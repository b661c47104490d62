"""What pages say in words: states, causes, numbers, times and durations as people read them. Pure functions."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from contracts.money import MoneyError, format_amount
from processors.account.decide import CURRENCY_MISMATCH, INSUFFICIENT_FUNDS, UNKNOWN_ACCOUNT
from processors.payment.decide import CANCELLED, DEADLINE, PROVIDER_UNAVAILABLE, VOIDED
from processors.saga.decide import (
    COMPENSATED,
    COMPENSATING,
    COMPLETED,
    DEDUCTED,
    INCOMPLETE,
    PAID,
    REJECTED,
    REQUESTED,
)

DASH = "–"

STATES: dict[str, str] = {
    "accepted": "stored by the API; the saga service has not recorded it yet",
    INCOMPLETE: "there are events, and not the request",
    REQUESTED: "nothing is taken yet",
    DEDUCTED: "off the account, not paid out",
    PAID: "paid out; the customer is to be notified",
    COMPLETED: "paid out, and the customer was notified or could not be",
    COMPENSATING: "the payment failed; the money is on its way back",
    COMPENSATED: "the money is back on the account",
    REJECTED: "nothing was taken",
}
"""Every state and what it means."""


class Cause(NamedTuple):
    """Why a withdrawal did not end, or will not end, in a payment: a sentence, and what it means for the money."""

    title: str
    text: str


_REJECTED = {
    INSUFFICIENT_FUNDS: ("The account has too little money.", "Its balance was below the amount."),
    UNKNOWN_ACCOUNT: ("There is no such account.", "The account service does not know it."),
    CURRENCY_MISMATCH: ("The account has another currency.", "A withdrawal is in the currency of its account."),
}
_FAILED = {
    CANCELLED: ("It was cancelled.", "Somebody asked for it before it was paid."),
    DEADLINE: (
        "Its deadline has passed.",
        "The provider gave no answer in time, and has confirmed that it will not pay.",
    ),
    PROVIDER_UNAVAILABLE: (
        "The provider could not be reached.",
        "After the last attempt it was voided: the provider has confirmed that it will not pay.",
    ),
    VOIDED: ("The provider had voided it.", "It was not paid, and never will be."),
}


def cause(state: str, reason: str | None) -> Cause | None:
    """The cause of a withdrawal's state; None where there is nothing to explain.

    Args:
        state: of the withdrawal.
        reason: as a service gave it; anything.
    """
    if state == REJECTED:
        title, text = _REJECTED.get(reason or "", (f"It was refused: “{reason or 'no reason given'}”.", ""))
        return Cause(title, f"{text} Nothing was taken from the account.".strip())
    if state in (COMPENSATING, COMPENSATED):
        title, text = _FAILED.get(reason or "", (f"The provider declined: “{reason or 'no reason given'}”.", ""))
        back = "The money is back on the account." if state == COMPENSATED else "The money is on its way back."
        return Cause(title, f"{text} {back}".strip())
    return None


def money(amount: str | int, currency: str) -> str:
    """An amount as people read it, with commas and its currency; of text in major units, or of minor units."""
    if isinstance(amount, int):
        return f"{format_amount(amount, currency)} {currency}"
    whole, dot, fraction = amount.partition(".")
    try:
        return f"{int(whole):,}{dot}{fraction} {currency}"
    except (ValueError, MoneyError):
        return f"{amount} {currency}"


def signed(amount: str | int, currency: str) -> str:
    """The same with its sign, a true minus."""
    if isinstance(amount, int):
        is_negative, size = amount < 0, money(abs(amount), currency)
    else:
        is_negative, size = amount.startswith("-"), money(amount.removeprefix("-"), currency)
    is_nothing = not any(digit in size for digit in "123456789")
    return size if is_nothing else f"{'−' if is_negative else '+'}{size}"


def count(number: int | None) -> str:
    """A whole number; a dash where it is not known."""
    return DASH if number is None else f"{number:,}"


def rate(per_s: float | None) -> str:
    """A rate, per second; a dash where it is not known."""
    return DASH if per_s is None else f"{per_s:,.1f}/s"


def duration(milliseconds: float | None) -> str:
    """A duration in the unit that suits it: ``4.1 ms``, ``311 ms``, ``2.4 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if milliseconds is None:
        return DASH
    sign, ms = ("−", -milliseconds) if milliseconds < 0 else ("", milliseconds)
    if ms < 1_000:
        return f"{sign}{ms:.1f} ms" if ms < 100 else f"{sign}{ms:.0f} ms"
    seconds = ms / 1_000
    if seconds < 60:
        return f"{sign}{seconds:.0f} s" if seconds.is_integer() else f"{sign}{seconds:.1f} s"
    for unit, smaller, size in (("d", "h", 86_400), ("h", "min", 3_600), ("min", "s", 60)):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            small = rest * {"h": 24, "min": 60, "s": 60}[smaller] // size
            return f"{sign}{whole} {unit} {small} {smaller}" if small else f"{sign}{whole} {unit}"
    return f"{sign}{seconds:.0f} s"


def size(number: int | None) -> str:
    """A number of bytes in the unit that suits it: ``812 B``, ``14.2 kB``, ``1.1 GB``; of 1,000 each."""
    if number is None:
        return DASH
    value, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1_000:
            break
        value, unit = value / 1_000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def between(begin: datetime | None, end: datetime | None) -> str:
    """The duration from one moment to another; a dash where one is not known."""
    return DASH if begin is None or end is None else duration((end - begin).total_seconds() * 1_000)


def clock(at: datetime) -> str:
    """The time of day in UTC, to the millisecond."""
    return f"{at.astimezone(UTC):%H:%M:%S.%f}"[:-3]


def moment(at: datetime) -> str:
    """Date and time in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def pretty(raw: bytes | msgspec.Raw) -> str:
    """JSON with a line for each member, its values as they were written; what is not JSON as it is."""
    body = bytes(raw)
    with suppress(msgspec.MsgspecError, RecursionError):
        body = msgspec.json.format(body, indent=2)
    return body.decode(errors="backslashreplace")


def visible(text: str | None) -> str:
    """Text of others; what is not seen, or changes how the text around it reads, as escapes."""
    return "".join(_shown(character) for character in text or "")


_STEERING: Mapping[int, str] = {
    code: f"\\u{code:04x}"
    for code in (
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *(0x00AD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0x2060, 0xFEFF),
    )
}


def _shown(character: str) -> str:
    code = ord(character)
    if code in _STEERING:
        return _STEERING[code]
    return f"\\x{code:02x}" if (code < 0x20 and character not in "\n\t") or 0x7F <= code < 0xA0 else character
