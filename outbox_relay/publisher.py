"""The stage that publishes an outbox row as a Kafka record, and waits while Kafka does not answer.

The record is the one that Debezium's outbox event router makes of the same row, down to the partition (Java's
murmur2), so that either can take over from the other.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from confluent_kafka import KafkaError, KafkaException

from broker.clients import SILENT, idempotent_producer
from broker.lifeline import Lifeline, flush
from broker.troubles import Troubles, denied
from contracts import headers
from outbox_relay.acknowledgements import DeliveryReport, Transaction
from outbox_relay.errors import PublishError, TopicError, UnpublishableError
from outbox_relay.fencing import FencedProducer, fenced
from outbox_relay.first_batches import ANY_PARTITION, FirstBatches
from outbox_relay.formed import Former
from outbox_relay.otherwise import (
    TRACEPARENT_BYTES_MAX,
    TRACESTATE_BYTES_MAX,
    Fields,
    Otherwise,
    differs,
    naming,
    with_times,
)
from outbox_relay.outbox import OUTBOX, Outbox
from outbox_relay.published import TYPES_MAX
from outbox_relay.row import OutboxRow
from outbox_relay.topic import topic_of

# What is on its way to Kafka is bounded, and the sources share it: with Kafka away and all queues full the relay
# takes some 70 MB more than idle (a small row costs librdkafka 0.9 kB).
QUEUE_ROWS_ALL_SOURCES = 60_000
QUEUE_KIB_ALL_SOURCES = 32_768
QUEUE_ROWS_MAX = 40_000
QUEUE_KIB_MAX = 16_384
# Only reached with a backlog or within a transaction: a source that has caught up flushes at once.
LINGER_MS = 100
# The broker measures batches against the topic's max.message.bytes (1 MB by default), so this must be below it.
BATCH_BYTES_MAX = 500_000
# A record must fit into the queue, or it would wait for room for ever. Mostly the topic's limit is lower.
QUEUE_SHARE_OF_A_RECORD = 0.9
# A topic that is unknown for so long does not exist: the session ends, and the next one reports its name.
TOPIC_WAIT_MS = 5_000
# How long one wait for room lasts when the queue is full, so that keepalives to the database continue.
ROOM_WAIT_S = 0.1
# How long the reports of what was under way may take once there is nothing to wait for any more.
REPORTS_WAIT_S = 1.0
# How long a session's end waits for records that a broker has been sent and has not answered for.
IN_FLIGHT_WAIT_S = 3.0
# What confluent-kafka takes for the time of the call.
NOW = 0
NO_ID = "id is NULL, so nobody could tell a repeat"
# A leader forgets a producer that has sent nothing for producer.id.expiration.ms, a day by default.
KNOWN_S = 3_600.0
KAFKA_PROBE_INTERVAL_S = 2.0
KAFKA_PROBE_TIMEOUT_S = 1.0
# The same where no topic is known, and Kafka is asked for all: a large cluster has thousands.
KAFKA_PROBE_ALL_TIMEOUT_S = 5.0
# With nothing to send nobody would notice that Kafka is away: after so long without an answer it is probed, and
# without one for so long it counts as away.
KAFKA_SILENT_S = 5.0
KAFKA_AWAY_S = 8.0
# Acknowledgements that come later than this are a reason to ask whether they will ever come.
ACKNOWLEDGED_LATE_S = 5.0
NOT_ACKNOWLEDGED = (
    "Kafka acknowledges nothing, waiting for it: a broker does not answer, or partitions have no leader or fewer"
    " replicas in sync than min.insync.replicas"
)

_UNUSUAL = re.compile(r"[^a-zA-Z0-9._-]")
_UNFENCED = {
    "enable.gapless.guarantee": True,
    # Kafka away means waiting, however long; the bounded queue holds the reader back.
    "message.timeout.ms": 0,
}


class Publisher:
    """One source's producer; it lives as long as the source's connection.

    A record that Kafka refused for good is never overtaken: the producer stops at it (gapless guarantee) and
    the source begins again, with a new producer, from what is confirmed.

    Args:
        bootstrap: ``host:port[,host:port…]``.
        source: name of the source, for logs and the client ID.
        sources: how many of them share the process.
        outbox: whose rows.
        former: makes their records, where these have a shape of their own.
        one_by_one: each record in a batch of its own, so that a refusal is of that record alone.
        transactional_id: of the source; its producer is the only one then, and those before it are fenced off.
        while_blocked: called every 0.1 s while the queue is full; may raise to give up.

    Attributes:
        away: why Kafka cannot be reached, or None.
    """

    def __init__(
        self,
        bootstrap: str,
        source: str,
        sources: int,
        while_blocked: Callable[[], None],
        *,
        outbox: Outbox = OUTBOX,
        former: Former | None = None,
        one_by_one: bool = False,
        transactional_id: str | None = None,
    ) -> None:
        self.away: str | None = None
        self._lifeline = Lifeline(bootstrap)
        self._troubles = Troubles(bootstrap)
        self._while_blocked = while_blocked
        self._one_by_one = one_by_one
        self._refused_at: float | None = None
        self._probe_at = 0.0
        self._answered_at = time.monotonic()
        self._handed = 0
        self._done: int | None = None  # of those handed over, when last looked; None with none under way
        self._done_at = 0.0
        self._topics: dict[bytes | None, str] = {}
        self._outbox = outbox
        # None for the standard shape, which pays nothing for what others have.
        self._otherwise = Otherwise(outbox, self._partitions) if differs(outbox) else None
        self._former = former
        self._first_batches = FirstBatches(self._partitions_if_any, self._await_first)
        self._known_until = time.monotonic() + KNOWN_S
        queue_kib = min(QUEUE_KIB_MAX, QUEUE_KIB_ALL_SOURCES // sources)
        producer = idempotent_producer(
            bootstrap,
            {
                "client.id": f"settle-relay-{_UNUSUAL.sub('_', source)}",
                **(_UNFENCED if transactional_id is None else fenced(transactional_id)),
                "queue.buffering.max.messages": min(QUEUE_ROWS_MAX, QUEUE_ROWS_ALL_SOURCES // sources),
                "queue.buffering.max.kbytes": queue_kib,
                "message.max.bytes": int(queue_kib * 1024 * QUEUE_SHARE_OF_A_RECORD),
                "linger.ms": LINGER_MS,
                "batch.size": BATCH_BYTES_MAX,
                **({"batch.num.messages": 1} if one_by_one else {}),
                "compression.type": "lz4",
                "topic.metadata.propagation.max.ms": TOPIC_WAIT_MS,
                "reconnect.backoff.max.ms": 1_000,
                "socket.keepalive.enable": True,
                "error_cb": self._on_error,  # this and the delivery reports tell all that matters
            },
            logger=SILENT,
        )
        self._fenced = FencedProducer(producer) if transactional_id is not None else None
        self._producer = producer if self._fenced is None else self._fenced
        self._produce = self._producer.produce

    def publish(self, row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport, /) -> None:
        """Hand a row to Kafka, waiting for room where the queue is full.

        Raises:
            UnpublishableError: there can be no such record: it is too large, has no ID, or its topic cannot be.
            PublishError: the producer has stopped at a record that Kafka refused, or is cut off.
        """
        row_id, aggregate_type, key, event_type, value, traceparent, tracestate, _ = row
        topic = self._topics.get(aggregate_type)
        if topic is None:
            topic = self._topic_of(row, transaction.commit_lsn)
        if row_id is None:
            raise UnpublishableError(row, transaction.commit_lsn, NO_ID)
        if self._one_by_one:
            on_delivery = naming(row, transaction, on_delivery)
        partition, timestamp_ms = ANY_PARTITION, NOW
        fields: Fields
        if self._former is not None:
            key, value, partition, timestamp_ms, fields = self._former(row, transaction)
            if partition != ANY_PARTITION and self._otherwise is not None:
                self._otherwise.check(row, topic, partition, transaction.commit_lsn)
            if self._outbox.sets_times:
                on_delivery = with_times(on_delivery)
        else:
            fields = [(headers.ID, row_id), (headers.EVENT_TYPE, event_type), transaction.position]
            # What is no context is left out: for its sake no record is refused, nor a reader confused.
            if traceparent is not None and len(traceparent) <= TRACEPARENT_BYTES_MAX and traceparent.isascii():
                fields.append((headers.TRACEPARENT, traceparent))
                if tracestate is not None and len(tracestate) <= TRACESTATE_BYTES_MAX and tracestate.isascii():
                    fields.append((headers.TRACESTATE, tracestate))
            if self._otherwise is not None:
                partition = self._otherwise(row, topic, fields, transaction.commit_lsn)
        if topic not in self._first_batches.complete and self._fenced is None:
            partition, on_delivery = self._first_batches.admit(topic, key, partition, on_delivery)
        while True:
            try:
                # By position: the same call with names takes twice as long.
                self._produce(topic, value, key, partition, on_delivery, None, timestamp_ms, fields)
                self._handed += 1
                return
            except BufferError:
                self._wait_for_room()
            except KafkaException as error:
                raise self._refusal(error.args[0], row, transaction, topic) from None

    def _topic_of(self, row: OutboxRow, lsn: int) -> str:
        topic = topic_of(row, lsn, self._outbox)
        if len(self._topics) >= TYPES_MAX:
            self._topics.clear()
        self._topics[row.aggregate_type] = topic
        return topic

    def _partitions(self, topic: str) -> int:
        """How many partitions a topic has, once Kafka says so.

        Raises:
            TopicError: it does not exist, or may not be written.
        """
        while True:
            try:
                found = self._producer.list_topics(topic, KAFKA_PROBE_TIMEOUT_S).topics[topic]
                break
            except KafkaException as error:
                self._raise_if_cut(error)
                self._wait_for_room()
        if found.error is not None:
            raise TopicError(f"topic {topic} cannot be written: {denied(found.error) or found.error.str()}")
        return len(found.partitions)

    def _partitions_if_any(self, topic: str) -> int:
        """The same; 0 for a topic that cannot be written, of which the delivery report says more."""
        with suppress(TopicError):
            return self._partitions(topic)
        return 0

    def _wait_for_room(self) -> None:
        try:
            self._producer.poll(ROOM_WAIT_S)
        except KafkaException as error:
            raise self._stopped(error.args[0]) from None
        self._look_after_kafka()
        self._while_blocked()

    def _await_first(self) -> None:
        self.push(ROOM_WAIT_S)
        self._while_blocked()

    def _refusal(self, error: KafkaError, row: OutboxRow, transaction: Transaction, topic: str) -> PublishError:
        reason = error.str().removeprefix("Unable to produce message: ")
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            reason = f"Kafka's client refused it for {topic}: {reason}"
            return UnpublishableError(row, transaction.commit_lsn, reason)
        return self._stopped(error)

    def _stopped(self, error: KafkaError) -> PublishError:
        """The producer stops rather than send records that follow a refused one.

        Which one it was, and why, is in the delivery reports, which come now.
        """
        give_up = time.monotonic() + REPORTS_WAIT_S
        while self.waiting and time.monotonic() < give_up:
            self._take_reports()
        # The reason ends in the producer's ID and the like, which differ at each attempt.
        return PublishError(f"Kafka refused records: {denied(error) or error.str().split(' (broker ', 1)[0]}")

    @property
    def waiting(self) -> int:
        """How many records are unanswered, plus reports of any kind that have not been served yet."""
        return len(self._producer)

    def poll(self) -> None:
        """Serve the delivery reports at hand.

        Raises:
            PublishError: the producer has stopped at a record that Kafka refused, or is cut off.
        """
        try:
            self._producer.poll(0)
        except KafkaException as error:
            raise self._stopped(error.args[0]) from None
        self._look_after_kafka()

    def push(self, timeout_s: float) -> None:
        """Send at once what is queued and wait up to ``timeout_s`` for acknowledgements.

        Raises:
            PublishError: the producer has stopped at a record that Kafka refused, or is cut off.
        """
        try:
            flush(self._producer, timeout_s)
        except KafkaException as error:
            raise self._stopped(error.args[0]) from None
        self._look_after_kafka()

    def answered(self) -> None:
        """Record that Kafka acknowledged something: it is reachable."""
        self.away = self._refused_at = None
        self._troubles.over()
        self._answered_at = time.monotonic()
        self._lifeline.holds()

    @property
    def refused_s(self) -> float:
        """How long Kafka has refused who this is, or this Kafka, seconds; 0 where it does not."""
        return time.monotonic() - self._refused_at if self._refused_at is not None else 0.0

    def _on_error(self, error: KafkaError) -> None:
        self._troubles.note(error)
        if self._troubles.text is not None and self._refused_at is None:
            self._refused_at = time.monotonic()
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE):
            if self.away is None:
                self._probe_at = time.monotonic() + KAFKA_PROBE_INTERVAL_S
            if self.away is None or self._troubles.text is not None:
                self.away = f"Kafka does not answer, waiting for it: {self._troubles.text or error.str()}"

    def _look_after_kafka(self) -> None:
        """Check whether Kafka is reachable again, or only for new clients."""
        now, waiting = time.monotonic(), self.waiting
        if now > self._known_until:
            self._first_batches.forget()
            self._known_until = now + KNOWN_S
        # Their acknowledgement will tell; of a transaction that takes long, those of its first rows.
        if waiting and self._handed:
            done = self._handed - waiting
            if done != self._done:
                self._done, self._done_at = done, now
                self._answered_at = now
                self._lifeline.holds()
                if self.away == NOT_ACKNOWLEDGED:
                    self.away = None
            elif now - self._done_at > ACKNOWLEDGED_LATE_S and now >= self._probe_at:
                self._probe()
                self.away = self.away or NOT_ACKNOWLEDGED
            return
        self._done = None
        silent_s = now - self._answered_at
        if now < self._probe_at or (self.away is None and silent_s < KAFKA_SILENT_S):
            return
        if self._probe():
            self.answered()
        elif silent_s > KAFKA_AWAY_S:
            self.away = self.away or "Kafka does not answer, waiting for it"

    def _probe(self) -> bool:
        """Whether Kafka answers this producer.

        Raises:
            PublishError: it never will.
        """
        topic = next(iter(self._topics.values()), None)
        try:
            self._producer.list_topics(topic, KAFKA_PROBE_TIMEOUT_S if topic else KAFKA_PROBE_ALL_TIMEOUT_S)
        except KafkaException as error:
            self._probe_at = time.monotonic() + KAFKA_PROBE_INTERVAL_S
            self._raise_if_cut(error)
            return False
        self._probe_at = time.monotonic() + KAFKA_PROBE_INTERVAL_S
        self._lifeline.holds()
        return True

    def _raise_if_cut(self, error: KafkaException) -> None:
        if self._lifeline.is_cut(error.args[0]):
            raise PublishError("Kafka answers others, but not this producer, which has lost it for good") from None

    def __enter__(self) -> "Publisher":
        if self._fenced is not None:
            try:
                self._fenced.start(self._while_blocked)
            except KafkaException as error:
                reason = denied(error.args[0]) or error.args[0].str()
                raise PublishError(f"Kafka begins no transactions: {reason}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fenced is not None:
            self._fenced.close()
        # Records in flight to a broker may be on the topic soon: they are waited for, so that the next reader
        # of the topic sees them. Purging them too breaks the gapless guarantee, as the reports then say.
        self._drop(IN_FLIGHT_WAIT_S, in_flight=False)
        self._drop(REPORTS_WAIT_S, in_flight=True)

    def _drop(self, wait_s: float, *, in_flight: bool) -> None:
        """Purge queued records, until all are reported or the time is over."""
        give_up = time.monotonic() + wait_s
        while self.waiting and time.monotonic() < give_up:
            self._producer.purge(in_flight=in_flight)  # repeatedly: what fails in flight is queued again
            self._take_reports()

    def _take_reports(self) -> None:
        with suppress(KafkaException):
            flush(self._producer, ROOM_WAIT_S)
