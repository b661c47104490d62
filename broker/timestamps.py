"""Timestamps of some records: when their producer handed them to Kafka."""

import time
from collections.abc import Collection
from datetime import UTC, datetime

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException, TopicPartition

from broker.clients import reader

POLL_S = 0.2

RecordPlace = tuple[str, int, int]
"""Topic, partition and offset."""


def timestamps(
    bootstrap: str, places: Collection[RecordPlace], timeout_s: float
) -> dict[RecordPlace, datetime | None]:
    """When each of these records was produced, UTC; None if it is not there; what is not read in time lacks.

    Each record is fetched by itself: those of one withdrawal may be far apart.

    Args:
        bootstrap: Kafka, ``host:port``.
        places: of the records.
        timeout_s: for all of them, seconds.

    Raises:
        KafkaException: Kafka does not answer, or a topic may not be read.
    """
    found: dict[RecordPlace, datetime | None] = {}
    left = sorted(set(places))
    properties = {"enable.partition.eof": True, "auto.offset.reset": "error", "fetch.wait.max.ms": 10}
    consumer = reader(bootstrap, "settle-scan", {**properties, "fetch.message.max.bytes": 16_384})
    give_up = time.monotonic() + timeout_s
    try:
        while left and time.monotonic() < give_up:
            # One record of each partition at a time.
            asked = {(topic, partition): offset for topic, partition, offset in reversed(left)}
            consumer.assign([TopicPartition(*place, offset) for place, offset in asked.items()])
            left = [one for one in left if asked[one[:2]] != one[2]]
            while asked and time.monotonic() < give_up:
                for message in consumer.consume(100, POLL_S):
                    topic, partition, error = message.topic(), message.partition(), message.error()
                    if error is not None and error.code() in _REFUSED:
                        raise KafkaException(error)
                    if topic is None or partition is None or (topic, partition) not in asked:
                        continue
                    wanted, offset = asked[topic, partition], message.offset()
                    if error is None and offset is not None and offset < wanted:
                        continue
                    del asked[topic, partition]
                    kind, at_ms = message.timestamp()
                    if error is None and offset == wanted and kind != TIMESTAMP_NOT_AVAILABLE:
                        found[topic, partition, wanted] = datetime.fromtimestamp(at_ms / 1_000, UTC)
                    elif error is None or error.code() in _NOT_THERE:
                        found[topic, partition, wanted] = None
    finally:
        consumer.close()
    return found


_NOT_THERE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError._PARTITION_EOF})
_REFUSED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._ALL_BROKERS_DOWN})
