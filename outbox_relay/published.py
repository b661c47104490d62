"""Deduplication against the topics, so that a restarted source does not publish rows a second time.

The slot's confirmed position lags behind the acknowledgements, and a crash of the server may set it back further.
So a source that starts receives rows again that are on the topics. At the first row for a topic the tails of its
partitions are read, back to what the database is known to have confirmed; rows with an ID found there are skipped.
By source and ID, not by positions: a database that was restored from a backup reuses positions of its log, and a
new row must never be taken for an old one, nor for another database's with the same number.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin._config import ConfigResource

from broker.answers import REQUEST_S, answer
from broker.clients import SILENT, admin, reader
from broker.lifeline import why_unanswered
from broker.troubles import denied
from contracts import headers
from outbox_relay.errors import PublishError, TopicError
from outbox_relay.formed import Former
from outbox_relay.identity import UUID_BYTES, identity
from outbox_relay.offsets import END, FIRST, list_offsets, since
from outbox_relay.position import Origin
from outbox_relay.replicas import await_replicas
from outbox_relay.row import OutboxRow
from outbox_relay.source_settings import SourceSettings
from outbox_relay.topic import topic_of

# Rows committed this long after the start are on no topic yet; clocks of relay and database may be so far apart.
CLOCKS_OFF_US = 60_000_000
KAFKA_ANSWER_S = 10.0
# How many records of a partition are looked at first, and how much further back each time.
TAIL_RECORDS_MIN = 1
TAIL_GROWTH = 64
TAIL_RECORDS_MAX = 50_000
READ_RECORDS = 1_000
# Where many values of `aggregatetype` come to the same topics, no more of them are kept in memory.
TYPES_MAX = 10_000
# How long open transactions of others are waited for, where what was withdrawn is to be told from what was not.
COMMITTED_WAIT_S = 90.0
COMMITTED_LOOK_S = 0.1
NEVER_US = 1 << 62

_READER = {
    "enable.partition.eof": True,
    # Somebody's open transaction must not hide what stands behind it.
    "isolation.level": "read_uncommitted",
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": 10,
    "allow.auto.create.topics": True,
}


class Published:
    """Finds which of the incoming rows are on their topics already.

    Args:
        settings: of the source; its Kafka, and its outbox.
        origin: the outbox of the rows.
        meanwhile: callback, called repeatedly while a topic is read; may raise to give up.
        former: what makes the records, where they have a shape of their own.
        behind_us: how far the clock that gave records their times is behind the database's, microseconds.

    Attributes:
        meanwhile: as given.
        begins_at_lsn: where the log ended when the session began; 0: not known. What was committed before may be
            on its topic, whatever its time says: it may be of another server's clock.
    """

    def __init__(
        self,
        settings: SourceSettings,
        origin: Origin,
        meanwhile: Callable[[], None] = lambda: None,
        former: Former | None = None,
        behind_us: int = 0,
    ) -> None:
        self.meanwhile = meanwhile
        self.begins_at_lsn = 0
        # In transactions: those of aborted ones are not there.
        self._committed = settings.fencing
        self._bootstrap = settings.bootstrap
        self._outbox = settings.outbox
        self._origin = origin
        self._former = former
        self._clocks_off_us = CLOCKS_OFF_US + behind_us
        self._until_us = origin.now_us + CLOCKS_OFF_US
        self._since_us: int | None = None
        self._on_topic: dict[str, Ids] = {}
        self._by_type: dict[bytes | None, tuple[str, Ids]] = {}

    def look_back_to(self, since_us: int) -> None:
        """Check every row from now on, also confirmed ones; none was written before ``since_us``."""
        self._origin = replace(self._origin, confirmed_lsn=0)
        self._until_us = NEVER_US
        self._since_us = since_us

    def holds(self, row: OutboxRow, written_us: int, lsn: int) -> bool:
        """Whether the row's topic has it. The first row for a topic waits while its tails are read.

        Args:
            row: which may have been published before.
            written_us: when it was written, or earlier (0: not known); rows for the same topic that come later
                were published no earlier.
            lsn: where it was committed.

        Raises:
            UnpublishableError: there can be no such topic.
            TopicError: the topic does not exist, or may not be read.
            PublishError: Kafka does not answer.
        """
        if row.id is None or (written_us > self._until_us and lsn >= self.begins_at_lsn):
            return False
        known = self._by_type.get(row.aggregate_type)
        if known is None:
            known = self._look_at(topic_of(row, lsn, self._outbox), written_us)
            if len(self._by_type) >= TYPES_MAX:
                self._by_type.clear()
            self._by_type[row.aggregate_type] = known
        topic, ids = known
        if not ids.count:
            return False
        if self._former is None:
            return ids.remove(identity(row.id, topic, row.aggregate_id, row.event_type, row.payload))
        return ids.remove(identity(*self._former.contents(row, topic, lsn)))

    def _look_at(self, topic: str, written_us: int) -> tuple[str, "Ids"]:
        """The identities at the end of a topic, which is read once."""
        ids = self._on_topic.get(topic)
        if ids is None:
            ids = Ids()
            since_us = min(written_us, self._origin.now_us) if self._since_us is None else self._since_us
            if self._outbox.sets_times:  # which say nothing of when they were written
                since_us = 0
            since_us -= self._clocks_off_us
            ids.add(
                tail_ids(
                    self._bootstrap, topic, self._origin, since_us, self._meanwhile, committed=self._committed
                )
            )
            self._on_topic[topic] = ids
        return topic, ids

    def _meanwhile(self) -> None:
        self.meanwhile()

    def close(self) -> None:
        """Forget them."""
        for ids in self._on_topic.values():
            ids.close()


def behind_us(origin: Origin) -> int:
    """How far this machine's clock is behind the database's that was asked a moment ago, microseconds."""
    return max(0, origin.now_us - int(time.time() * 1e6))


class Ids:
    """A set of rows' identities that takes little memory, however many: most of a large one lies in a file.

    A temporary one of SQLite's, in the folder ``SQLITE_TMPDIR``, else in ``/var/tmp``: where disk should be.

    Attributes:
        count: how many there are; an attribute, as each row asks whether there are any.
    """

    def __init__(self) -> None:
        self.count = 0
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE ids (id BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, ids: Iterable[bytes]) -> None:
        """Add identities."""
        keys = ((key,) for key in ids)
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR IGNORE INTO ids VALUES (?)", keys)
        (self.count,) = self._database.execute("SELECT count(*) FROM ids").fetchone()

    def remove(self, key: bytes) -> bool:
        """Whether it was there; it is not any more."""
        removed = self._database.execute("DELETE FROM ids WHERE id = ?", (key,)).rowcount
        self.count -= removed
        return removed > 0

    def close(self) -> None:
        """Remove the file, if there is one."""
        self._database.close()


def tail_ids(
    bootstrap: str,
    topic: str,
    origin: Origin,
    since_us: int,
    meanwhile: Callable[[], None] = lambda: None,
    *,
    committed: bool = False,
) -> Iterator[bytes]:
    """The identities at the end of a topic: those of each partition that may belong to rows of this source.

    Each partition is read backwards, in steps that grow, until a record of a confirmed row is met, or records
    are older than ``since_us`` (0: of any age): a row's record is never older than the row, unless rows name the
    time of their records. Records of other sources are passed over; those that do not say their source
    (Debezium's) count where their ID is a UUID. With ``committed``, open transactions are waited for, and records
    of aborted ones left out.

    Raises:
        TopicError: the topic does not exist, or may not be read.
        PublishError: Kafka does not answer.
    """
    level = {"isolation.level": "read_committed"} if committed else {}
    consumer = reader(bootstrap, "settle-relay", _READER | level, SILENT)
    try:
        tails = _tails(bootstrap, consumer, topic, since_us // 1_000, meanwhile)
        if committed:
            _await_committed(bootstrap, topic, {tail.partition: tail.end for tail in tails}, meanwhile)
        step = TAIL_RECORDS_MIN
        while tails := [tail for tail in tails if tail.floor < tail.start]:
            for tail in tails:
                tail.end, tail.start = tail.start, max(tail.floor, tail.start - step)
            for record in _read(consumer, topic, tails, meanwhile):
                fields: dict[str, Any] = dict(headers.of(record) or ())
                position = fields.get(headers.POSITION)
                if origin.has_confirmed(position):
                    # Its row is not read again, so the ID would never be removed from the set.
                    tails = [tail for tail in tails if tail.partition != record.partition()]
                elif (row_id := fields.get(headers.ID)) is not None:
                    key = identity(row_id, topic, record.key(), fields.get(headers.EVENT_TYPE), record.value())
                    if origin.is_of(position) or (position is None and len(key) == UUID_BYTES):
                        yield key
            step = min(step * TAIL_GROWTH, TAIL_RECORDS_MAX)
    except KafkaException as error:
        raise _unanswered(bootstrap, error) from None
    finally:
        consumer.close()


def complete_since_us(
    bootstrap: str, topic: str, meanwhile: Callable[[], None] = lambda: None
) -> list[int] | None:
    """The time since which each partition of a topic holds everything, microseconds since the Unix epoch.

    0: since ever; :data:`NEVER_US`: it has had records, and has none any more. Once a partition has lost records,
    one that has all of its own may have been added later: it counts from its first one.

    Where this Kafka user is not told whether the topic is compacted, all of it is read; it counts as compacted if
    offsets are missing. ``meanwhile`` is called then, and may raise to give up.

    Returns:
        None where that cannot be known: compaction takes records from between others.

    Raises:
        TopicError: the topic does not exist, or may not be read.
        PublishError: Kafka does not answer.
    """
    consumer = reader(bootstrap, "settle-relay", _READER, SILENT)
    try:
        bounds = {partition: _bounds(consumer, topic, partition) for partition in _partitions(consumer, topic)}
        if any(high for _, high in bounds.values()):
            is_compacted = _is_compacted(bootstrap, topic)
            if is_compacted is None:
                is_compacted = _has_gaps(consumer, topic, bounds, meanwhile)
                bounds = {partition: _bounds(consumer, topic, partition) for partition in bounds}
            if is_compacted:
                return None
        if all(low == 0 for low, _ in bounds.values()):
            return [0] * len(bounds)
        # The first offsets may be those of no record.
        heads = [
            _Tail(partition, low, low, min(low + READ_RECORDS, high))
            for partition, (low, high) in bounds.items()
            if low < high
        ]
        firsts: dict[int, int] = {}
        for record in _read(consumer, topic, heads, lambda: None):
            firsts.setdefault(record.partition() or 0, record.timestamp()[1] * 1_000)
            if len(firsts) == len(heads):
                break
        known = {partition: firsts.get(partition, NEVER_US) for partition, (_, high) in bounds.items() if high}
        latest = max(known.values())
        return [known.get(partition, latest) for partition in sorted(bounds)]
    except KafkaException as error:
        raise _unanswered(bootstrap, error) from None
    finally:
        consumer.close()


def _bounds(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """The first offset of a partition, and the one after its last."""
    bounds: tuple[int, int] = consumer.get_watermark_offsets(TopicPartition(topic, partition), KAFKA_ANSWER_S)
    return bounds


def _has_gaps(
    consumer: Consumer, topic: str, bounds: dict[int, tuple[int, int]], meanwhile: Callable[[], None]
) -> bool:
    """Whether offsets of a topic have no record: compaction took it, or it is the end of a transaction."""
    tails = [_Tail(partition, low, low, high) for partition, (low, high) in bounds.items() if low < high]
    following = {tail.partition: tail.start for tail in tails}

    def is_gap(partition: int, until: int) -> bool:
        # What retention deletes meanwhile is none.
        return following[partition] < until and _bounds(consumer, topic, partition)[0] < until

    for record in _read(consumer, topic, tails, meanwhile):
        partition, offset = record.partition() or 0, record.offset() or 0
        if is_gap(partition, offset):
            return True
        following[partition] = offset + 1
    return any(is_gap(tail.partition, tail.end) for tail in tails)


def _is_compacted(bootstrap: str, topic: str) -> bool | None:
    """Whether a topic is compacted; None where that is not told, for lack of the right ``DescribeConfigs`` on it.

    Raises:
        KafkaException: Kafka does not answer.
    """
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    client = admin(bootstrap)  # its futures resolve only while the client exists
    try:
        asked = client.describe_configs([resource], request_timeout=REQUEST_S)
        found: dict[str, Any] = answer(asked[resource], KAFKA_ANSWER_S)
    except KafkaException as error:
        if denied(error.args[0]) is None:
            raise
        return None
    return "compact" in found["cleanup.policy"].value if "cleanup.policy" in found else None


def _unanswered(bootstrap: str, error: KafkaException) -> PublishError:
    """That a topic could not be read; why, a new client is told better than one that has waited."""
    cause = error.args[0]
    reason = denied(cause) or why_unanswered(bootstrap) or cause.str()
    return PublishError(f"Kafka does not answer, waiting for it: {reason}")


@dataclass
class _Tail:
    """How far the end of a partition is read: from ``start`` to ``end``, and no further back than ``floor``."""

    partition: int
    floor: int
    start: int
    end: int


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    found = consumer.list_topics(topic, KAFKA_ANSWER_S).topics[topic]
    if found.error is not None:
        raise TopicError(f"topic {topic} cannot be written: {denied(found.error) or found.error.str()}")
    # Known at once; to ask such a partition for its offsets would take until the time is up.
    if leaderless := sorted(number for number, partition in found.partitions.items() if partition.leader < 0):
        raise TopicError(f"topic {topic} cannot be read: no leader of partition {', '.join(map(str, leaderless))}")
    return list(found.partitions)


def _tails(
    bootstrap: str, consumer: Consumer, topic: str, since_ms: int, meanwhile: Callable[[], None]
) -> list[_Tail]:
    partitions = _partitions(consumer, topic)
    client = admin(bootstrap)
    await_replicas(client, topic, partitions, meanwhile)
    newer = list_offsets(client, topic, partitions, since(max(0, since_ms)), meanwhile)
    first = list_offsets(client, topic, partitions, FIRST, meanwhile)
    ends = list_offsets(client, topic, partitions, END, meanwhile)
    floors = {
        number: max(first[number], newer[number]) if newer[number] >= 0 else end for number, end in ends.items()
    }
    return [_Tail(number, floors[number], end, end) for number, end in ends.items()]


def _await_committed(bootstrap: str, topic: str, ends: dict[int, int], meanwhile: Callable[[], None]) -> None:
    """Return once no transaction is open that began before these ends.

    Raises:
        PublishError: one still is.
    """
    client = admin(bootstrap)
    give_up = time.monotonic() + COMMITTED_WAIT_S
    while True:
        open_from = list_offsets(client, topic, ends, END, meanwhile, committed=True)
        if all(open_from[number] >= end for number, end in ends.items()):
            return
        if time.monotonic() > give_up:
            raise PublishError(f"topic {topic} cannot be read, waiting for it: a transaction on it stays open")
        meanwhile()
        time.sleep(COMMITTED_LOOK_S)


def _read(consumer: Consumer, topic: str, tails: list[_Tail], meanwhile: Callable[[], None]) -> Iterator[Message]:
    """Every record from ``start`` to ``end`` of the partitions."""
    ends = {tail.partition: tail.end for tail in tails}
    consumer.assign([TopicPartition(topic, tail.partition, tail.start) for tail in tails])
    give_up = time.monotonic() + KAFKA_ANSWER_S
    while ends:
        meanwhile()
        for record in consumer.consume(READ_RECORDS, 0.05):
            give_up = time.monotonic() + KAFKA_ANSWER_S
            partition, offset, error = record.partition() or 0, record.offset() or 0, record.error()
            if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                continue  # the group's name is only a label: its coordinator has nothing to do
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if error is None and offset < ends.get(partition, 0):
                yield record
            # Offsets may be missing, so the end is met by whatever comes at it or after it.
            if error is not None or offset >= ends.get(partition, 0) - 1:
                ends.pop(partition, None)
        if time.monotonic() > give_up:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
