"""The time that a relay waits for records that it may not see yet."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from outbox_relay import offsets, published, replicas
from outbox_relay.errors import TopicError
from outbox_relay.offsets import FIRST, NEWEST

HIDDEN = -1
LATE = None


class Kafka:
    """A partition that answers as it is told to, at each look: where its newest record is, and where it ends."""

    def __init__(self, *looks):
        self.looks = list(looks)
        self.looked = 0

    def list_offsets(self, asked, isolation_level, request_timeout):
        ((place, which),) = asked.items()
        answer = Future()
        if which is NEWEST:
            found, self.end = self.looks[min(self.looked, len(self.looks) - 1)]
            self.looked += 1
        else:
            found = 0 if which is FIRST else self.end
        if isinstance(found, KafkaError):
            answer.set_exception(KafkaException(found))
        elif found is not LATE:
            answer.set_result(SimpleNamespace(offset=found))
        return {place: answer}


@pytest.fixture
def looks_at(monkeypatch):
    """How often Kafka was asked until the wait was over."""
    monkeypatch.setattr(replicas, "LOOK_EVERY_S", 0.001)

    def wait(*looks, meanwhile=lambda: None):
        kafka = Kafka(*looks)
        replicas.await_replicas(kafka, "account.events", [0], meanwhile)
        return kafka.looked

    return wait


def test_what_shows_its_newest_record_is_not_waited_for(looks_at):
    assert looks_at((9, 10)) == 1


def test_a_partition_that_hides_records_is_waited_for_until_it_shows_them(looks_at):
    assert looks_at((HIDDEN, 10), (HIDDEN, 10), (HIDDEN, 10), (11, 12)) == 4


def test_where_others_write_on_and_on_it_is_enough_that_the_end_moves(looks_at):
    assert looks_at((HIDDEN, 10), (HIDDEN, 10), (HIDDEN, 13)) == 3


def test_an_empty_partition_hides_nothing(looks_at):
    assert looks_at((HIDDEN, 0)) == 1


def test_an_old_kafka_that_cannot_tell_is_not_waited_for(looks_at):
    assert looks_at((KafkaError(KafkaError.UNSUPPORTED_VERSION), 10)) == 1


def test_a_kafka_that_does_not_answer_is_an_error(looks_at):
    with pytest.raises(KafkaException):
        looks_at((KafkaError(KafkaError.LEADER_NOT_AVAILABLE), 10))


def test_the_wait_has_an_end(looks_at, monkeypatch):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(replicas, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(replicas, "REPLICAS_WAIT_S", 0.01)
    assert looks_at((HIDDEN, 10)) > 1


def test_whoever_waits_can_give_up(looks_at):
    def give_up():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        looks_at((HIDDEN, 10), meanwhile=give_up)


def test_while_kafka_does_not_answer_the_database_is_kept_alive(monkeypatch):
    """Its answer may take 10 s, and come for one topic after the other."""
    monkeypatch.setattr(offsets, "ANSWER_S", 60.0)
    asked = []

    def give_up_after_three():
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        offsets.list_offsets(Kafka((LATE, 10)), "account.events", [0], NEWEST, give_up_after_three)


def test_a_topic_that_has_a_partition_without_a_leader_is_named_at_once(monkeypatch):
    """As a topic that is missing, so that rows for others do not wait for it."""
    partitions = {number: SimpleNamespace(leader=leader) for number, leader in enumerate((1, -1, 2, -1))}
    topic = SimpleNamespace(error=None, partitions=partitions)
    consumer = SimpleNamespace(
        list_topics=lambda *_: SimpleNamespace(topics={"account.events": topic}), close=lambda: None
    )
    monkeypatch.setattr(published, "reader", lambda *_: consumer)
    monkeypatch.setattr(published, "admin", lambda _: pytest.fail("offsets were asked for"))
    with pytest.raises(TopicError, match=r"account\.events cannot be read: no leader of partition 1, 3"):
        list(published.tail_ids("kafka:9092", "account.events", None, 0))
