"""A read of whole topics goes on where it can, and ends where nothing comes of what it still wants."""

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from broker import scan
from broker.scan import _read, in_time


def message(topic=None, partition=None, offset=None, error=None):
    found = {"topic": topic, "partition": partition, "offset": offset, "error": error}
    return SimpleNamespace(**{name: lambda value=value: value for name, value in found.items()})


def test_a_missing_right_to_the_group_does_not_end_it():
    denied = message(error=KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    record = message("withdrawal.requests", 0, 0)
    batches = iter([[denied], [], [record], []])
    consumer = SimpleNamespace(
        assign=lambda places: None,
        resume=lambda places: None,
        consume=lambda *_: next(batches),
        pause=lambda places: None,
    )
    assert list(_read(consumer, {("withdrawal.requests", 0): 1}, {})) == [record]


def test_what_comes_of_other_partitions_keeps_no_silent_one_waiting(monkeypatch):
    now = 0.0

    def consume(*_):
        nonlocal now
        now += 1.0
        # The first partition is read to its end, and goes on being written to.
        return [message("withdrawal.requests", 0, int(now))]

    paused = []
    consumer = SimpleNamespace(
        assign=lambda places: None, resume=lambda places: None, consume=consume, pause=paused.extend
    )
    monkeypatch.setattr(scan, "time", SimpleNamespace(monotonic=lambda: now))
    with pytest.raises(KafkaException, match="Kafka sends nothing"):
        list(_read(consumer, {("withdrawal.requests", 0): 1, ("withdrawal.requests", 1): 1}, {}))
    assert [(place.topic, place.partition) for place in paused] == [("withdrawal.requests", 0)]


def test_the_time_for_what_is_read_counts_from_its_first_record(monkeypatch):
    now, too_many = 0.0, "too many"
    monkeypatch.setattr(scan, "time", SimpleNamespace(monotonic=lambda: now))

    def read(each_s):
        nonlocal now
        now += 60.0  # a client connects
        for number in range(3):
            yield number
            now += each_s

    assert list(in_time(read(1.0), 2.0, too_many)) == [0, 1, 2]
    with pytest.raises(TimeoutError, match="too many"):
        list(in_time(read(2.0), 2.0, too_many))
    assert list(in_time((one for one in ()), -1.0, too_many)) == []


def test_a_read_that_takes_too_long_is_closed_though_its_error_is_kept():
    closed = []

    def read():
        try:
            yield from range(3)
        finally:
            closed.append(True)

    with pytest.raises(TimeoutError) as kept:
        list(in_time(read(), -1.0, "too many"))
    assert kept.value
    assert closed == [True]
