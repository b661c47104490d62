"""Reads of whole topics, from their first offset to their present end. For operators' tools and audits."""

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from broker.clients import reader
from broker.offsets import TIMEOUT_S, Offsets, Place, refused
from broker.unreadable import UNREADABLE, PassOver

FETCH_RECORDS = 5_000
FETCH_BYTES = 262_144
FETCH_AHEAD_KIB = 16_384
FETCH_AHEAD_RECORDS = 10_000
"""Beside their bytes, of which librdkafka counts those of bodies alone."""

POLL_S = 0.5


def scan(
    bootstrap: str,
    topics: Iterable[str],
    starts: dict[tuple[str, int], int] | None = None,
    ends: dict[tuple[str, int], int] | None = None,
) -> Generator[Message]:
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
    with _consumer(bootstrap) as consumer:
        yield from _read(consumer, until, starts or {})


def scan_ranges(bootstrap: str, ranges: Mapping[Place, Sequence[tuple[int, int]]]) -> Iterator[Message]:
    """Every record of some ranges of offsets, in order per partition, all by one client.

    Args:
        bootstrap: Kafka, ``host:port``.
        ranges: of each partition, which exists: from the first offset to before the second, ascending, none beyond
            the partition's end.

    Raises:
        KafkaException: Kafka does not answer, or a topic may not be read.
    """
    with _consumer(bootstrap) as consumer:
        for number in range(max(map(len, ranges.values()), default=0)):
            now = {place: some[number] for place, some in ranges.items() if number < len(some)}
            starts, ends = ({place: of[edge] for place, of in now.items()} for edge in (0, 1))
            yield from _read(consumer, ends, starts)


def in_time(messages: Iterable[Message], limit_s: float, too_many: str) -> Iterator[Message]:
    """Messages as they are read, for so many seconds from the first on: clients connect before that.

    In the end their client is closed, and not only once nobody refers to the error any more.

    Raises:
        TimeoutError: with that text, where the time is up and there are more.
    """
    give_up = None
    try:
        for message in messages:
            give_up = give_up if give_up is not None else time.monotonic() + limit_s
            if time.monotonic() > give_up:
                raise TimeoutError(too_many)
            yield message
    finally:
        if isinstance(messages, Generator):
            messages.close()


@contextmanager
def _consumer(bootstrap: str) -> Iterator[Consumer]:
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
            "queued.min.messages": FETCH_AHEAD_RECORDS,
        },
    )
    try:
        yield consumer
    finally:
        consumer.close()


def _read(
    consumer: Consumer, until: dict[tuple[str, int], int], starts: dict[tuple[str, int], int]
) -> Iterator[Message]:
    left = {place for place, end in until.items() if end > starts.get(place, 0)}
    partitions = [TopicPartition(*place, starts.get(place, 0)) for place in left]
    consumer.assign(partitions)
    consumer.resume(partitions)  # those that were read before, and paused at their end
    pass_over = PassOver(consumer)
    silent_since = time.monotonic()
    while left:
        found = consumer.consume(1, POLL_S)
        if found:
            found += consumer.consume(FETCH_RECORDS, 0)
        # What comes of partitions that are read to their end says nothing of those that are not.
        is_heard = any((message.topic(), message.partition()) in left for message in found)
        if not is_heard and time.monotonic() - silent_since > TIMEOUT_S:
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
            is_at_end = False
            if error is not None:
                if error.code() in UNREADABLE:
                    offset = pass_over(topic, partition, offset)
                elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise refused(topic)
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                else:
                    is_at_end = True
            elif offset < until[place]:
                yield message
            if place in left and (is_at_end or offset >= until[place] - 1):
                left.discard(place)
                consumer.pause([TopicPartition(*place)])
        if is_heard:
            silent_since = time.monotonic()
