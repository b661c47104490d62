"""Two services that share contracts/ understand each other, and refuse what they would misunderstand."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4, uuid5

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import events, headers, services
from contracts.money import AMOUNT_MINOR_MAX

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4_000)
FIELDS = {
    "payment_id": st.uuids(),
    "account_id": st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True),
    "amount_minor": st.integers(1, AMOUNT_MINOR_MAX),
    "currency": st.from_regex(r"[A-Z]{3}", fullmatch=True),
    "occurred_at": st.datetimes(
        events.FIRST_TIME.replace(tzinfo=None), events.LAST_TIME.replace(tzinfo=None), timezones=st.just(UTC)
    ),
    "balance_minor": st.integers(-(2**63), 2**63 - 1),
    "sufficient": st.booleans(),
    "reason": TEXT,
    "provider_reference": TEXT,
    "template": TEXT,
    "recipient": TEXT,
}
every_type = pytest.mark.parametrize("event_type", events.EVENT_TYPES.values(), ids=lambda kind: kind.__name__)


def fields_of(event_type):
    return [field.name for field in msgspec.structs.fields(event_type)]


def an_event(event_type):
    values = {
        "payment_id": UUID(int=7),
        "account_id": "acc-1",
        "amount_minor": 10_000,
        "currency": "USD",
        "occurred_at": NOW,
        "balance_minor": 5,
        "sufficient": True,
    }
    return event_type(**{name: values.get(name, "text") for name in fields_of(event_type)})


def body_of(event_type, **changed):
    return json.dumps(json.loads(events.encode(an_event(event_type))) | changed).encode()


@every_type
@given(data=st.data())
def test_every_event_arrives_as_it_was_sent(event_type, data):
    event = event_type(**{name: data.draw(FIELDS[name], name) for name in fields_of(event_type)})

    assert events.decode(event_type.__name__, events.encode(event)) == event


@every_type
def test_the_amount_travels_as_a_whole_number_of_minor_units(event_type):
    assert b'"amount_minor":10000,' in events.encode(an_event(event_type))


@every_type
@pytest.mark.parametrize(
    ("currency", "most"),
    [("USD", 100_000_000), ("JPY", 100_000_000), ("KWD", 1_000_000_000), ("BGN", 100_000_000)],
)
def test_an_amount_is_at_most_what_its_currency_may_have(event_type, currency, most):
    name = event_type.__name__

    assert events.decode(name, body_of(event_type, currency=currency, amount_minor=most)).amount_minor == most
    with pytest.raises(events.ContractError, match=rf"^{name}: Expected `int` <= {most} - at `\$\.amount_minor`$"):
        events.decode(name, body_of(event_type, currency=currency, amount_minor=most + 1))


@every_type
def test_fields_that_a_reader_does_not_know_are_ignored(event_type):
    body = body_of(event_type, added_by_a_later_version={"nested": [1, None]})

    assert events.decode(event_type.__name__, body) == an_event(event_type)


@pytest.mark.parametrize(
    ("event_type", "field"),
    [(kind, name) for kind in events.EVENT_TYPES.values() for name in fields_of(kind)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_missing_field_is_an_error_that_names_type_and_field(event_type, field):
    body = json.loads(body_of(event_type))
    del body[field]

    with pytest.raises(events.ContractError, match=rf"{event_type.__name__}: .*missing.*`{field}`"):
        events.decode(event_type.__name__, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("payment_id", "no-uuid"),
        ("payment_id", None),
        ("account_id", ""),
        ("account_id", "a" * 65),
        ("account_id", "acc 1"),
        ("account_id", "acc-1\n"),
        ("account_id", 1),
        ("amount_minor", 0),
        ("amount_minor", -1),
        ("amount_minor", AMOUNT_MINOR_MAX + 1),
        ("amount_minor", 100.5),
        ("amount_minor", "100"),
        ("amount_minor", True),
        ("currency", "usd"),
        ("currency", "USDT"),
        ("currency", "USD\n"),
        ("occurred_at", "yesterday"),
        ("occurred_at", "2026-01-02T03:04:05"),
        ("occurred_at", "9999-12-31T23:59:59-01:00"),
        ("occurred_at", "9999-12-31T23:59:59Z"),
        ("occurred_at", "0001-01-01T00:00:00+01:00"),
        ("occurred_at", "1969-12-31T23:59:59.999999Z"),
        ("occurred_at", "1970-01-01T00:00:00+00:01"),
        ("occurred_at", "9998-12-31T23:59:59-00:01"),
        ("occurred_at", "2016-12-31T23:59:60Z"),
        ("occurred_at", "2026-01-02T03:04:05+24:00"),
        ("occurred_at", "infinity"),
        ("occurred_at", 1_767_225_600),
        ("balance_minor", "5"),
        ("balance_minor", 2**63),
        ("balance_minor", -(2**63) - 1),
        ("balance_minor", 10**30),
        ("balance_minor", 1e30),
    ],
)
def test_a_wrong_field_is_an_error_that_names_it(field, value):
    with pytest.raises(events.ContractError, match=rf"^MoneyDeducted: .*\$\.{field}") as refusal:
        events.decode("MoneyDeducted", body_of(events.MoneyDeducted, **{field: value}))

    assert "not JSON" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "event_type"),
    [
        ("reason", events.PaymentFailed),
        ("provider_reference", events.PaymentProcessed),
        ("template", events.NotificationSent),
        ("recipient", events.NotificationSent),
    ],
)
def test_a_text_has_a_bound_so_that_what_follows_from_it_can_be_published(field, event_type):
    assert events.decode(event_type.__name__, body_of(event_type, **{field: "ü" * 4_000}))
    with pytest.raises(events.ContractError, match=rf"<= 4000 - at `\$\.{field}`"):
        events.decode(event_type.__name__, body_of(event_type, **{field: "ü" * 4_001}))


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2026-01-02T03:04:05+23:59", datetime(2026, 1, 1, 3, 5, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05-23:59", datetime(2026, 1, 3, 3, 3, 5, tzinfo=UTC)),
        ("2026-01-02 03:04:05-0000", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02t03:04:05." + "1" * 300 + "z", datetime(2026, 1, 2, 3, 4, 5, 111_111, tzinfo=UTC)),
        ("1970-01-01T01:00:00+01:00", events.FIRST_TIME),
        ("9999-01-01T00:59:59.999999+01:00", events.LAST_TIME),
    ],
)
def test_a_time_is_read_as_the_same_instant_in_utc(written, instant):
    event = events.decode("MoneyDeducted", body_of(events.MoneyDeducted, occurred_at=written))

    assert (event.occurred_at, event.occurred_at.utcoffset()) == (instant, timedelta(0))
    assert events.decode("MoneyDeducted", events.encode(event)) == event


def test_nesting_has_one_bound_wherever_it_is_read():
    def nested(depth, inside=b"1"):
        body = body_of(events.MoneyDeducted)[:-1] + b', "unknown": '
        return body + b"[" * (depth - 1) + inside + b"]" * (depth - 1) + b"}"

    for harmless in (
        nested(events.NESTING_MAX),
        nested(2, b'"\\"' + b"[{" * 100 + b'"'),
        nested(2, b"[],{}," * 99 + b"1"),
    ):
        assert events.decode("MoneyDeducted", harmless) == an_event(events.MoneyDeducted)
    for depth in (events.NESTING_MAX + 1, 5_000, 500_000):
        with pytest.raises(events.ContractError, match=r"^MoneyDeducted: body is nested too deeply$"):
            events.decode("MoneyDeducted", nested(depth))


def test_of_a_field_that_is_there_twice_the_last_one_counts():
    body = body_of(events.MoneyDeducted)[:-1] + b', "balance_minor": 6}'

    assert events.decode("MoneyDeducted", body).balance_minor == 6


def test_a_wrong_text_is_refused_however_often_it_comes_and_whatever_came_with_it():
    right, wrong = body_of(events.MoneyDeducted), body_of(events.MoneyDeducted, currency="usd")

    for _ in range(3):
        events.decode("MoneyDeducted", right)
        with pytest.raises(events.ContractError, match=r"^MoneyDeducted: .* - at `\$\.currency`$"):
            events.decode("MoneyDeducted", wrong)


def test_texts_that_matched_are_not_kept_without_end():
    body = body_of(events.MoneyDeducted, account_id="acc-n")

    for number in range(events.REMEMBERED_MAX + 100):
        event = events.decode("MoneyDeducted", body.replace(b"acc-n", b"acc-%d" % number))
        assert event.account_id == f"acc-{number}"

    for check in (events._check_account_id, events._check_currency):
        assert check.cache_info().currsize <= events.REMEMBERED_MAX


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"account_id": "\xff"}', b"<xml/>"])
def test_a_body_that_is_not_json_is_said_to_be_none(body):
    with pytest.raises(events.ContractError, match="MoneyDeducted: body is not JSON"):
        events.decode("MoneyDeducted", body)


@pytest.mark.parametrize(
    ("unread", "reason"),
    [
        (b'"\xff"', "body is not JSON: .*can't decode byte 0xff"),
        (b'"\xed\xa0\x80"', "body is not JSON: .*can't decode byte 0xed"),
        (rb'"a\u0000"', "body has the character U\\+0000"),
        (rb'{"\\\u0000": 1}', "body has the character U\\+0000"),
        (b"[" * 100_000 + b"]" * 100_000, "body is nested too deeply"),
    ],
)
def test_what_no_database_could_keep_is_refused_even_in_a_field_that_nobody_reads(unread, reason):
    body = body_of(events.MoneyDeducted)[:-1] + b', "unknown": ' + unread + b"}"

    with pytest.raises(events.ContractError, match=f"^MoneyDeducted: {reason}"):
        events.decode("MoneyDeducted", body)


def test_an_escaped_backslash_before_u0000_is_text_like_any_other():
    body = body_of(events.MoneyDeducted)[:-1] + rb', "unknown": "C:\\u0000"}'

    assert events.decode("MoneyDeducted", body) == an_event(events.MoneyDeducted)


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"text"'])
def test_json_that_is_no_object_is_refused(body):
    with pytest.raises(events.ContractError, match="object"):
        events.decode("MoneyDeducted", body)


def test_an_unknown_event_type_is_told_apart_from_a_bad_body():
    with pytest.raises(KeyError):
        events.decode("MoneyDoubled", body_of(events.MoneyDeducted))


def test_a_request_keeps_its_message_id_when_it_is_sent_again_later():
    request = an_event(events.WithdrawalRequested)
    again = msgspec.structs.replace(request, occurred_at=datetime(2027, 1, 1, tzinfo=UTC))

    assert events.request_id(again) == events.request_id(request)
    # Not merely today: what was sent by an earlier version is the same message as well.
    assert events.request_id(request) == str(uuid5(request.payment_id, "acc-1|10000|USD"))


@pytest.mark.parametrize(
    "change", [{"payment_id": uuid4()}, {"account_id": "acc-2"}, {"amount_minor": 10_001}, {"currency": "EUR"}]
)
def test_a_request_with_other_contents_is_another_message_and_another_withdrawal(change):
    request = an_event(events.WithdrawalRequested)
    other = msgspec.structs.replace(request, **change)

    assert events.request_id(other) != events.request_id(request)
    assert not events.same_withdrawal(other, request)


@every_type
def test_what_follows_belongs_to_the_same_withdrawal(event_type):
    cause = an_event(events.WithdrawalRequested)
    own = {name: getattr(an_event(event_type), name) for name in fields_of(event_type)}
    details = {name: value for name, value in own.items() if name not in fields_of(events.Event)}

    event = events.follow(event_type, cause, NOW, **details)

    assert events.same_withdrawal(event, cause)
    assert event == an_event(event_type)


@every_type
def test_every_event_type_has_one_topic(event_type):
    assert sum(event_type in topic.event_types for topic in services.TOPICS) == 1


def test_every_topic_has_dead_letters():
    names = services.all_topic_names()

    assert len(names) == len(set(names)) == 2 * len(services.TOPICS)
    assert {topic.dead_letters for topic in services.TOPICS} < set(names)


@pytest.mark.parametrize(
    ("given_headers", "expected"),
    [
        (None, None),
        ([], None),
        ([("id", None)], None),
        ([("id", b"\xff")], None),
        ([("ID", b"other name")], None),
        ([("id", b"first"), ("x", b"y"), ("id", b"last")], "last"),
    ],
)
def test_the_last_header_of_a_name_counts(given_headers, expected):
    assert headers.text(given_headers, headers.ID) == expected


@pytest.mark.parametrize("written", [str.upper, str.lower, lambda text: text.replace("-", "")])
def test_a_message_id_is_the_same_in_any_spelling(written):
    one = uuid4()

    assert headers.message_id([("id", b"x"), ("id", written(str(one)).encode())]) == one


@pytest.mark.parametrize("value", [None, b"", b"4711", b"\xff", b'"', b"\0" * 36, b"a" * 100_000])
def test_what_is_no_message_id_is_none(value):
    assert headers.message_id([("id", str(uuid4()).encode()), ("id", value)]) is None
    assert headers.message_id(None) is None


def test_the_name_of_an_event_type_is_taken_once():
    taken = events.EVENT_TYPES["MoneyDeducted"]
    with pytest.raises(TypeError, match="MoneyDeducted already"):
        type(taken)("MoneyDeducted", (events.Event,), {"__module__": __name__})
    assert events.EVENT_TYPES["MoneyDeducted"] is taken
