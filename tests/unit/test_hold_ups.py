"""What holds a withdrawal up is told apart from what is on its way."""

from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import pytest
from confluent_kafka import KafkaError, KafkaException

from broker.records import Record
from contracts.events import CancelRequested, MoneyDeducted, WithdrawalRequested
from operations import hold_ups
from operations.dead_letters.handled import Handled
from operations.dead_letters.letters import Letter, Refusal
from operations.hold_ups import (
    BEHIND_RECORDS,
    LATE_S,
    KafkaSays,
    Open,
    ServiceSays,
    _in_words,
    _Row,
    open_by_payment,
)
from processors.saga.decide import BITS

ID = UUID(int=1)
AT = datetime(2026, 11, 30, tzinfo=UTC)
REQUESTED = BITS[WithdrawalRequested]
TOPIC = "payment.events"


def words(
    *,
    age_s=0.0,
    topics=frozenset({TOPIC}),
    active=True,
    idle=(),
    dead=None,
    behind=None,
    pending=(),
    error=None,
    paused=None,
):
    """What is said of a row that is in the payment outbox."""
    row = _Row("PaymentProcessed", TOPIC, age_s)
    outbox = SimpleNamespace(active=active, paused=paused)
    service = ServiceSays(dict.fromkeys(pending), {ID: dead} if dead else {}, {ID: row}, outbox)
    kafka = KafkaSays(topics, set(idle), Counter(behind), error=error)
    return _in_words(Open(ID, "acc", REQUESTED), {"payment": service}, kafka)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"age_s": LATE_S + 1}, "its relay has not published it"),
        ({"active": False}, "no relay reads it"),
        ({"paused": "paused since 1 by a: b"}, "its relay is paused since 1 by a: b; `outbox-relay resume`"),
        ({"topics": frozenset()}, "the relay waits for topic payment.events, which does not exist"),
        ({"topics": None}, "Kafka does not answer"),
        ({"dead": "PaymentProcessed", "active": False}, "a dead row of the payment outbox"),
        ({"idle": ["saga"]}, "the saga service, which does not run"),
        ({"idle": ["saga", "account"]}, "the account service, which does not run"),
        (
            {"behind": {"account": 12_345, "saga": 500}},
            "the account service, which is behind: up to 12,345 records",
        ),
        ({"behind": {"account": BEHIND_RECORDS - 1, "saga": BEHIND_RECORDS}}, "the saga service, which is behind"),
        ({"behind": {"account": 500}, "idle": ["account"]}, "the account service, which does not run"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, dict) else "",
)
def test_it_says_what_holds_it_up_in_one_line(facts, said):
    found = words(**facts)
    assert said in found
    assert found.isprintable()


def test_what_is_on_its_way_holds_nothing_up():
    assert words(age_s=LATE_S - 1) is None
    assert words(idle=["notification"]) is None
    assert words(behind={"account": BEHIND_RECORDS - 1, "payment": 500}) is None
    assert words(behind={"account": 500}, pending=[ID]) is None  # it was read long ago


def test_a_kafka_that_refuses_who_asks_is_not_one_that_does_not_answer_the_relay():
    refused = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    assert words(topics=None, error=refused) is None
    assert "no relay reads it" in words(topics=None, error=refused, active=False)
    assert words(topics=None, error=KafkaException(KafkaError(KafkaError._TIMED_OUT))) == (
        "PaymentProcessed in the payment outbox: Kafka does not answer"
    )


def test_a_dead_letter_counts_where_its_event_is_waited_for():
    one = Open(ID, "acc", REQUESTED, also_acts_on=frozenset({CancelRequested.__name__}))
    assert one.acts_on("WithdrawalRequested")
    assert one.acts_on("CancelRequested")
    assert not one.acts_on("MoneyDeducted")
    assert one.lacks("MoneyDeducted")
    assert not one.lacks("WithdrawalRequested")
    assert not one.lacks("NothingOfOurs")
    assert not Open(ID, "acc", REQUESTED).acts_on("CancelRequested")
    assert Open(ID, "acc", REQUESTED | BITS[MoneyDeducted]).acts_on("MoneyDeducted")


def test_only_those_services_are_asked_for_their_lag_that_a_withdrawal_waits_for(monkeypatch):
    monkeypatch.setattr(hold_ups, "existing_topics", lambda *_: {TOPIC})
    monkeypatch.setattr(hold_ups, "without_members", lambda *_: set())
    monkeypatch.setattr(hold_ups, "_read_letters", lambda *_: None)
    lag = [("account", "withdrawal.requests", 90), ("account", "payment.events", 10)]
    monkeypatch.setattr(
        hold_ups, "consumer_lag", lambda _, services, __: lag if services == {"account", "saga"} else []
    )
    found = hold_ups.find({}, "kafka:9092", [Open(ID, "acc", REQUESTED)])
    assert found.held_up_by == {ID: "the account service, which is behind: up to 100 records are before it"}
    assert found.unasked == {}


def test_a_dead_letter_of_what_a_service_has_in_hand_again_is_history():
    letters = [
        SimpleNamespace(event_type="MoneyDeducted", refusals=[SimpleNamespace(service=name)]) for name in "ba"
    ]
    kafka = KafkaSays(frozenset({TOPIC}), letters={ID: letters})
    one = Open(ID, "acc", REQUESTED)
    assert "MoneyDeducted, a dead letter: the a and b services refused it" in _in_words(
        one, {"x": ServiceSays()}, kafka
    )
    assert _in_words(one, {"x": ServiceSays(pending={ID: object()})}, kafka) is None


def test_dead_letters_that_a_look_has_read_hold_up_what_those_hold_up_that_are_read_for_it():
    def letter(event_type, *services, is_open=True):
        record = Record(
            "account.events", 0, 1, None, f'{{"payment_id": "{ID}"}}'.encode(), [("eventType", event_type)]
        )
        refusals = [Refusal(service, "amount", None, None) for service in services]
        return Letter("account.events/0@1", record, refusals, None if is_open else Handled("discarded", AT))

    letters = open_by_payment(
        [
            letter(b"MoneyDeducted", "payment", "saga"),
            letter(b"PaymentProcessed", "saga", is_open=False),
            letter(b"WithdrawalRequested", "account"),
        ]
    )
    assert [one.refusals[0].service for one in letters[ID]] == ["payment", "saga", "account"]
    kafka = KafkaSays(
        frozenset({TOPIC}), {"payment", "notification"}, {"payment": 500, "notification": 500}, letters
    )
    one = Open(ID, "acc", REQUESTED | BITS[MoneyDeducted])
    of = kafka.of([one])
    # The saga service has MoneyDeducted, and the account service has acted on its request.
    assert [some.refusals[0].service for some in of.letters[ID]] == ["payment"]
    assert (of.idle, dict(of.behind)) == ({"payment"}, {"payment": 500})
    assert kafka.of([Open(UUID(int=2), "acc", REQUESTED)]).letters == {}
