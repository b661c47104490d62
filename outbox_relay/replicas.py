"""A wait for the high watermark: for records that partitions have but do not show yet, as replicas lack them.

A partition's leader shows a record once all replicas that are in sync have it. Mostly that is a matter of
milliseconds; where a broker has just died, it takes until the others notice. Meanwhile a relay that starts would
not find on the topic what the one before it had sent, and would send it again.

Kafka does not tell where a partition really ends. But asked for the newest record (KIP-734), it answers with none
where it may not show that one yet.
"""

import time
from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from outbox_relay.offsets import END, FIRST, NEWEST, Meanwhile, list_offsets

# A broker that died is out of sync after broker.session.timeout.ms (9 s by default), one that lags after
# replica.lag.time.max.ms (30 s). Where it takes longer, too few replicas are left, and nothing can be sent anyway.
REPLICAS_WAIT_S = 45.0
LOOK_EVERY_S = 0.5
# Answered by Kafka 3.0 and later.
UNSUPPORTED = (KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE)


def await_replicas(
    client: AdminClient, topic: str, partitions: Iterable[int], meanwhile: Meanwhile = lambda: None
) -> None:
    """Return once every record that the partitions have now can be read; after 45 s in any case.

    Args:
        client: to ask with.
        topic: which exists.
        partitions: of the topic.
        meanwhile: callback, called repeatedly; may raise to give up.

    Raises:
        KafkaException: Kafka does not answer.
    """
    give_up = time.monotonic() + REPLICAS_WAIT_S
    waiting = _ends_of_those_that_hide(client, topic, partitions, meanwhile)
    while waiting and time.monotonic() < give_up:
        meanwhile()
        time.sleep(LOOK_EVERY_S)
        # Where the end moves, replicas get what is written, and have what was there at the look before.
        ends = _ends_of_those_that_hide(client, topic, waiting, meanwhile)
        waiting = {partition: end for partition, end in ends.items() if end == waiting[partition]}


def _ends_of_those_that_hide(
    client: AdminClient, topic: str, partitions: Iterable[int], meanwhile: Meanwhile
) -> dict[int, int]:
    """Where partitions seem to end, of those that have records behind that."""
    try:
        newest = list_offsets(client, topic, partitions, NEWEST, meanwhile)
    except KafkaException as error:
        if error.args[0].code() not in UNSUPPORTED:
            raise
        return {}
    hide = [partition for partition, offset in newest.items() if offset < 0]
    if not hide:
        return {}
    first = list_offsets(client, topic, hide, FIRST, meanwhile)
    ends = list_offsets(client, topic, hide, END, meanwhile)
    # Of one that seems to be empty Kafka says the same where it is.
    return {partition: end for partition, end in ends.items() if first[partition] < end}
