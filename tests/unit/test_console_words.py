"""What pages say in words: causes, amounts, durations, foreign text; and what the ledger should sum up to."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from api.console import words
from api.console.ledger_words import net
from api.people import CONSOLE
from operations.ledger import Booking
from processors.saga.decide import FINISHED, OPEN_STATES

NOW = datetime(2026, 11, 30, 2, 15, 7, 123_456, tzinfo=UTC)


def test_every_state_has_its_meaning():
    assert set(words.STATES) == {"accepted", *OPEN_STATES, *FINISHED}


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        ("rejected", "insufficient_funds", "too little money"),
        ("rejected", "something_else", "“something_else”"),
        ("rejected", None, "no reason given"),
        ("compensated", "declined", "The provider declined: “declined”"),
        ("compensated", "cancelled", "was cancelled"),
        ("compensating", "deadline", "on its way back"),
    ],
)
def test_a_cause_says_what_happened_and_what_became_of_the_money(state, reason, said):
    found = words.cause(state, reason)
    assert found is not None
    assert said in f"{found.title} {found.text}"
    money = {"rejected": "Nothing was taken", "compensated": "is back", "compensating": "on its way back"}[state]
    assert money in found.text


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (16_384, "16.4 kB"),
        (10**9, "1.0 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_a_number_of_bytes_is_in_the_unit_that_suits_it(number, said):
    assert words.size(number) == said


@pytest.mark.parametrize("state", ["completed", "paid", "deducted", "accepted"])
def test_what_goes_well_has_no_cause(state):
    assert words.cause(state, None) is None


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (None, "–"),
        (0, "0.0 ms"),
        (4.06, "4.1 ms"),
        (311.4, "311 ms"),
        (2_440, "2.4 s"),
        (20_000, "20 s"),
        (185_000, "3 min 5 s"),
        (120_000, "2 min"),
        (7_800_000, "2 h 10 min"),
        (93_600_000, "1 d 2 h"),
        (-5, "−5.0 ms"),
    ],
)
def test_a_duration_is_in_the_unit_that_suits_it(ms, said):
    assert words.duration(ms) == said


def test_amounts_have_commas_a_currency_and_a_true_sign():
    assert words.money("1000.50", "USD") == "1,000.50 USD"
    assert words.money("50000", "JPY") == "50,000 JPY"
    assert words.money(989_995, "USD") == "9,899.95 USD"
    assert words.money("a lot", "XXX") == "a lot XXX"
    assert [words.signed(amount, "USD") for amount in (-10_005, 10_005, 0)] == [
        "−100.05 USD",
        "+100.05 USD",
        "0.00 USD",
    ]


def test_text_that_steers_how_it_is_read_is_shown_and_does_not():
    assert words.visible("a\u202eb\u2066c\x00\x1bd\ne\u0085") == "a\\u202eb\\u2066c\\x00\\x1bd\ne\\x85"
    assert words.visible("\u200b\u2060\u00ad\u2028") == "\\u200b\\u2060\\u00ad\\u2028"
    assert words.visible("הבנק") == "הבנק"
    assert words.visible(None) == ""


def test_json_is_laid_out_and_its_values_stay_as_they_were():
    assert words.pretty(b'{"a":1.10,"b":[]}') == '{\n  "a": 1.10,\n  "b": []\n}'
    assert words.pretty(b"not \xff json") == "not \\xff json"


def test_times_are_utc():
    assert (words.clock(NOW), words.moment(NOW)) == ("02:15:07.123", "2026-11-30 02:15:07")


def booked(*amounts: int) -> list[Booking]:
    return [Booking(uuid4(), "deduction" if amount < 0 else "refund", amount, NOW) for amount in amounts]


@pytest.mark.parametrize(
    ("state", "amounts", "ok"),
    [
        ("completed", (-10_005,), True),
        ("completed", (-10_005, -10_005), False),
        ("completed", (), False),
        ("paid", (-10_005,), True),
        ("deducted", (-10_004,), False),
        ("rejected", (), True),
        ("rejected", (-10_005, 10_005), False),
        ("compensated", (-10_005, 10_005), True),
        ("compensated", (), False),
        ("compensated", (-10_005,), False),
        ("compensating", (-10_005,), True),
        ("compensating", (-10_005, 10_005), True),
        ("requested", (), True),
        ("requested", (-10_005,), True),
        ("requested", (10_005,), False),
    ],
)
def test_the_ledger_sums_up_to_what_the_state_says_or_that_is_said(state, amounts, ok):
    found = net(state, "100.05", "USD", booked(*amounts))
    assert (found.amount_minor, found.ok) == (sum(amounts), ok)
    assert found.words


def test_the_console_is_where_its_pages_are():
    assert CONSOLE == "/console"
