"""A wait for the high watermark: for records that partitions have but do not show yet, as replicas lack them.

A partition's leader shows a record once all replicas that are in sync have it. Mostly that is a matter of
milliseconds; where a broker has just died, it takes until the others notice. Meanwhile a relay that starts would
not find on the topic what the one before it had sent, and would send it again.

Kafka does not tell where a partition really ends. But asked for the newest record (KIP-734), it answers with none
where it may not show that one yet.
"""

import time
from collections.abc import Callable, Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from broker.clients import admin

# A broker that died is out of sync after broker.session.timeout.ms (9 s by default), one that lags after
# replica.lag.time.max.ms (30 s). Where it takes longer, too few replicas are left, and nothing can be sent anyway.
REPLICAS_WAIT_S = 45.0
LOOK_EVERY_S = 0.5
ANSWER_S = 10.0
NEWEST = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
# Answered by Kafka 3.0 and later.
UNSUPPORTED = (KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE)


def await_replicas(
    bootstrap: str,
    consumer: Consumer,
    topic: str,
    partitions: Iterable[int],
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Return once every record that the partitions have now can be read; after 45 s in any case.

    Args:
        bootstrap: ``host:port[,host:port…]``.
        consumer: any, to ask for offsets.
        topic: which exists.
        partitions: of the topic.
        meanwhile: callback, called repeatedly; may raise to give up.

    Raises:
        KafkaException: Kafka does not answer.
    """
    client = admin(bootstrap)
    give_up = time.monotonic() + REPLICAS_WAIT_S
    waiting = _ends_of_those_that_hide(client, consumer, topic, partitions)
    while waiting and time.monotonic() < give_up:
        meanwhile()
        time.sleep(LOOK_EVERY_S)
        # Where the end moves, replicas get what is written, and have what was there at the look before.
        ends = _ends_of_those_that_hide(client, consumer, topic, waiting)
        waiting = {partition: end for partition, end in ends.items() if end == waiting[partition]}


def _ends_of_those_that_hide(
    client: AdminClient, consumer: Consumer, topic: str, partitions: Iterable[int]
) -> dict[int, int]:
    """Where partitions seem to end, of those that have records behind that."""
    ends = {}
    asked = {TopicPartition(topic, partition): NEWEST for partition in partitions}
    for place, answer in client.list_offsets(asked, request_timeout=ANSWER_S).items():
        try:
            shows_newest = answer.result().offset >= 0
        except KafkaException as error:
            if error.args[0].code() not in UNSUPPORTED:
                raise
            return {}
        if not shows_newest:
            first, end = consumer.get_watermark_offsets(place, ANSWER_S)
            if first < end:  # of one that seems to be empty Kafka says the same where it is
                ends[place.partition] = end
    return ends
