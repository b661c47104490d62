"""Dead letters that are kept between looks: each reads what is new, whatever became of the topics."""

import time
from types import SimpleNamespace

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException

from contracts.topics import DEAD_LETTERS_HANDLED
from operations.dead_letters import kept
from operations.dead_letters.handled import Handled
from operations.dead_letters.kept import KeptLetters
from tests.unit.test_dead_letters import AT, dead

TOPIC = "account.events.dlq"


class Kafka:
    """Topics as they are asked for; ``read`` counts the records that were handed out."""

    def __init__(self) -> None:
        self.ids = {TOPIC: "1", DEAD_LETTERS_HANDLED: "1"}
        self.records = {TOPIC: [], DEAD_LETTERS_HANDLED: []}
        self.deleted = 0
        self.read = 0
        self.fails = False

    client = None

    def bounds(self, topics):
        first = {(TOPIC, 0): self.deleted, (DEAD_LETTERS_HANDLED, 0): 0}
        return first, {(topic, 0): len(self.records[topic]) for topic in self.records}

    def scan(self, bootstrap, topics, starts, ends):
        for (topic, _), start in starts.items():
            for record in self.records[topic][max(start, self.deleted if topic == TOPIC else 0) :]:
                self.read += 1
                yield record
                if self.fails:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def refuse(self, offset):
        record = dead("account", offset, topic="account.events")
        record.topic = lambda: TOPIC
        self.records[TOPIC].append(record)
        return f"account.events/0@{offset}"

    def handle(self, name):
        value = msgspec.json.encode(Handled("discarded", AT))
        record = SimpleNamespace(topic=lambda: DEAD_LETTERS_HANDLED, key=name.encode, value=lambda: value)
        self.records[DEAD_LETTERS_HANDLED].append(record)


@pytest.fixture
def kafka(monkeypatch):
    found = Kafka()
    monkeypatch.setattr(kept, "topic_ids", lambda *_: dict(found.ids))
    monkeypatch.setattr(kept, "Offsets", lambda *_: found)
    monkeypatch.setattr(kept, "scan", found.scan)
    return found


def states(letters):
    return {letter.id: "open" if letter.open else "handled" for letter in letters}


def test_each_look_reads_what_is_new_since_the_last(kafka):
    letters = KeptLetters("kafka:9092")
    one, other = kafka.refuse(1), kafka.refuse(2)
    assert states(letters.read()) == {one: "open", other: "open"}
    assert states(letters.read()) == {one: "open", other: "open"}
    assert kafka.read == 2
    kafka.handle(one)
    third = kafka.refuse(3)
    assert states(letters.read()) == {one: "handled", other: "open", third: "open"}
    assert kafka.read == 4


def test_a_letter_that_is_refused_again_has_both_refusals_and_what_was_given_stays_as_it_was(kafka):
    letters = KeptLetters("kafka:9092")
    kafka.refuse(1)
    (before,) = letters.read()
    kafka.refuse(1)
    (after,) = letters.read()
    assert (len(before.refusals), len(after.refusals)) == (1, 2)


def test_a_topic_that_was_made_anew_or_whose_records_were_deleted_is_read_anew(kafka, monkeypatch):
    letters = KeptLetters("kafka:9092")
    kafka.refuse(1)
    letters.read()
    kafka.ids[TOPIC], kafka.records[TOPIC] = "2", []
    assert letters.read() == []  # it has fewer records than before
    one, other = kafka.refuse(7), kafka.refuse(8)
    assert states(letters.read()) == {one: "open", other: "open"}
    kafka.ids[TOPIC], kafka.records[TOPIC] = "3", []
    third, fourth = kafka.refuse(9), kafka.refuse(10)
    later = time.monotonic() + kept.IDS_EVERY_S
    monkeypatch.setattr(kept.time, "monotonic", lambda: later)
    assert states(letters.read()) == {third: "open", fourth: "open"}
    kafka.deleted = 1
    assert states(letters.read()) == {fourth: "open"}


def test_a_look_that_fails_midway_leaves_nothing_half_read(kafka):
    letters = KeptLetters("kafka:9092")
    kafka.refuse(1)
    kafka.refuse(2)
    kafka.fails = True
    with pytest.raises(KafkaException):
        letters.read()
    kafka.fails = False
    assert [len(letter.refusals) for letter in letters.read()] == [1, 1]


def test_what_is_kept_is_bounded(kafka):
    letters = KeptLetters("kafka:9092", bytes_max=5_000)
    for offset in range(2):
        kafka.refuse(offset)
    letters.read()
    letters.read()
    assert kafka.read == 2
    kafka.refuse(2)
    assert [len(letters.read()) for _ in range(2)] == [3, 3]
    assert kafka.read == 2 + 1 + 3
