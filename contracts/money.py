"""Money as it is written down: an integer of minor units (cents) with an ISO 4217 currency.

JSON numbers are floats to many readers, so an amount never travels as a decimal fraction; people type and
read ``100.00``, and these two functions stand between the two.
"""

import re

AMOUNT_MINOR_MAX = 100_000_000
"""The largest amount of one withdrawal, in minor units: 1,000,000.00."""

# ISO 4217 currencies with two decimals; those with none or three are not carried.
CURRENCIES = frozenset(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY
    COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR
    ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MUR MVR MWK MXN
    MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE
    SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD YER ZAR ZMW
    """.split()  # noqa: SIM905 - a table reads better
)


# ASCII digits only: int() and Decimal also take 1_0, 1e2, full-width digits, and round from 28 digits on.
_AMOUNT = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]+))?")


class MoneyError(ValueError):
    """An amount or currency that cannot be accepted; the message says what is wrong with it."""


def parse_amount(text: str) -> int:
    """Read an amount as people type it (``100``, ``100.5``, ``100.00``) into minor units.

    Raises:
        MoneyError: not a number, not positive, more than two decimals, or over 1,000,000.00.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise MoneyError(f"amount {text!r} is not a number such as 100.00")
    sign, whole, fraction = match[1], match[2].lstrip("0"), (match[3] or "").rstrip("0")
    if sign == "-" or not (whole or fraction):
        raise MoneyError(f"amount {text} must be more than zero")
    # By the number of digits first: a number of thousands of them is none that int() would read.
    if len(whole) > len(str(AMOUNT_MINOR_MAX)) or _minor(whole, fraction) > AMOUNT_MINOR_MAX:
        raise MoneyError(f"amount {text} is over the limit of {format_amount(AMOUNT_MINOR_MAX)}")
    if len(fraction) > 2:
        raise MoneyError(f"amount {text} has more than two decimals")
    return _minor(whole, fraction)


def _minor(whole: str, fraction: str) -> int:
    """Minor units, rounded up: what is left of a fraction counts against the limit."""
    return int(whole or "0") * 100 + int(fraction[:2].ljust(2, "0")) + bool(fraction[2:])


def parse_currency(text: str) -> str:
    """Read an ISO 4217 code in either case.

    Raises:
        MoneyError: a code that is unknown or has not exactly two decimals.
    """
    code = text.strip().upper()
    if code not in CURRENCIES:
        raise MoneyError(f"currency {text!r} is not an ISO 4217 currency with two decimals")
    return code


def format_amount(amount_minor: int) -> str:
    """Write minor units as people read them: ``10000`` becomes ``100.00``, with commas from a thousand on."""
    sign = "-" if amount_minor < 0 else ""
    major, minor = divmod(abs(amount_minor), 100)
    return f"{sign}{major:,}.{minor:02d}"
