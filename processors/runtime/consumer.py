"""Batches of records from a consumer group, sized by the load.

A confluent-kafka consumer reads them. When idle, a record is returned on arrival. Under load the consumer
pauses between batches, so that each one is large: a transaction, a fetch and a produce request cost the same for
one record as for many.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import cycle

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from broker.clients import group_consumer
from broker.lifeline import Lifeline
from broker.offsets import Place
from broker.records import Record
from broker.rotation import Rotation
from broker.security import KafkaSettingsError
from broker.troubles import Troubles, denied
from broker.unreadable import UNREADABLE, PassOver
from contracts import headers
from contracts.topics import DEAD_LETTER_BYTES_MAX
from processors.runtime.fetching import fetching
from processors.runtime.gaps import Gap
from processors.runtime.membership import CONSUMER, Protocol, membership, unsupported
from processors.runtime.pacing import ENOUGH_RECORDS, Pace
from processors.runtime.reading import Reading, what_cannot_be_read

POLL_S = 0.5
"""How long a poll waits for a first record; also the delay until a stop is noticed."""

BATCH_BYTES = 16 * 1024 * 1024
"""Once a batch has so many bytes, it is complete: a record may have 1 MB, and many more when decompressed."""

TAKE_RECORDS = 50
"""Records consumed at a time, before their bytes are counted: at worst, each has :data:`RECORD_BYTES_MAX`."""

RECORD_BYTES_MAX = DEAD_LETTER_BYTES_MAX
"""More than any event has, and than a topic takes uncompressed: a larger body is truncated."""

WATERMARK_TIMEOUT_S = 1.0

RENEW_S = 5.0
"""Where Kafka refuses the membership, or no consumer can be made: how long until it tries with a new one."""

LEAVE_S = 5.0
"""How long a consumer that is replaced may take to commit its offsets and leave the group."""

IDENTITY = "the identity"
"""What is refused where it is no topic and no group."""

LOST = "partitions are lost: Kafka's coordinator of the group does not answer"

log = structlog.get_logger()


class CutOffError(Exception):
    """This consumer is cut off for good, while Kafka answers new clients."""


class BatchConsumer:
    """A member of a consumer group that returns batches, and stores offsets only on request.

    Calls block, so they belong on a thread; they must not overlap.

    Args:
        bootstrap: ``host:port`` of brokers, comma-separated.
        group: consumer group, one per service.
        topics: what to subscribe to.
        batch_max: records in a batch at the most.
        gather_s_max: how long to wait under load for a batch to grow, seconds.
        enough: a batch of so many records is not waited for to grow.
        ignored: event types that the service does not handle: their messages are dropped.
        protocol: of the group.

    Attributes:
        assigned: whether it is known which partitions it has, be it none.

    Raises:
        KafkaSettingsError: no client can be made as the variables say.
    """

    def __init__(
        self,
        bootstrap: str,
        group: str,
        topics: Sequence[str],
        batch_max: int,
        gather_s_max: float,
        enough: int = ENOUGH_RECORDS,
        ignored: Iterable[str] = (),
        protocol: Protocol = CONSUMER,
    ) -> None:
        self._ignored = frozenset(event_type.encode() for event_type in ignored)
        self._batch_max = batch_max
        self._pace = Pace(gather_s_max, enough)
        self._topics = topics
        self._topic_errors: dict[str, KafkaError | None] = {}
        self._topic_in_turn = cycle(topics)
        self._bootstrap, self._group, self._protocol = bootstrap, group, protocol
        self._lifeline = Lifeline(bootstrap)
        self._rotation = Rotation(bootstrap, log.warning)
        self._troubles = Troubles(bootstrap, _tell)
        self._is_away = False  # as it was logged
        self._refused: dict[str, str] = {}
        self._is_dead = False
        self._renew_at: float | None = None
        self.assigned = self._has_lost = False
        self._reached: dict[Place, int] = {}
        self._stored: dict[Place, int] = {}
        self._jumps: list[tuple[Place, int | None, int]] = []
        self._generation = 0
        self._join(self._made())

    def _made(self) -> Consumer:
        """A consumer that is no member yet."""
        return group_consumer(
            self._bootstrap,
            self._group,
            {
                **membership(self._protocol),
                "auto.offset.reset": "earliest",
                # Reports the position in a partition also where its last offsets are not records, as the end of
                # a transaction is not. Once committed, they are not lag, nor a gap when deleted.
                "enable.partition.eof": True,
                "enable.auto.offset.store": False,
                "auto.commit.interval.ms": 500,
                **fetching(self._batch_max),
                # To our log instead of librdkafka's own; not of a consumer that this one replaces.
                "error_cb": partial(self._on_error, self._generation + 1),
                "log_level": 2,
                "reconnect.backoff.max.ms": 2_000,
            },
        )

    def _join(self, consumer: Consumer) -> None:
        self._generation += 1
        self._consumer = consumer
        self._pass_over = PassOver(consumer)
        self._reading = Reading(self._bootstrap, consumer)
        consumer.subscribe(list(self._topics), on_assign=self._on_assign, on_lost=self._on_lost)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        self._admitted()
        for place in partitions:  # another member may have read on meanwhile
            self._reached.pop((place.topic, place.partition), None)
            self._stored.pop((place.topic, place.partition), None)
        log.info("partitions assigned", partitions=len(partitions))

    def _admitted(self) -> None:
        self.assigned, self._has_lost = True, False
        self._refused.pop(self._group, None)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The group's coordinator was not reached for too long: others may have them, and this one reads none.

        Not so where partitions are revoked in order: a member without any has nothing to read, and is well.
        """
        if consumer is not self._consumer:
            return
        self.assigned, self._has_lost = False, True
        log.warning(LOST, partitions=len(partitions))

    def _on_error(self, generation: int, error: KafkaError) -> None:
        if generation != self._generation:
            return
        self._troubles.note(error)
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._troubles.text is None and not self._is_away:
            self._is_away = True
            log.warning("no Kafka broker answers, waiting", error=error.str())

    def _renew(self) -> None:
        """Replace the consumer by one with the identity that the files hold now; it stays while there is none."""
        try:
            consumer = self._made()
        except KafkaSettingsError as error:
            self._refuse(IDENTITY, str(error))
            self._renew_at = time.monotonic() + RENEW_S
            return
        # Without a broker librdkafka's close never returns: it is then left alone.
        leaving = threading.Thread(target=self._consumer.close, name="leave", daemon=True)
        leaving.start()
        leaving.join(LEAVE_S)
        self.assigned = self._has_lost = False
        for known in (self._reached, self._stored, self._topic_errors):
            known.clear()
        self._jumps.clear()
        self._refused.pop(IDENTITY, None)
        self._is_dead, self._renew_at = False, None
        self._join(consumer)

    def _refuse(self, of: str, reason: str) -> None:
        if self._refused.get(of) != reason:
            self._refused[of] = reason
            _tell(reason)

    def take(self) -> list[Record]:
        """The next batch, in order per partition; empty when nothing came within :data:`POLL_S`.

        Empty as well when all that came is ignored.

        Raises:
            KafkaException: an error that waiting does not fix.
        """
        if self._rotation.is_due():
            log.info("the Kafka identity has changed: connecting anew")
            self._renew_at = time.monotonic()
        if self._renew_at is not None and time.monotonic() >= self._renew_at:
            self._renew()
        if self._is_dead:
            time.sleep(POLL_S)
            return []
        time.sleep(self._pace.pause_s(self._behind))
        deadline = time.monotonic() + POLL_S
        records: list[Record] = []
        count, size, largest = 0, 0, 1
        wanted = 1
        while wanted > 0:
            left_s = 0.0 if count else max(0.0, deadline - time.monotonic())
            found = self._consumer.consume(wanted, left_s)
            if not found:
                break
            for message in found:
                error = message.error()
                if error is not None:
                    record = self._unreadable(message, error)
                    if record is None:
                        continue
                else:
                    record = self._record(message)
                count += 1
                if record is not None:
                    records.append(record)
                    length = _bytes_of(record)
                    size += length
                    if length > largest:
                        largest = length
            if count:
                wanted = min(self._batch_max - count, TAKE_RECORDS, (BATCH_BYTES - size) // largest)
        if self._refused and records:
            for topic in {record.topic for record in records}:
                self._refused.pop(topic, None)
        self._pace.taken(count)
        return records

    def _behind(self) -> int:
        """Records to read, as far as the last fetches tell."""
        try:
            return sum(self.lag(ask_kafka=False).values())
        except KafkaException:  # no fetch has told yet
            return 0

    def _record(self, message: Message) -> Record | None:
        """A message as a record, perhaps without its contents; None where it is ignored."""
        topic, partition, offset = _place(message)
        place = topic, partition
        reached = self._reached
        if reached.get(place) == offset:
            reached[place] = offset + 1
        else:
            self._reach(place, offset, offset + 1)
        fields = headers.of(message)
        if fields is None:
            lacks = "the name of a header is not UTF-8"
            return Record(topic, partition, offset, message.key(), message.value(), [], lacks)
        if self._ignored and headers.last(fields, headers.EVENT_TYPE) in self._ignored:
            return None
        key, value = message.key(), message.value()
        if value is not None and len(value) > RECORD_BYTES_MAX:
            lacks = f"it has {len(value)} bytes, of which {RECORD_BYTES_MAX} are kept"
            return Record(topic, partition, offset, key, value[:RECORD_BYTES_MAX], fields, lacks)
        return Record(topic, partition, offset, key, value, fields)

    def _unreadable(self, message: Message, error: KafkaError) -> Record | None:
        """A placeholder for a record that cannot be read; None for an event that is not about a record.

        Raises:
            KafkaException: an error that waiting does not fix.
        """
        if error.code() == KafkaError._PARTITION_EOF:
            topic, partition, offset = _place(message)
            self._refused.pop(topic, None)
            self._reach((topic, partition), offset, offset)
            return None
        if (reason := denied(error) or unsupported(error)) is not None:
            self._refuse(message.topic() or self._group, reason)
            # Of the group's coordinator librdkafka may not ask again.
            if error.fatal() or error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                self._is_dead, self._renew_at = True, time.monotonic() + RENEW_S
            return None
        if error.fatal():
            raise KafkaException(error)
        log.warning("Kafka reports", error=error.str())
        if error.code() not in UNREADABLE:
            return None
        topic, partition, offset = _place(message)
        offset = self._pass_over(topic, partition, offset)
        self._reach((topic, partition), offset, offset + 1)
        return Record(topic, partition, offset, None, None, [], f"it cannot be read: {error.str()}")

    def _reach(self, place: Place, offset: int, until: int) -> None:
        before = self._reached.get(place)
        if before != offset:
            self._jumps.append((place, before, offset))
        self._reached[place] = until

    @property
    def jumped(self) -> bool:
        """Whether offsets were skipped that :meth:`gaps` has to explain."""
        return bool(self._jumps)

    def gaps(self) -> list[Gap]:
        """Offsets deleted before this group read them, since offsets were last stored.

        Other skipped offsets are not records to read: transaction markers, aborted records, and what
        compaction removed.

        Raises:
            KafkaException: Kafka does not answer; call again before the offsets are stored.
        """
        unknown = [place for place, before, _ in self._jumps if before is None]
        confirmed = self._reading.confirmed(unknown) if unknown else {}
        first: dict[Place, int] = {}
        found = []
        for place, before, offset in self._jumps:
            since = confirmed[place] if before is None else before
            if offset <= since:
                continue
            if place not in first:
                first[place], _ = self._consumer.get_watermark_offsets(TopicPartition(*place), WATERMARK_TIMEOUT_S)
            if first[place] > since:
                found.append(Gap(*place, since, min(first[place], offset)))
        return found

    def store_offsets(self) -> None:
        """Store the offsets of all records taken; committed to Kafka within half a second, and on close."""
        new = [place for place, offset in self._reached.items() if self._stored.get(place) != offset]
        try:
            if new:
                self._consumer.store_offsets(
                    offsets=[TopicPartition(*place, self._reached[place]) for place in new]
                )
        except KafkaException as error:
            # Revoked in the meantime: their new owner gets these records again, which changes nothing.
            log.info("partitions lost before their offsets were stored", partitions=new, error=str(error))
        self._stored.update((place, self._reached[place]) for place in new)
        self._jumps.clear()

    def lag(self, ask_kafka: bool) -> dict[str, int]:
        """Records that have not been taken yet, of the assigned partitions, by topic: :meth:`Reading.lag`."""
        return self._reading.lag(self._reached, ask_kafka=ask_kafka)

    def waits_for(self, timeout_s: float) -> str | None:
        """What keeps records from arriving, as text; None if nothing does. Queries Kafka.

        Args:
            timeout_s: how long it may take to answer, seconds.

        Raises:
            CutOffError: it will never answer this consumer; a new one is needed.
        """
        try:
            self._ask_about_topics(timeout_s)
        except KafkaException as error:
            if self._lifeline.is_cut(error.args[0]):
                raise CutOffError(
                    "Kafka answers others, but not this consumer, which has lost it for good"
                ) from None
            return f"Kafka does not answer: {self._troubles.text or self._lifeline.why or error.args[0].str()}"
        self._lifeline.holds()
        self._troubles.over()
        self._is_away = False
        silent = self._reading.what_is_silent()
        if not self.assigned and self._protocol == CONSUMER and self._reading.is_spare(self._group):
            self._admitted()
        for topic, wrong in self._topic_errors.items():
            if wrong is not None and (reason := denied(wrong)) is not None:
                self._refuse(topic, reason)
        return (
            what_cannot_be_read(self._topic_errors)
            or "; ".join(self._refused.values())
            or (None if self.assigned else LOST if self._has_lost else "partitions are not assigned yet")
            or silent
        )

    def _ask_about_topics(self, timeout_s: float) -> None:
        """Ask about all topics at first; after that about one each time, as batches wait meanwhile."""
        unknown = [topic for topic in self._topics if topic not in self._topic_errors]
        for topic in unknown or [next(self._topic_in_turn)]:
            self._topic_errors[topic] = self._consumer.list_topics(topic, timeout_s).topics[topic].error

    def close(self) -> None:
        """Commit the stored offsets and leave the group."""
        self._consumer.close()


def _tell(reason: str) -> None:
    log.warning("Kafka cannot be used, waiting", error=reason)


def _place(message: Message) -> tuple[str, int, int]:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return topic, partition, offset


def _bytes_of(record: Record) -> int:
    size = len(record.value or b"") + len(record.key or b"")
    for name, value in record.headers:
        size += len(name) + len(value or b"")
    return size
