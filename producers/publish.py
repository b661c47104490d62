"""Publication of a few messages to any topics, with a producer of their own and confirmed delivery."""

from collections.abc import Sequence

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message

from broker.clients import plain_producer
from broker.troubles import Troubles, denied
from contracts.headers import Headers
from producers.errors import DeniedError, NotDeliveredError
from producers.reasons import reason_of
from producers.settings import DELIVERY_TIMEOUT_S, topic_wait_ms

FLUSH_GRACE_S = 1.0


class Outgoing(msgspec.Struct, frozen=True):
    """A message to write.

    Attributes:
        topic: where to.
        key: decides on the partition, as for every other writer of that topic.
        event_type: for people; the header says it, too.
        body: the value.
        headers: as :mod:`contracts.headers` has them.
    """

    topic: str
    key: str
    event_type: str
    body: bytes
    headers: Headers


def publish(bootstrap: str, messages: Sequence[Outgoing], timeout_s: float = DELIVERY_TIMEOUT_S) -> None:
    """Write messages and wait until every in-sync replica has them all.

    A message may be written twice if its acknowledgement is lost; consumers deduplicate by its ID.

    Args:
        bootstrap: Kafka brokers, ``host:port``, comma-separated.
        messages: few enough to fit a producer's queue.
        timeout_s: how long Kafka may take to confirm each, seconds.

    Raises:
        DeniedError: the user lacks a right.
        NotDeliveredError: Kafka did not confirm one in time; safe to repeat.
    """
    troubles = Troubles(bootstrap)
    # Not idempotent: that costs the first message half a second, and nothing here depends on it.
    producer = plain_producer(
        bootstrap,
        {
            "client.id": "settle-producer",
            "delivery.timeout.ms": int(timeout_s * 1000),
            "topic.metadata.propagation.max.ms": topic_wait_ms(timeout_s),
            "error_cb": troubles.note,
        },
    )
    reports: list[KafkaError | None] = []

    def report(error: KafkaError | None, _message: Message) -> None:
        reports.append(error)

    for message in messages:
        carried: list[tuple[str, str | bytes | None]] = list(message.headers)
        try:
            producer.produce(
                message.topic, value=message.body, key=message.key, headers=carried, on_delivery=report
            )
        except KafkaException as error:
            reports.append(error.args[0])
    producer.flush(timeout_s + FLUSH_GRACE_S)
    failures = [error for error in reports if error is not None]
    if failures or len(reports) < len(messages):
        reason = reason_of(failures[0]) if failures else f"no confirmation within {timeout_s:g} s"
        if troubles.text is not None:
            reason = f"{reason} ({troubles.text})"
        topics = ", ".join(sorted({message.topic for message in messages}))
        kind = DeniedError if failures and denied(failures[0]) is not None else NotDeliveredError
        raise kind(f"Kafka at {bootstrap} did not take what was for {topics}: {reason}")
