"""Records that librdkafka will never read, such as a compressed batch beyond its limits: how to go on after them.

Left to itself it says so again and again, and reads nothing else of that partition.
"""

from confluent_kafka import Consumer, KafkaError, TopicPartition

UNREADABLE = frozenset({KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED, KafkaError.MSG_SIZE_TOO_LARGE})
"""What it says of a batch of records then."""


class PassOver:
    """Moves a consumer on, record by record: how many are in a batch knows only who can read it."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._passed: dict[tuple[str, int], int] = {}

    def __call__(self, topic: str, partition: int, offset: int) -> int:
        """Pass over one record.

        Args:
            topic: where it is.
            partition: of the topic.
            offset: the one that librdkafka names, of the first record of the batch.

        Returns:
            Its own offset.
        """
        place = topic, partition
        self._passed[place] = offset = max(offset, self._passed.get(place, -1) + 1)
        self._consumer.seek(TopicPartition(topic, partition, offset + 1))
        return offset
