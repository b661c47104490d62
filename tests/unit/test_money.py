"""An amount survives being typed, sent and read in every currency, and every other text is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.money import (
    CURRENCIES,
    DECIMALS,
    MoneyError,
    amount_minor_max,
    format_amount,
    parse_amount,
    parse_currency,
)

# What is stored are minor units: a currency that changed its decimals would change every amount there is. Should
# the published table do so one day, or drop one, this list asks somebody to decide.
PUBLISHED = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    2: """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP
    CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES
    KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK
    NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB
    TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG
    """,
    3: "BHD IQD JOD KWD LYD OMR TND",
}
CURRENCY = st.one_of(st.sampled_from(codes.split()) for codes in PUBLISHED.values())


def test_every_currency_has_the_decimals_of_iso_4217():
    assert {code: decimals for decimals, codes in PUBLISHED.items() for code in codes.split()} == DECIMALS
    assert set(DECIMALS) == CURRENCIES


@given(CURRENCY, st.data())
def test_an_amount_that_is_written_is_read_back(currency, data):
    amount_minor = data.draw(st.integers(1, amount_minor_max(currency)))

    written = format_amount(amount_minor, currency)

    assert len(written.partition(".")[2]) == DECIMALS[currency]
    assert parse_amount(written.replace(",", ""), currency) == amount_minor


@given(st.integers(1, 99_999_999))
def test_every_float_a_person_could_type_is_exact(amount_minor):
    # 0.29 * 100 is 28.999999999999996 as a float, and 0.019 * 1000 is 18.999999999999996.
    assert parse_amount(str(amount_minor / 100), "USD") == amount_minor
    assert parse_amount(f"{amount_minor / 1000:.3f}", "KWD") == amount_minor


@pytest.mark.parametrize(
    ("text", "currency", "amount_minor"),
    [
        ("100", "USD", 10_000),
        ("100.5", "USD", 10_050),
        (" 0.01 ", "USD", 1),
        ("1.500", "USD", 150),
        ("+1", "USD", 100),
        ("007." + "0" * 50, "USD", 700),
        ("100", "JPY", 100),
        ("100.00", "JPY", 100),
        ("007." + "0" * 50, "JPY", 7),
        ("1.234", "KWD", 1_234),
        ("100.5", "KWD", 100_500),
        ("0.001", "KWD", 1),
        ("1", " kwd ", 1_000),
    ],
)
def test_amounts_are_read_as_people_type_them(text, currency, amount_minor):
    assert parse_amount(text, currency) == amount_minor


@pytest.mark.parametrize(
    ("currency", "least", "most", "more", "most_minor"),
    [
        ("USD", "0.01", "1000000.00", "1000000.01", 100_000_000),
        ("JPY", "1", "100000000", "100000001", 100_000_000),
        ("KWD", "0.001", "1000000.000", "1000000.001", 1_000_000_000),
    ],
)
def test_the_limit_of_each_currency_is_exact(currency, least, most, more, most_minor):
    assert parse_amount(least, currency) == 1
    assert parse_amount(most, currency) == amount_minor_max(currency) == most_minor
    with pytest.raises(MoneyError, match="over the limit"):
        parse_amount(more, currency)


@pytest.mark.parametrize(
    ("text", "currency", "reason"),
    [
        ("1.001", "USD", "amount 1.001 has more than two decimals"),
        ("0.001", "USD", "amount 0.001 has more than two decimals"),
        ("100.5", "JPY", "amount 100.5 is not a whole number, and JPY has no decimals"),
        ("0.1", "JPY", "amount 0.1 is not a whole number, and JPY has no decimals"),
        ("1.2345", "KWD", "amount 1.2345 has more than three decimals"),
        ("1000000.01", "USD", "amount 1000000.01 is over the limit of 1,000,000.00"),
        ("1000000.001", "USD", "amount 1000000.001 is over the limit of 1,000,000.00"),
        ("100000000.1", "JPY", "amount 100000000.1 is over the limit of 100,000,000"),
        ("1000000.0001", "KWD", "amount 1000000.0001 is over the limit of 1,000,000.000"),
    ],
)
def test_what_a_currency_cannot_say_is_refused_with_its_reason(text, currency, reason):
    with pytest.raises(MoneyError) as refusal:
        parse_amount(text, currency)
    assert str(refusal.value) == reason


@pytest.mark.parametrize("currency", ["USD", "JPY", "KWD"])
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
        ("1." + "0" * 40 + "1", "decimals"),
        ("999999.99" + "9" * 40, "decimals"),
        ("9" * 10_000, "over the limit"),
        ("9" * 10_000 + ".5", "over the limit"),
        ("1e2", "not a number"),
        ("1e400", "not a number"),
        ("1_0", "not a number"),
        ("１０", "not a number"),
        ("٣", "not a number"),
        ("1．5", "not a number"),
        ("−1", "not a number"),
        ("10\n.5", "not a number"),
        ("0x10", "not a number"),
        ("1.", "not a number"),
        (".5", "not a number"),
        ("+-1", "not a number"),
        ("", "not a number"),
        ("ten", "not a number"),
        ("1,50", "not a number"),
        ("1,000", "not a number"),
        ("$5", "not a number"),
        ("¥5", "not a number"),
    ],
)
def test_a_wrong_amount_is_refused_in_every_currency(text, reason, currency):
    with pytest.raises(MoneyError, match=reason):
        parse_amount(text, currency)


def test_an_amount_without_a_currency_that_is_known_is_refused():
    with pytest.raises(MoneyError, match="currency 'XYZ' is not an ISO 4217 currency"):
        parse_amount("100", "XYZ")


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (0, "USD", "0.00"),
        (5, "USD", "0.05"),
        (-5, "USD", "-0.05"),
        (123_456_789, "USD", "1,234,567.89"),
        (-100_000, "USD", "-1,000.00"),
        (0, "JPY", "0"),
        (5, "JPY", "5"),
        (-1_234_567, "JPY", "-1,234,567"),
        (0, "KWD", "0.000"),
        (5, "KWD", "0.005"),
        (-5, "KWD", "-0.005"),
        (1_234_567, "KWD", "1,234.567"),
        (12_345, "CLF", "1.2345"),  # not taken, but written in what another producer sends
        (10_000, "UYI", "10,000"),
        (10_000, "BGN", "100.00"),  # ended on 2026-01-01; what is stored stays as it was
        (10_000, "XXX", "100.00"),
    ],
)
def test_amounts_are_written_as_people_read_them(amount_minor, currency, text):
    assert format_amount(amount_minor, currency) == text


def test_a_currency_is_read_in_either_case():
    assert parse_currency(" usd ") == "USD"
    assert all(parse_currency(code) == code for code in CURRENCIES)


@pytest.mark.parametrize(
    "text",
    [
        *("", "US", "BTC", "USDT"),
        *("XXX", "XTS", "XAU", "XDR"),  # no currency, tests, gold, drawing rights
        *("CHE", "USN", "UYI"),  # funds, with two decimals and none
        *("CLF", "UYW"),  # with four decimals
        *("DEM", "BGN", "HRK", "ZWL"),  # ended
        "ＵＳＤ",
    ],
)
def test_a_code_that_nobody_pays_in_is_refused(text):
    with pytest.raises(MoneyError, match="is not an ISO 4217 currency in use with 0, 2 or 3 decimals"):
        parse_currency(text)


@pytest.mark.parametrize("text", ["\u0131sk", "u\u017fd", "\uff35\uff33\uff24"])
def test_letters_that_become_a_code_in_capitals_are_none(text):
    with pytest.raises(MoneyError, match="is not an ISO 4217 currency"):
        parse_currency(text)
