"""Reads of whole topics, from their first offset to their present end. For operators' tools and audits."""

import time
from collections.abc import Iterable, Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from broker.clients import reader
from broker.offsets import TIMEOUT_S, Offsets, refused
from broker.unreadable import UNREADABLE, PassOver

FETCH_RECORDS = 5_000
FETCH_BYTES = 262_144
FETCH_AHEAD_KIB = 16_384
POLL_S = 0.5


def scan(
    bootstrap: str,
    topics: Iterable[str],
    starts: dict[tuple[str, int], int] | None = None,
    ends: dict[tuple[str, int], int] | None = None,
) -> Iterator[Message]:
    """Every record present now, in order per partition; topics that do not exist are empty.

    Records that librdkafka cannot read are left out; services have them among their dead letters.

    Args:
        bootstrap: Kafka, ``host:port``.
        topics: their names.
        starts: first offset by topic and partition, where only some partitions are wanted, and those from there.
        ends: the offset to read each of these partitions up to, where not everything is wanted.

    Raises:
        KafkaException: Kafka does not answer, or a topic may not be read.
    """
    until = Offsets(bootstrap).end(topics)
    if starts is not None:
        until = {place: min(end, (ends or until)[place]) for place, end in until.items() if place in starts}
    consumer = reader(
        bootstrap,
        "settle-scan",
        {
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
            # Small fetches per partition: partitions advance about evenly, and prefetched bytes are bounded.
            "fetch.message.max.bytes": FETCH_BYTES,
            "queued.max.messages.kbytes": FETCH_AHEAD_KIB,
        },
    )
    try:
        yield from _read(consumer, until, starts or {})
    finally:
        consumer.close()


def _read(
    consumer: Consumer, until: dict[tuple[str, int], int], starts: dict[tuple[str, int], int]
) -> Iterator[Message]:
    left = {place for place, end in until.items() if end > starts.get(place, 0)}
    consumer.assign([TopicPartition(*place, starts.get(place, 0)) for place in left])
    pass_over = PassOver(consumer)
    heard = time.monotonic()
    while left:
        found = consumer.consume(1, POLL_S)
        if found:
            found += consumer.consume(FETCH_RECORDS, 0)
            heard = time.monotonic()
        elif time.monotonic() - heard > TIMEOUT_S:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "Kafka sends nothing"))
        for message in found:
            error = message.error()
            if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                continue  # the group's name is only a label: its coordinator has nothing to do
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert partition is not None
            assert offset is not None
            place = topic, partition
            if error is not None:
                if error.code() in UNREADABLE:
                    offset = pass_over(topic, partition, offset)
                elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise refused(topic)
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                else:
                    left.discard(place)
            elif offset < until[place]:
                yield message
            if offset >= until[place] - 1:
                left.discard(place)
