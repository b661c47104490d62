"""Representation of money: an integer of minor units (cents, yen, fils) with an ISO 4217 currency.

Many readers parse JSON numbers as floats, so an amount is never sent as a decimal fraction; people type and
read ``100.00``, and these functions convert between the two.
"""

import re

import iso4217

# The published table marks funds; metals, test codes and most units of account have no minor unit in it.
_FUNDS = {entry.findtext("Ccy") for entry in iso4217.raw_xml.iterfind("CcyTbl/CcyNtry/CcyNm[@IsFund='true']/..")}

DECIMALS: dict[str, int] = {
    currency.code: currency.exponent
    for currency in iso4217.Currency
    if currency.exponent in (0, 2, 3) and currency.code not in _FUNDS
}
"""The number of decimals of each supported currency: JPY 0, USD 2, KWD 3."""

CURRENCIES = frozenset(DECIMALS)

# Of unsupported ones too: an event of another producer may be in CLF, which has four.
_DECIMALS_WRITTEN = {
    currency.code: currency.exponent for currency in iso4217.Currency if currency.exponent is not None
}

DECIMALS_USUAL = 2
"""Decimals of a code that is not in the table: it may have been withdrawn, while events and accounts remain."""

AMOUNT_MINOR_MAX = 100_000_000
"""The largest amount of one withdrawal in minor units, but for a currency with three decimals."""

_WORDS = {2: "two", 3: "three"}

# ASCII digits only: int() and Decimal also take 1_0, 1e2, full-width digits, and round from 28 digits on.
_AMOUNT = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]+))?")


class MoneyError(ValueError):
    """An amount or currency that cannot be accepted; the message says what is wrong with it."""


def amount_minor_max(currency: str) -> int:
    """The largest amount of one withdrawal in a currency, in minor units.

    It is 1,000,000 (1,000,000.00 USD, 1,000,000.000 KWD); where there are no decimals 100,000,000, as the unit is
    worth a cent or less.
    """
    return AMOUNT_MINOR_MAX * 10 if DECIMALS.get(currency) == 3 else AMOUNT_MINOR_MAX


def parse_amount(text: str, currency: str) -> int:
    """Read an amount as people type it (``100``, ``100.5``, ``100.00``) into minor units of a currency.

    Raises:
        MoneyError: not a number, not positive, more decimals than the currency has, over
            :func:`amount_minor_max`; or a currency that :func:`parse_currency` refuses.
    """
    code = parse_currency(currency)
    decimals, most = DECIMALS[code], amount_minor_max(code)
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise MoneyError(f"amount {text!r} is not a number such as 100.00")
    sign, whole, fraction = match[1], match[2].lstrip("0"), (match[3] or "").rstrip("0")
    if sign == "-" or not (whole or fraction):
        raise MoneyError(f"amount {text} must be more than zero")
    # By the number of digits first: int() refuses a number of thousands of them.
    if len(whole) > len(str(most)) or _minor(whole, fraction, decimals) > most:
        raise MoneyError(f"amount {text} is over the limit of {format_amount(most, code)}")
    if len(fraction) > decimals:
        if not decimals:
            raise MoneyError(f"amount {text} is not a whole number, and {code} has no decimals")
        raise MoneyError(f"amount {text} has more than {_WORDS[decimals]} decimals")
    return _minor(whole, fraction, decimals)


def _minor(whole: str, fraction: str, decimals: int) -> int:
    """Minor units, rounded up: a remaining fraction counts against the limit."""
    return int((whole or "0") + fraction[:decimals].ljust(decimals, "0")) + bool(fraction[decimals:])


def parse_currency(text: str) -> str:
    """Read an ISO 4217 code in either case.

    Raises:
        MoneyError: the code is not supported (:data:`DECIMALS`).
    """
    code = text.strip()
    code = code.upper() if code.isascii() else code  # "\u0131sk" in capitals is ISK, and nobody's currency
    if code not in CURRENCIES:
        raise MoneyError(f"currency {text!r} is not an ISO 4217 currency in use with 0, 2 or 3 decimals")
    return code


def format_amount(amount_minor: int, currency: str) -> str:
    """Write minor units of a currency as people read them, with commas from a thousand on.

    10000 is ``100.00`` in USD, ``10,000`` in JPY, ``10.000`` in KWD, ``1.0000`` in CLF; else ``100.00``.
    """
    decimals = _DECIMALS_WRITTEN.get(currency, DECIMALS_USUAL)
    sign = "-" if amount_minor < 0 else ""
    major, minor = divmod(abs(amount_minor), 10**decimals)
    return f"{sign}{major:,}.{minor:0{decimals}d}" if decimals else f"{sign}{major:,}"
