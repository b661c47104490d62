"""The time that a relay waits for records that it may not see yet."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from outbox_relay import replicas

HIDDEN = -1


class Kafka:
    """A partition that answers as it is told to, at each look: where its newest record is, and where it ends."""

    def __init__(self, *looks):
        self.looks = list(looks)
        self.looked = 0

    def list_offsets(self, asked, request_timeout):
        (place,) = asked
        answer = Future()
        newest, self.end = self.looks[min(self.looked, len(self.looks) - 1)]
        self.looked += 1
        if isinstance(newest, KafkaError):
            answer.set_exception(KafkaException(newest))
        else:
            answer.set_result(SimpleNamespace(offset=newest))
        return {place: answer}

    def get_watermark_offsets(self, place, timeout):
        return 0, self.end


@pytest.fixture
def looks_at(monkeypatch):
    """How often Kafka was asked until the wait was over."""
    monkeypatch.setattr(replicas, "LOOK_EVERY_S", 0.001)

    def wait(*looks, meanwhile=lambda: None):
        kafka = Kafka(*looks)
        monkeypatch.setattr(replicas, "admin", lambda _: kafka)
        replicas.await_replicas("kafka:9092", kafka, "account.events", [0], meanwhile)
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
    monkeypatch.setattr(replicas, "REPLICAS_WAIT_S", 0.01)
    assert looks_at((HIDDEN, 10)) > 1


def test_whoever_waits_can_give_up(looks_at):
    def give_up():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        looks_at((HIDDEN, 10), meanwhile=give_up)
