"""The time that a service lets records gather between two batches, and the topics that it cannot read."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import MemberAssignment, MemberDescription
from structlog.testing import capture_logs

from broker.security import KafkaSettingsError
from contracts import headers
from processors.runtime import consumer, pacing, reading
from processors.runtime.consumer import LOST, BatchConsumer
from processors.runtime.pacing import BUSY_RATE, ENOUGH_RECORDS, REST_S_MAX, SMALL, pause_s

GATHER_S_MAX = 0.1
TAKING_S = 1e-5
"""Of one record, in these tests."""


def test_after_a_pause_nothing_is_waited_for():
    assert pause_s(rate=0.0, gather_s_max=GATHER_S_MAX, took_s=0.0, records=0) == 0.0


def test_the_more_comes_in_the_longer_records_gather():
    pauses = [pause_s(rate, GATHER_S_MAX, took_s=0.0, records=SMALL) for rate in (10.0, 200.0, 1_000.0, 4_000.0)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == GATHER_S_MAX


def test_the_time_a_batch_took_counts_as_gathering():
    took_s = 0.04
    rested = pause_s(4_000.0, GATHER_S_MAX, took_s=took_s, records=SMALL)
    assert took_s + rested == pytest.approx(GATHER_S_MAX)
    assert pause_s(4_000.0, GATHER_S_MAX, took_s=GATHER_S_MAX, records=SMALL) == 0.0


@pytest.mark.parametrize("took_s", [0.001, 0.01, REST_S_MAX])
def test_small_batches_take_half_of_the_time_at_the_most(took_s):
    assert pause_s(10.0, GATHER_S_MAX, took_s=took_s, records=SMALL - 1) == took_s


def test_a_batch_that_waits_for_others_costs_the_next_one_little():
    assert pause_s(10.0, GATHER_S_MAX, took_s=5.0, records=1) == REST_S_MAX


def test_a_batch_of_enough_records_is_not_waited_for():
    assert pause_s(100_000.0, gather_s_max=1.0, took_s=0.0, records=SMALL) == ENOUGH_RECORDS / 100_000.0
    assert pause_s(100_000.0, gather_s_max=1.0, took_s=0.0, records=SMALL, enough=8_000) == 0.08


class Kafka:
    """A consumer's view of topics: those that exist, what it was asked about, and records to read.

    They arrive at a rate, and are taken faster.
    """

    def __init__(self, *topics):
        self.topics = set(topics)
        self.asked = []
        self.refused = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        self.now, self.taken, self.stored, self.rate, self.pauses = 0.0, 0, 0, 0.0, []
        self.assigns, self.members, self.closed, self.error = True, [], 0, None

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    def _end(self):
        return self.stored + int(self.now * self.rate)

    def consume(self, wanted, timeout_s):
        if self.error is not None:
            error, self.error = self.error, None
            return [SimpleNamespace(error=lambda: error, topic=lambda: None)]
        found = [Message(offset) for offset in range(self.taken, min(self.taken + wanted, self._end()))]
        self.taken += len(found)
        self.now += len(found) * TAKING_S or timeout_s
        return found

    def assignment(self):
        return [TopicPartition("payment.events", 0)]

    def position(self, places):
        return [TopicPartition(place.topic, place.partition, self.taken) for place in places]

    def get_watermark_offsets(self, _place, **_):
        return 0, self._end()

    def list_offsets(self, asked, request_timeout):
        """As another client is told."""
        found = {}
        for place in asked:
            found[place] = Future()
            found[place].set_result(SimpleNamespace(offset=self._end()))
        return found

    def subscribe(self, topics, on_assign, on_lost):
        self.on_lost = on_lost
        if self.assigns:
            on_assign(self, [])

    def memberid(self):
        return "own"

    def describe_consumer_groups(self, groups, request_timeout):
        """As another client is told."""
        found = Future()
        found.set_result(SimpleNamespace(members=self.members))
        return dict.fromkeys(groups, found)

    def close(self):
        self.closed += 1

    def list_topics(self, topic, timeout):
        self.asked.append(topic)
        return SimpleNamespace(
            topics={topic: SimpleNamespace(error=None if topic in self.topics else self.refused)}
        )


class Message:
    """A record on a topic."""

    def __init__(self, offset):
        self.offset = lambda: offset

    def error(self):
        return None

    def topic(self):
        return "payment.events"

    def partition(self):
        return 0

    def key(self):
        return b"acc-1"

    def value(self):
        return b"{}"


TOPICS = ["withdrawal.requests", "payment.events", "account.events"]


@pytest.fixture
def kafka(monkeypatch):
    kafka = Kafka(*TOPICS)
    monkeypatch.setattr(consumer, "group_consumer", lambda *_: kafka)
    monkeypatch.setattr(reading, "admin", lambda *_: kafka)
    for module in (consumer, pacing):
        monkeypatch.setattr(module, "time", kafka)
    monkeypatch.setattr(headers, "of", lambda _: [])
    return kafka


def taken_under_load(kafka, *, backlog):
    """Batches of a service at full load, and the pauses between them, once its rate is known."""
    kafka.rate, kafka.stored = 1.2 * BUSY_RATE, backlog
    batches = BatchConsumer("nowhere:1", "saga", TOPICS, 1_000, 1.0, enough=1_000)
    sizes = [len(batches.take()) for _ in range(100)]
    return sizes[50:], kafka.pauses[50:]


def test_a_backlog_is_taken_without_a_pause(kafka):
    sizes, pauses = taken_under_load(kafka, backlog=1_000_000)
    assert set(sizes) == {1_000}
    assert set(pauses) == {0.0}


def test_without_a_backlog_records_gather_at_full_load(kafka):
    _, pauses = taken_under_load(kafka, backlog=0)
    assert min(pauses) > 0.0


def test_topics_that_are_missing_are_named_from_the_first_answer_on_until_they_are_there(kafka):
    kafka.topics = {"payment.events"}
    batches = BatchConsumer("nowhere:1", "account", TOPICS, 1, GATHER_S_MAX)
    says = "topics that do not exist: withdrawal.requests, account.events; `settle topics` creates them"
    assert batches.waits_for(1.0) == says
    kafka.topics = set(TOPICS)
    answers = [batches.waits_for(1.0) for _ in TOPICS]
    assert answers[-1] is None


def test_kafka_that_is_away_is_logged_once_until_it_has_answered(kafka):
    batches = BatchConsumer("nowhere:1", "account", TOPICS, 1, GATHER_S_MAX)
    away = KafkaError(KafkaError._ALL_BROKERS_DOWN)
    with capture_logs() as logged:
        for _ in range(3):
            batches._on_error(batches._generation, away)
        assert batches.waits_for(1.0) is None
        batches._on_error(batches._generation, away)
    assert [line["event"] for line in logged] == ["no Kafka broker answers, waiting"] * 2


def test_a_topic_deleted_later_is_noticed_and_each_look_asks_about_one(kafka):
    batches = BatchConsumer("nowhere:1", "account", TOPICS, 1, GATHER_S_MAX)
    assert batches.waits_for(1.0) is None
    kafka.topics.remove("account.events")
    kafka.asked.clear()
    answers = [batches.waits_for(1.0) for _ in TOPICS]
    assert "account.events" in answers[-1]
    assert kafka.asked == TOPICS


def test_a_topic_that_may_not_be_read_is_named_with_the_reason(kafka):
    kafka.refused = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    kafka.topics.remove("payment.events")
    batches = BatchConsumer("nowhere:1", "account", TOPICS, 1, GATHER_S_MAX)
    assert batches.waits_for(1.0).startswith("topic payment.events cannot be read: ")


def described(member_id, partitions, target):
    """A member as Kafka describes it; ``target`` is None with the classic protocol."""
    places = [
        MemberAssignment([TopicPartition("payment.events", n) for n in range(count or 0)])
        for count in (partitions, target)
    ]
    return MemberDescription(member_id, "", "", places[0], None, None if target is None else places[1])


@pytest.mark.parametrize(
    ("members", "is_well"),
    [
        ([], False),
        ([described("other", 0, 0)], False),
        ([described("own", 0, 1)], False),
        ([described("own", 1, 0)], False),
        ([described("own", 0, None)], False),
        ([described("other", 1, 1), described("own", 0, 0)], True),
    ],
    ids=["nobody", "another", "about to get one", "about to give one back", "classic", "spare"],
)
def test_a_member_for_which_the_group_has_no_partition_is_ready_though_it_is_told_nothing(kafka, members, is_well):
    kafka.assigns = False
    batches = BatchConsumer("nowhere:1", "account", TOPICS, 1, GATHER_S_MAX)
    assert batches.waits_for(1.0) == "partitions are not assigned yet"
    kafka.members = members
    assert (batches.waits_for(1.0) is None) == batches.assigned == is_well
    kafka.on_lost(kafka, [])
    batches._refuse("account", "no right to the group")
    kafka.members = []
    assert batches.waits_for(1.0) == "no right to the group"
    kafka.members = members
    assert (batches.waits_for(1.0) is None) == is_well
    kafka.on_lost(kafka, [])
    kafka.members = []
    assert batches.waits_for(1.0) == (LOST if is_well else "no right to the group")


WRONG = "SETTLE_KAFKA_SSL_CA=/ca is wrong: not a PEM file"


@pytest.fixture
def refusing(monkeypatch):
    """Have no client made in a module, or those of a Kafka again."""

    def refuse(module, factory, kafka=None):
        def make(*_):
            if kafka is None:
                raise KafkaSettingsError(WRONG)
            return kafka

        monkeypatch.setattr(module, factory, make)

    return refuse


def test_a_client_that_cannot_be_made_to_ask_with_is_waited_for(kafka, refusing):
    batches = BatchConsumer("nowhere:1", "account", TOPICS, 1, GATHER_S_MAX)
    refusing(reading, "admin")
    assert batches.waits_for(1.0) == f"Kafka cannot be asked: {WRONG}"
    refusing(reading, "admin", kafka)
    assert batches.waits_for(1.0) is None


def test_the_client_that_asked_before_stays_until_there_is_another(kafka, refusing):
    asked = []

    def refuses_once(places, request_timeout):
        asked.append(places)
        if len(asked) > 1:
            return kafka.list_offsets(places, request_timeout)
        refusal = Future()
        refusal.set_exception(KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
        return dict.fromkeys(places, refusal)

    refusing(reading, "admin", SimpleNamespace(list_offsets=refuses_once))
    batches = BatchConsumer("nowhere:1", "account", TOPICS, 1, GATHER_S_MAX)
    assert batches.waits_for(1.0) is None  # its leader may be moving
    refusing(reading, "admin")
    assert batches.waits_for(1.0) is None
    assert len(asked) == 2


def test_a_consumer_that_cannot_be_replaced_reads_on_until_it_can(kafka, refusing, monkeypatch):
    batches = BatchConsumer("nowhere:1", "account", TOPICS, 1, GATHER_S_MAX)
    is_due = iter([True])
    monkeypatch.setattr(batches._rotation, "is_due", lambda: next(is_due, False))
    refusing(consumer, "group_consumer")
    kafka.stored = 2
    with capture_logs() as logged:
        assert [len(batches.take()) for _ in range(2)] == [1, 1]
        assert batches.waits_for(1.0) == WRONG
        kafka.now += consumer.RENEW_S
        batches.take()
    assert [line["error"] for line in logged if line["log_level"] == "warning"] == [WRONG]
    assert kafka.closed == 0
    refusing(consumer, "group_consumer", kafka)
    kafka.now += consumer.RENEW_S
    batches.take()
    assert (kafka.closed, batches.waits_for(1.0)) == (1, None)


def test_a_consumer_that_kafka_refuses_waits_for_an_identity_that_can_be_used(kafka, refusing):
    batches = BatchConsumer("nowhere:1", "account", TOPICS, 1, GATHER_S_MAX)
    kafka.error = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)
    assert batches.take() == []
    refusing(consumer, "group_consumer")
    for _ in range(2):
        kafka.now += consumer.RENEW_S
        assert batches.take() == []
        assert WRONG in batches.waits_for(1.0)
    assert kafka.closed == 0
    refusing(consumer, "group_consumer", kafka)
    kafka.now += consumer.RENEW_S
    batches.take()
    assert (kafka.closed, batches.waits_for(1.0)) == (1, None)
