"""What a relay's producer notices of Kafka while there is nothing to send."""

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from outbox_relay import publisher
from outbox_relay.publisher import KAFKA_AWAY_S, KAFKA_SILENT_S, Publisher

STEP_S = 0.5
NOTICED_S_MAX = 15.0


class Kafka:
    """A producer with nothing in its queue, what Kafka answers it, and the time."""

    def __init__(self):
        self.now_s = 1_000.0
        self.answers = True
        self.asked = 0

    def __len__(self):
        return 0

    def produce(self, *_):
        """Take a record."""

    def poll(self, _):
        return 0

    def list_topics(self, _topic, _timeout):
        self.asked += 1
        if not self.answers:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


@pytest.fixture
def kafka(monkeypatch):
    kafka = Kafka()
    monkeypatch.setattr(publisher, "idempotent_producer", lambda *_, **__: kafka)
    monkeypatch.setattr(publisher, "time", SimpleNamespace(monotonic=lambda: kafka.now_s))
    return kafka


def pass_time(kafka, idle, seconds):
    for _ in range(int(seconds / STEP_S)):
        kafka.now_s += STEP_S
        idle.poll()


def idle_publisher():
    return Publisher("nowhere:1", "account", 1, lambda: None)


def test_kafka_that_answers_nothing_is_noticed_within_seconds_with_nothing_to_send(kafka):
    idle = idle_publisher()
    kafka.answers = False
    pass_time(kafka, idle, KAFKA_AWAY_S)
    assert idle.away is None  # a broker that is busy for a moment is not away
    pass_time(kafka, idle, NOTICED_S_MAX - KAFKA_AWAY_S)
    assert idle.away == "Kafka does not answer, waiting for it"


def test_kafka_that_answers_again_is_noticed_too(kafka):
    idle = idle_publisher()
    kafka.answers = False
    pass_time(kafka, idle, NOTICED_S_MAX)
    assert idle.away
    kafka.answers = True
    pass_time(kafka, idle, KAFKA_SILENT_S)
    assert idle.away is None


def test_a_kafka_that_acknowledges_is_not_asked(kafka):
    busy = idle_publisher()
    for _ in range(100):
        busy.answered()
        pass_time(kafka, busy, 2 * STEP_S)
    assert kafka.asked == 0
