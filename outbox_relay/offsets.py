"""Offsets of a topic's partitions, waited for in short steps, so that keepalives to the database continue."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import wait

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from broker.answers import REQUEST_S, answer

FIRST, END = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
NEWEST = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
since = OffsetSpec.for_timestamp

ANSWER_S = 10.0
ANSWER_LOOK_S = 0.1

Meanwhile = Callable[[], None]


def list_offsets(
    client: AdminClient,
    topic: str,
    partitions: Iterable[int],
    which: OffsetSpec,
    meanwhile: Meanwhile,
    *,
    committed: bool = False,
) -> dict[int, int]:
    """An offset of each partition; below zero where there is no such record.

    Args:
        client: to ask with.
        topic, partitions: which exist.
        which: the first one, the end, that of the newest record, or of the first one ``since`` a time.
        meanwhile: callback, called every 0.1 s; may raise to give up.
        committed: partitions end where the first transaction begins that is still open.

    Raises:
        KafkaException: Kafka does not answer within 10 s, or a partition has no leader.
    """
    asked = {TopicPartition(topic, partition): which for partition in partitions}
    level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    answers = client.list_offsets(asked, isolation_level=level, request_timeout=REQUEST_S)
    give_up = time.monotonic() + ANSWER_S
    while wait(answers.values(), ANSWER_LOOK_S).not_done and time.monotonic() < give_up:
        meanwhile()
    return {place.partition: answer(one, 0).offset for place, one in answers.items()}
