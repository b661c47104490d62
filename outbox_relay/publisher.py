"""How does an outbox row become a Kafka record, and what happens while Kafka does not answer?

The record is the one that Debezium's outbox event router makes of the same row, down to the partition (Java's
murmur2), so that either can take over from the other.
"""

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from contracts import headers
from outbox_relay.errors import PublishError
from outbox_relay.ledger import Transaction
from outbox_relay.pgoutput import OutboxRow

# What is on its way to Kafka is bounded, and the sources share it: with Kafka away and all queues full the relay
# takes some 70 MB more than idle (a small row costs librdkafka 0.9 kB).
QUEUE_ROWS_ALL_SOURCES = 60_000
QUEUE_KIB_ALL_SOURCES = 32_768
QUEUE_ROWS_MAX = 40_000
QUEUE_KIB_MAX = 16_384
# Only met while there is a backlog, where it makes large batches: whoever has caught up pushes at once.
LINGER_MS = 20
# The broker measures batches against the topic's max.message.bytes (1 MB by default), so this must be below it.
BATCH_BYTES_MAX = 500_000
# How long one look for room lasts when the queue is full, so that the database still hears from us.
ROOM_WAIT_S = 0.1
KAFKA_PROBE_INTERVAL_S = 2.0
KAFKA_PROBE_TIMEOUT_S = 1.0

# What matters comes through error_cb and delivery reports, and is said in the relay's own words.
_silent = logging.getLogger("outbox_relay.silent")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False

DeliveryReport = Callable[[Any, Any], None]


class Publish(Protocol):
    """The stage that publishes a row; instrumentation has this shape too and wraps it."""

    def __call__(
        self, row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport | None = None, /
    ) -> None:
        """Hand a row to Kafka, or wait until there is room; the outcome comes to ``on_delivery``."""


class Publisher:
    """One source's producer; it lives as long as the source's connection.

    A record that Kafka refused for good is never overtaken: the producer stops at it (gapless guarantee) and
    the source begins again, with a new producer, from what is confirmed.

    Args:
        bootstrap: ``host:port[,host:port…]``.
        source: name of the source, for logs and the client ID.
        sources: how many of them share the process.
        while_blocked: called every 0.1 s while the queue is full; may raise to give up.

    Attributes:
        away: why Kafka cannot be reached, or None.
    """

    def __init__(self, bootstrap: str, source: str, sources: int, while_blocked: Callable[[], None]) -> None:
        self.away: str | None = None
        self._while_blocked = while_blocked
        self._probe_at = 0.0
        self._topics: dict[bytes, str] = {}
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": f"settle-relay-{source}",
                "acks": "all",
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,
                # Kafka away means waiting, however long; the bounded queue holds the reader back.
                "message.timeout.ms": 0,
                "queue.buffering.max.messages": min(QUEUE_ROWS_MAX, QUEUE_ROWS_ALL_SOURCES // sources),
                "queue.buffering.max.kbytes": min(QUEUE_KIB_MAX, QUEUE_KIB_ALL_SOURCES // sources),
                "linger.ms": LINGER_MS,
                "batch.size": BATCH_BYTES_MAX,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "reconnect.backoff.max.ms": 1_000,
                "socket.keepalive.enable": True,
                "error_cb": self._on_error,
            },
            logger=_silent,
        )
        self._produce = self._producer.produce

    def publish(
        self, row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport | None = None, /
    ) -> None:
        """Hand a row to Kafka, waiting for room where the queue is full.

        Raises:
            PublishError: the record is refused for good (too large).
        """
        topic = self._topics.get(row.aggregate_type)
        if topic is None:
            topic = self._topics[row.aggregate_type] = f"{row.aggregate_type.decode()}.events"
        fields: list[tuple[str, str | bytes | None]] = [(headers.ID, row.id), (headers.EVENT_TYPE, row.event_type)]
        if row.traceparent is not None:
            fields.append((headers.TRACEPARENT, row.traceparent))
        if row.tracestate is not None:
            fields.append((headers.TRACESTATE, row.tracestate))
        on_delivery = on_delivery or transaction.delivered
        while True:
            try:
                self._produce(topic, row.payload, row.aggregate_id, on_delivery=on_delivery, headers=fields)
                return
            except BufferError:
                self._producer.poll(ROOM_WAIT_S)
                self._while_blocked()
            except KafkaException as error:
                reason = error.args[0].str().removeprefix("Unable to produce message: ")
                raise PublishError(f"Kafka refused row {row.id.decode()} for {topic}: {reason}") from None

    @property
    def waiting(self) -> int:
        """How many records Kafka has not answered for."""
        return len(self._producer)

    def poll(self) -> None:
        """Take in the delivery reports that are there."""
        self._producer.poll(0)
        self._look_whether_kafka_is_back()

    def push(self, timeout_s: float) -> None:
        """Send at once what is queued and wait up to ``timeout_s`` for the acknowledgements."""
        self._producer.flush(timeout_s)
        self._look_whether_kafka_is_back()

    def answered(self) -> None:
        """Kafka acknowledged something: it is there."""
        self.away = None

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE) and self.away is None:
            self.away = f"Kafka does not answer, waiting for it: {error.str()}"
            self._probe_at = time.monotonic() + KAFKA_PROBE_INTERVAL_S

    def _look_whether_kafka_is_back(self) -> None:
        # With records waiting their acknowledgement will tell.
        if self.away is None or self.waiting or time.monotonic() < self._probe_at:
            return
        try:
            self._producer.list_topics(timeout=KAFKA_PROBE_TIMEOUT_S)
            self.answered()
        except KafkaException:
            self._probe_at = time.monotonic() + KAFKA_PROBE_INTERVAL_S

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._producer.purge()
        self._producer.flush(1)
