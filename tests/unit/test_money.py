"""An amount survives being typed, sent and read, and every other text is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.money import (
    AMOUNT_MINOR_MAX,
    CURRENCIES,
    MoneyError,
    format_amount,
    parse_amount,
    parse_currency,
)


@given(st.integers(1, AMOUNT_MINOR_MAX))
def test_an_amount_that_is_written_is_read_back(amount_minor):
    assert parse_amount(format_amount(amount_minor).replace(",", "")) == amount_minor


@given(st.integers(1, 99_999_999))
def test_every_float_a_person_could_type_is_exact(amount_minor):
    # 0.29 * 100 is 28.999999999999996 as a float.
    assert parse_amount(str(amount_minor / 100)) == amount_minor


@pytest.mark.parametrize(
    ("text", "amount_minor"),
    [
        ("100", 10_000),
        ("100.5", 10_050),
        (" 0.01 ", 1),
        ("1000000.00", AMOUNT_MINOR_MAX),
        ("1.500", 150),
        ("+1", 100),
        ("007." + "0" * 50, 700),
    ],
)
def test_amounts_are_read_as_people_type_them(text, amount_minor):
    assert parse_amount(text) == amount_minor


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0", "more than zero"),
        ("0.00", "more than zero"),
        ("-0", "more than zero"),
        ("-1", "more than zero"),
        ("-0.001", "more than zero"),
        ("NaN", "not a number"),
        ("sNaN", "not a number"),
        ("Infinity", "not a number"),
        ("-inf", "not a number"),
        ("1.001", "more than two decimals"),
        ("0.001", "more than two decimals"),
        ("1." + "0" * 40 + "1", "more than two decimals"),
        ("1000000.01", "over the limit of 1,000,000.00"),
        ("1000000.001", "over the limit of 1,000,000.00"),
        ("999999.99" + "9" * 40, "more than two decimals"),
        ("9" * 10_000, "over the limit"),
        ("1e2", "not a number"),
        ("1e400", "not a number"),
        ("1_0", "not a number"),
        ("１０", "not a number"),
        ("٣", "not a number"),
        ("10\n.5", "not a number"),
        ("0x10", "not a number"),
        ("1.", "not a number"),
        (".5", "not a number"),
        ("+-1", "not a number"),
        ("", "not a number"),
        ("ten", "not a number"),
        ("1,50", "not a number"),
        ("$5", "not a number"),
    ],
)
def test_a_wrong_amount_is_refused_with_its_reason(text, reason):
    with pytest.raises(MoneyError, match=reason):
        parse_amount(text)


@pytest.mark.parametrize(
    ("amount_minor", "text"),
    [(0, "0.00"), (5, "0.05"), (-5, "-0.05"), (123_456_789, "1,234,567.89"), (-100_000, "-1,000.00")],
)
def test_amounts_are_written_as_people_read_them(amount_minor, text):
    assert format_amount(amount_minor) == text


def test_a_currency_is_read_in_either_case():
    assert parse_currency(" usd ") == "USD"
    assert all(parse_currency(code) == code for code in CURRENCIES)


@pytest.mark.parametrize("text", ["", "US", "XXX", "BTC", "USDT", "JPY", "KWD"])
def test_a_currency_that_is_unknown_or_has_not_two_decimals_is_refused(text):
    with pytest.raises(MoneyError, match="not an ISO 4217 currency with two decimals"):
        parse_currency(text)
