"""What a record of another shape of outbox has otherwise than the standard one: headers, and its partition."""

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError

from contracts import headers
from outbox_relay.acknowledgements import NEVER, DeliveryReport, Transaction
from outbox_relay.errors import UnpublishableError
from outbox_relay.first_batches import ANY_PARTITION
from outbox_relay.outbox import Outbox
from outbox_relay.row import OutboxRow

Fields = list[tuple[str, str | bytes | None]]
"""The headers of a record."""

# Of a trace context; W3C's own has 55 bytes, and a state of 512 is what everybody has to pass on.
TRACEPARENT_BYTES_MAX = 128
TRACESTATE_BYTES_MAX = 512


def differs(outbox: Outbox) -> bool:
    """Whether records are made otherwise than those of the standard shape."""
    return bool(outbox.additional) or outbox.columns.type is None


def naming(row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport) -> DeliveryReport:
    """A delivery callback that identifies the row that Kafka permanently refuses."""

    def delivered(error: Any, message: Any) -> None:
        if error is not None and error.code() in NEVER:
            transaction.unpublishable(row, f"Kafka refused it for {message.topic()}: {error.str()}")
        on_delivery(error, message)

    return delivered


def with_times(on_delivery: DeliveryReport) -> DeliveryReport:
    """The same report, where rows name the times of their records: one that Kafka refuses is an invalid record.

    Of records with the time of the call such a refusal says that a clock is wrong, which ends.
    """

    def delivered(error: Any, message: Any) -> None:
        if error is not None and error.code() == KafkaError.INVALID_TIMESTAMP:
            error = KafkaError(KafkaError.INVALID_RECORD, "its time is too far from that of the broker")
        on_delivery(error, message)

    return delivered


class Otherwise:
    """Completes the headers of a record, and says its partition.

    Args:
        outbox: whose rows.
        partitions: how many a topic has.
    """

    def __init__(self, outbox: Outbox, partitions: Callable[[str], int]) -> None:
        self._has_type = outbox.columns.type is not None
        self._placed = [(one.placement, one.name) for one in outbox.additional]
        self._partitions = partitions
        self._known: dict[str, int] = {}

    def __call__(self, row: OutboxRow, topic: str, fields: Fields, lsn: int) -> int:
        """The partition of a row that was committed at ``lsn``.

        Raises:
            UnpublishableError: its topic has no such partition.
            TopicError: that is not known, as the topic does not exist.
        """
        if not self._has_type:
            fields[:] = [field for field in fields if field[0] != headers.EVENT_TYPE]
        partition = ANY_PARTITION
        for (placement, name), value in zip(self._placed, row.additional, strict=True):
            if placement == "header":
                fields.append((name, value))
            elif placement == "partition" and value is not None:
                partition = int(value)
                self.check(row, topic, partition, lsn)
        return partition

    def check(self, row: OutboxRow, topic: str, partition: int, lsn: int) -> None:
        """Compare the partition that a row names with those of its topic.

        Raises:
            UnpublishableError: its topic has no such partition.
            TopicError: that is not known, as the topic does not exist.
        """
        if not self._exists(topic, partition):
            name = next(name for placement, name in self._placed if placement == "partition")
            raise UnpublishableError(row, lsn, f"{name} is {partition}, and {topic} has no such partition")

    def _exists(self, topic: str, partition: int) -> bool:
        if not 0 <= partition < self._known.get(topic, 0):
            self._known[topic] = self._partitions(topic)
        return 0 <= partition < self._known[topic]
