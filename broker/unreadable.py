"""A skip over records that librdkafka can never read, such as a compressed batch beyond its limits.

Otherwise the consumer reports the same error forever and reads nothing else of that partition.
"""

from confluent_kafka import Consumer, KafkaError, TopicPartition

UNREADABLE = frozenset({KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED, KafkaError.MSG_SIZE_TOO_LARGE})
"""The errors that it reports for such a batch of records."""


class PassOver:
    """Moves a consumer past unreadable records, one by one: the size of a batch is unknown until it is read."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._passed: dict[tuple[str, int], int] = {}

    def __call__(self, topic: str, partition: int, offset: int) -> int:
        """Skip one record.

        Args:
            topic: where it is.
            partition: of the topic.
            offset: the one that librdkafka reports: that of the batch's first record.

        Returns:
            The offset of the skipped record.
        """
        place = topic, partition
        self._passed[place] = offset = max(offset, self._passed.get(place, -1) + 1)
        self._consumer.seek(TopicPartition(topic, partition, offset + 1))
        return offset
