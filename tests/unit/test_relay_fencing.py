"""Records of a fenced producer count once their transaction is committed, and none is committed after the end."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from outbox_relay import fencing
from outbox_relay.fencing import COMMIT_ROWS, FencedProducer

RETRIABLE = KafkaException(KafkaError(KafkaError._TIMED_OUT, "not yet", False, True, False))
FINAL = KafkaException(KafkaError(KafkaError._FENCED, "fenced", True, False, False))


class Kafka:
    """A transactional producer; it acknowledges at each flush, unless it is told not to."""

    def __init__(self):
        self.queue, self.commits, self.transactions, self.fails = [], 0, 0, None
        self.answers, self.aborted, self.refuses = True, False, None
        self.list_topics = None

    def begin_transaction(self):
        self.transactions += 1

    def produce(self, topic, value, key, partition, on_delivery, *_):
        self.queue.append((value, on_delivery))

    def poll(self, _):
        return 0

    def flush(self, _):
        if self.answers:
            queue, self.queue = self.queue, []
            for value, on_delivery in queue:
                on_delivery("refused" if value == self.refuses else None, value)
        return len(self.queue)

    def commit_transaction(self, timeout_s):
        if self.fails is not None:
            raise self.fails
        self.flush(timeout_s)
        self.commits += 1

    def abort_transaction(self, _):
        self.aborted = True

    def purge(self, *, in_flight):
        self.queue.clear()

    def __len__(self):
        return len(self.queue)


class Clock:
    now_s = 0.0

    def monotonic(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(fencing, "time", clock)
    return clock


@pytest.fixture
def kafka(clock):
    return Kafka()


@pytest.fixture
def delivered():
    return []


@pytest.fixture
def send(kafka, delivered):
    producer = FencedProducer(kafka)

    def send(value):
        producer.produce("t", value, None, -1, on_delivery, None, 0, [])

    def on_delivery(error, value):
        delivered.append((error, value))

    send.producer = producer
    return send


def test_a_record_counts_once_its_transaction_is_committed(kafka, send, delivered):
    kafka.fails = RETRIABLE
    send(b"1")
    assert send.producer.flush(0.1) == 1
    assert (delivered, kafka.queue) == ([], [])
    kafka.fails = None
    assert send.producer.flush(0.1) == 0
    assert delivered == [(None, b"1")]


def test_the_producer_is_full_while_a_commit_is_under_way(kafka, send, delivered):
    kafka.fails = RETRIABLE
    send(b"1")
    send.producer.flush(0.1)
    with pytest.raises(BufferError):
        send(b"2")
    kafka.fails = None
    send.producer.poll(0.1)  # as whoever waits for room does
    send(b"2")
    assert (delivered, kafka.transactions) == ([(None, b"1")], 2)


def test_an_unanswered_record_does_not_hold_back_the_others_for_long(kafka, send, clock):
    kafka.answers = False
    send(b"1")
    send.producer.flush(0.005)
    assert kafka.commits == 0
    clock.now_s += 2 * fencing.COMMIT_BUSY_S
    send.producer.flush(0.005)
    assert kafka.commits == 1


@pytest.mark.parametrize("rows", [COMMIT_ROWS, 1], ids=["many rows", "an old one"])
def test_a_backlog_is_committed_in_parts(kafka, send, clock, rows):
    for _ in range(rows):
        send(b"1")
    if rows < COMMIT_ROWS:
        send.producer.poll(0)
        assert kafka.commits == 0
        clock.now_s += 2 * fencing.COMMIT_AFTER_S
    send.producer.poll(0)
    assert kafka.commits == 1


def test_a_refused_record_is_reported_at_once(kafka, send, delivered):
    kafka.fails, kafka.refuses = RETRIABLE, b"2"
    send(b"1")
    send(b"2")
    send.producer.flush(0.1)
    assert delivered == [("refused", b"2")]


def test_nothing_counts_or_is_committed_once_it_is_fenced_off(kafka, send, delivered):
    kafka.fails = FINAL
    send(b"1")
    with pytest.raises(KafkaException):
        send.producer.flush(0.1)
    kafka.fails = None
    assert send.producer.flush(0.1) == 0
    assert (delivered, kafka.commits) == ([], 0)


def test_what_is_uncommitted_at_the_end_is_withdrawn(kafka, send, delivered):
    kafka.answers = False
    send(b"1")
    send.producer.purge(in_flight=True)
    send.producer.flush(0.1)
    send.producer.close()
    assert (delivered, kafka.commits, kafka.aborted) == ([], 0, True)


def test_a_start_waits_for_kafka_and_raises_what_will_not_pass(kafka, clock):
    attempts = []

    def init_transactions(_):
        attempts.append(1)
        if len(attempts) < 3:
            raise RETRIABLE
        raise FINAL

    kafka.init_transactions = init_transactions
    waited = []
    with pytest.raises(KafkaException, match="fenced"):
        FencedProducer(kafka).start(lambda: waited.append(1))
    assert len(waited) == 2
