"""A wrong request is refused before anything is sent, and reported as wrong in one line."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest
from opentelemetry.trace import StatusCode

from contracts.events import WithdrawalRequested
from producers.client import WithdrawalClient
from producers.errors import InvalidRequestError, NotDeliveredError, ProducerError
from producers.requests import check_request, new_request

NOBODY = "127.0.0.1:9"
GOOD = WithdrawalRequested(
    payment_id=uuid4(), account_id="acc-1", amount_minor=1, currency="USD", occurred_at=datetime.now(UTC)
)

WRONG_ARGUMENTS = [
    ({"amount": "0"}, "amount 0 must be more than zero"),
    ({"amount": "-5.00"}, "amount -5.00 must be more than zero"),
    ({"amount": "NaN"}, "amount 'NaN' is not a number such as 100.00"),
    ({"amount": "1.005"}, "amount 1.005 has more than two decimals"),
    ({"amount": "1000000.01"}, "amount 1000000.01 is over the limit of 1,000,000.00"),
    ({"amount": None}, "a request needs one amount"),
    ({"amount_minor": 100}, "a request needs one amount"),
    ({"amount": None, "amount_minor": 0}, "amount 0.00 is not between 0.01 and 1,000,000.00"),
    ({"amount": None, "amount_minor": -1}, "amount -0.01 is not between"),
    ({"amount": None, "amount_minor": 100_000_001}, "amount 1,000,000.01 is not between"),
    ({"amount": None, "amount_minor": 1.5}, "amount 1.5 is not a whole number of minor units"),
    ({"amount": None, "amount_minor": True}, "amount True is not a whole number of minor units"),
    ({"amount": None, "amount_minor": 0, "currency": "JPY"}, "amount 0 is not between 1 and 100,000,000"),
    ({"amount": None, "amount_minor": 10**9 + 1, "currency": "KWD"}, "is not between 0.001 and 1,000,000.000"),
    ({"amount": "1.5", "currency": "JPY"}, "amount 1.5 is not a whole number, and JPY has no decimals"),
    ({"currency": "XYZ"}, "currency 'XYZ' is not an ISO 4217 currency"),
    ({"payment_id": "1234"}, "payment ID '1234' is not a UUID"),
    ({"payment_id": 1234}, "payment ID 1234 is not a UUID"),
    ({"account_id": ""}, "account '' is not an account ID"),
    ({"account_id": "a" * 65}, "is not an account ID"),
    ({"account_id": "acc 1"}, "account 'acc 1' is not an account ID"),
    ({"account_id": "acc-1\n"}, "is not an account ID"),
    ({"account_id": "konto-ä"}, "is not an account ID"),
    ({"account_id": None}, "is not an account ID"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG_ARGUMENTS)
def test_a_wrong_argument_is_refused_with_one_clear_line(change, reason):
    with pytest.raises(InvalidRequestError) as refusal:
        new_request(**{"account_id": "acc-1", "amount": "1.00"} | change)

    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {"payment_id": "01a20ad5-1b25-766a-9642-4be6ce7d4a86"},
        {"account_id": "acc 1"},
        {"amount_minor": 0},
        {"currency": "usd"},
        {"occurred_at": GOOD.occurred_at.replace(tzinfo=None)},
        {"occurred_at": GOOD.occurred_at.replace(year=9999)},
    ],
)
def test_a_request_made_by_hand_is_checked_as_well_and_never_sent(change):
    reports = []
    with WithdrawalClient(NOBODY) as client:
        with pytest.raises(InvalidRequestError):
            client.send(msgspec.structs.replace(GOOD, **change), reports.append)
        client.flush()

    assert reports == []


def test_a_good_request_passes():
    check_request(GOOD)
    request = new_request("acc-1", "100.00", currency="eur", payment_id=str(GOOD.payment_id))

    assert (request.account_id, request.amount_minor, request.currency) == ("acc-1", 10_000, "EUR")
    assert request.payment_id == GOOD.payment_id
    assert new_request("acc-1", amount_minor=10_000).amount_minor == 10_000
    assert new_request("acc-1", "100", currency="JPY").amount_minor == 100
    assert new_request("acc-1", "1000000", currency="KWD").amount_minor == 1_000_000_000


def test_new_payment_ids_differ_and_grow_with_time():
    ids = [new_request("acc-1", "1").payment_id for _ in range(100)]

    assert ids == sorted(set(ids))
    assert all(isinstance(payment_id, UUID) and payment_id.version == 7 for payment_id in ids)


def test_without_kafka_a_request_is_an_error_that_names_the_address_the_reason_and_the_payment():
    payment_id = uuid4()
    with (
        WithdrawalClient(NOBODY, delivery_timeout_s=0.5) as client,
        pytest.raises(NotDeliveredError, match="Connection refused") as failure,
    ):
        client.request("acc-1", "1.00", payment_id=payment_id)

    assert f"Kafka at {NOBODY}" in str(failure.value)
    assert str(payment_id) in str(failure.value)
    assert isinstance(failure.value, ProducerError)


def test_without_kafka_every_request_that_was_sent_is_reported_on():
    reports = []
    with WithdrawalClient(NOBODY, delivery_timeout_s=0.5) as client:
        for _ in range(100):
            client.send(new_request("acc-1", "1.00"), reports.append)

    assert len(reports) == 100
    assert all(isinstance(report, NotDeliveredError) for report in reports)


def test_an_interrupted_program_does_not_wait_for_kafka():
    reports = []
    with (
        pytest.raises(KeyboardInterrupt),
        WithdrawalClient(NOBODY, delivery_timeout_s=600) as client,
    ):
        client.send(new_request("acc-1", "1.00"), reports.append)
        raise KeyboardInterrupt

    assert len(reports) == 1
    assert isinstance(reports[0], NotDeliveredError)


def test_a_request_that_failed_leaves_a_trace_that_says_so(spans):
    with WithdrawalClient(NOBODY, delivery_timeout_s=0.5) as client, pytest.raises(NotDeliveredError):
        client.request("acc-1", "1.00")

    send, root = spans()
    assert (send.name, root.name) == ("send withdrawal.requests", "withdraw-money")
    assert (root.parent, send.parent.span_id) == (None, root.context.span_id)
    assert send.status.status_code is root.status.status_code is StatusCode.ERROR
    assert send.attributes["error.type"] == "_MSG_TIMED_OUT"
