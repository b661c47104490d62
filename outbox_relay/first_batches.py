"""The first batch of each partition, which is alone on its way until Kafka has it.

A leader refuses a batch that does not follow the last one of its producer, and so never takes what follows a
refused record. Of a producer that has no batch in the partition yet it takes any, also the second one where it has
refused the first. So several batches of a partition may be on their way only once its leader has acknowledged one.

Sources: KIP-98 and KIP-360; ``ProducerAppendInfo.checkSequence`` of Kafka.
"""

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from outbox_relay.acknowledgements import DeliveryReport

ANY_PARTITION = -1
"""What confluent-kafka takes for a partition by the key."""
KEYS_REMEMBERED = 10_000

_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF


class FirstBatches:
    """Which partitions have acknowledged something of one producer.

    Args:
        partitions_of: how many partitions a topic has; 0 if it does not exist.
        wait: called until what is on its way is acknowledged; may raise to give up.

    Attributes:
        complete: topics of which every partition has; their rows need not ask.
    """

    def __init__(self, partitions_of: Callable[[str], int], wait: Callable[[], None]) -> None:
        self.complete: set[str] = set()
        self._partitions_of = partitions_of
        self._wait = wait
        self._missing: dict[str, set[int]] = {}
        self._counts: dict[str, int] = {}
        self._under_way: set[tuple[str, int]] = set()

    def admit(
        self, topic: str, key: bytes | None, partition: int, on_delivery: DeliveryReport
    ) -> tuple[int, DeliveryReport]:
        """Wait until a record may be sent to a partition, or to :data:`ANY_PARTITION`.

        Returns:
            The partition, or :data:`ANY_PARTITION`, and the callback that it is to be sent with.
        """
        if not self._counts.get(topic):
            count = self._counts[topic] = self._partitions_of(topic)
            self._missing[topic] = set(range(count))
        count, missing = self._counts[topic], self._missing[topic]
        if not count:
            return partition, on_delivery  # the delivery report says so
        if partition != ANY_PARTITION:
            chosen = partition
        elif key is None:
            idle = [one for one in missing if (topic, one) not in self._under_way]
            chosen = partition = random.choice(idle or range(count))  # noqa: S311 nobody need not foresee it
        else:
            chosen, partition = ANY_PARTITION, murmur2(key) % count
        place = (topic, partition)
        while place in self._under_way:
            self._wait()
        if partition not in missing:
            return chosen, on_delivery
        self._under_way.add(place)

        def delivered(error: Any, message: Any) -> None:
            self._under_way.discard(place)
            if error is None:
                missing.discard(partition)
                if not missing and self._missing.get(topic) is missing:
                    self.complete.add(topic)
            on_delivery(error, message)

        return chosen, delivered

    def forget(self) -> None:
        """Begin again: leaders forget a producer that sends nothing for ``producer.id.expiration.ms``."""
        self.complete.clear()
        self._missing.clear()
        self._counts.clear()


@lru_cache(KEYS_REMEMBERED)
def murmur2(key: bytes) -> int:
    """Java's hash of a key, whose remainder by the number of partitions is the key's partition."""
    length = len(key)
    hashed = _SEED ^ length
    for start in range(0, length & ~3, 4):
        word = int.from_bytes(key[start : start + 4], "little") * _MULTIPLIER & _MASK
        word = (word ^ word >> 24) * _MULTIPLIER & _MASK
        hashed = hashed * _MULTIPLIER & _MASK ^ word
    if rest := key[length & ~3 :]:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * _MULTIPLIER & _MASK
    hashed = (hashed ^ hashed >> 13) * _MULTIPLIER & _MASK
    return (hashed ^ hashed >> 15) & 0x7FFFFFFF
