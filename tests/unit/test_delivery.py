"""Dead letters that one topic takes and another does not are written once, however often they are tried again."""

import asyncio
from collections import Counter

import pytest
from confluent_kafka import KafkaError, KafkaException

from broker.deliver import NotAllWrittenError
from broker.offsets import refused
from broker.records import Record
from cli import errors
from cli.errors import one_line
from processors.runtime import dead_letters
from processors.runtime.dead_letters import DeadLetters
from processors.runtime.messages import DeadLetter


class Kafka:
    """A producer of a Kafka that says of each topic what it does with a record."""

    def __init__(self) -> None:
        self.refuses: dict[str, int] = {}
        self.written: Counter[str] = Counter()

    def produce(self, topic, value, key, *, partition, headers, on_delivery):
        if (code := self.refuses.get(topic)) is not None and value is not None and len(value) > 1:
            on_delivery(KafkaError(code), None)
        else:
            self.written[topic] += 1
            on_delivery(None, object())

    def flush(self, _timeout_s):
        return 0


@pytest.fixture
def kafka(monkeypatch):
    kafka = Kafka()
    monkeypatch.setattr(dead_letters, "idempotent_producer", lambda *_: kafka)
    return kafka


def letter(topic, offset):
    return DeadLetter(Record(topic, 0, offset, b"acc-1", b"junk", []), "junk")


def test_what_is_written_is_not_written_again_while_another_topic_refuses(kafka):
    kafka.refuses["b.dlq"] = KafkaError.TOPIC_AUTHORIZATION_FAILED
    letters = [letter("a", 0), letter("b", 0), letter("a", 1)]
    publisher = DeadLetters("kafka:9092", "account")
    for _ in range(3):
        with pytest.raises(KafkaException):
            asyncio.run(publisher.publish(letters))
    assert kafka.written == {"a.dlq": 2}
    kafka.refuses.clear()
    asyncio.run(publisher.publish(letters))
    assert kafka.written == {"a.dlq": 2, "b.dlq": 1}
    # Another batch may well have the same letter: its offset was not committed.
    asyncio.run(publisher.publish(letters[:1]))
    assert kafka.written == {"a.dlq": 3, "b.dlq": 1}


def test_an_error_of_the_delivery_is_told_as_kafkas_own(monkeypatch):
    monkeypatch.setattr(errors, "_kafka_asked", None)  # which commands set for their whole process
    missing = NotAllWrittenError(refused("a.dlq"), {})
    assert one_line(missing).startswith(
        "Kafka refuses: a.dlq: Topic authorization failed: the Kafka user lacks a right"
    )
