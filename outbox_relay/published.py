"""What do the topics hold already? Whoever starts again must not publish it a second time.

The database hears of an acknowledgement a moment after it was given, and after a crash it may have forgotten
what it heard. So a source that starts is handed rows again that are on the topics. At the first row for a topic
the tails of its partitions are read, back to what the database is known to have confirmed, and rows whose IDs are
there are skipped. By their IDs, not by positions: a database that was restored from a backup counts its log anew,
and a new row must never be taken for an old one.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectivity import SILENT
from contracts import headers
from outbox_relay.errors import PublishError
from outbox_relay.ledger import Transaction
from outbox_relay.pgoutput import OutboxRow
from outbox_relay.position import Origin
from outbox_relay.topic import topic_of

# Rows committed this long after the start are on no topic yet; clocks of relay and database may be so far apart.
CLOCKS_OFF_US = 60_000_000
KAFKA_ANSWER_S = 10.0
# How many records of a partition are looked at first, and how much further back each time.
TAIL_RECORDS_MIN = 1
TAIL_GROWTH = 64
TAIL_RECORDS_MAX = 50_000
READ_RECORDS = 1_000


class Published:
    """Which of the rows that come are on their topics already?

    Args:
        bootstrap: ``host:port[,host:port…]``.
        origin: the database of the rows.
    """

    def __init__(self, bootstrap: str, origin: Origin) -> None:
        self._bootstrap = bootstrap
        self._origin = origin
        self._until_us = origin.now_us + CLOCKS_OFF_US
        self._on_topic: dict[bytes, Ids] = {}

    def holds(self, row: OutboxRow, transaction: Transaction) -> bool:
        """Whether the row's topic has it. The first row for a topic waits while its tails are read.

        Args:
            row: which may have been published before.
            transaction: its own; rows for the same topic that come later were committed no earlier.

        Raises:
            UnpublishableError: there can be no such topic.
            PublishError: the topic does not exist, or Kafka does not answer.
        """
        if transaction.committed_us > self._until_us:
            return False
        ids = self._on_topic.get(row.aggregate_type)
        if ids is None:
            topic = topic_of(row, transaction.commit_lsn)
            ids = self._on_topic[row.aggregate_type] = Ids()
            ids.add(tail_ids(self._bootstrap, topic, self._origin, transaction.committed_us - CLOCKS_OFF_US))
        return bool(ids) and ids.remove(row.id)

    def close(self) -> None:
        """Forget them."""
        for ids in self._on_topic.values():
            ids.close()


class Ids:
    """A set of UUIDs that takes little memory, however many: most of a large one lies in a temporary file."""

    def __init__(self) -> None:
        self._count = 0
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE ids (id BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, ids: Iterable[bytes]) -> None:
        """Add IDs, given as text."""
        keys = ((_key(text),) for text in ids)
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR IGNORE INTO ids VALUES (?)", keys)
        (self._count,) = self._database.execute("SELECT count(*) FROM ids").fetchone()

    def remove(self, text: bytes) -> bool:
        """Whether it was there; it is not any more."""
        removed = self._database.execute("DELETE FROM ids WHERE id = ?", (_key(text),)).rowcount
        self._count -= removed
        return removed > 0

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Remove the file, if there is one."""
        self._database.close()


def tail_ids(bootstrap: str, topic: str, origin: Origin, since_us: int) -> Iterator[bytes]:
    """The IDs at the end of a topic: those of each partition that may belong to rows not confirmed.

    Each partition is read backwards, in steps that grow, until a record of a confirmed row is met, or records
    are older than ``since_us``: a row's record is never older than the row.

    Raises:
        PublishError: the topic does not exist, or Kafka does not answer.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "settle-relay",  # never joined: partitions are assigned
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
            "allow.auto.create.topics": True,
        },
        logger=SILENT,
    )
    try:
        tails = _tails(consumer, topic, since_us // 1_000)
        step = TAIL_RECORDS_MIN
        while tails := [tail for tail in tails if tail.floor < tail.start]:
            for tail in tails:
                tail.end, tail.start = tail.start, max(tail.floor, tail.start - step)
            for record in _read(consumer, topic, tails):
                fields: dict[str, Any] = dict(headers.of(record))
                if origin.has_confirmed(fields.get(headers.POSITION)):
                    # Its row does not come again, and would be waited for.
                    tails = [tail for tail in tails if tail.partition != record.partition()]
                elif (row_id := fields.get(headers.ID)) is not None:
                    yield row_id
            step = min(step * TAIL_GROWTH, TAIL_RECORDS_MAX)
    except KafkaException as error:
        raise PublishError(f"Kafka does not answer, waiting for it: {error.args[0].str()}") from None
    finally:
        consumer.close()


@dataclass
class _Tail:
    """How far the end of a partition is read: from ``start`` to ``end``, and no further back than ``floor``."""

    partition: int
    floor: int
    start: int
    end: int


def _tails(consumer: Consumer, topic: str, since_ms: int) -> list[_Tail]:
    found = consumer.list_topics(topic, KAFKA_ANSWER_S).topics[topic]
    if found.error is not None:
        raise PublishError(f"topic {topic} cannot be written: {found.error.str()}")
    times = [TopicPartition(topic, partition, max(0, since_ms)) for partition in found.partitions]
    tails = []
    for place in consumer.offsets_for_times(times, KAFKA_ANSWER_S):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, place.partition), KAFKA_ANSWER_S)
        floor = high if place.offset < 0 else max(low, place.offset)
        tails.append(_Tail(place.partition, floor, high, high))
    return tails


def _read(consumer: Consumer, topic: str, tails: list[_Tail]) -> Iterator[Message]:
    """Every record from ``start`` to ``end`` of the partitions."""
    ends = {tail.partition: tail.end for tail in tails}
    consumer.assign([TopicPartition(topic, tail.partition, tail.start) for tail in tails])
    give_up = time.monotonic() + KAFKA_ANSWER_S
    while ends:
        for record in consumer.consume(READ_RECORDS, 0.05):
            give_up = time.monotonic() + KAFKA_ANSWER_S
            partition, offset, error = record.partition() or 0, record.offset() or 0, record.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if error is None and offset < ends.get(partition, 0):
                yield record
            # Offsets may be missing, so the end is met by whatever comes at it or after it.
            if error is not None or offset >= ends.get(partition, 0) - 1:
                ends.pop(partition, None)
        if time.monotonic() > give_up:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


def _key(text: bytes) -> bytes:
    """A UUID in 16 bytes; other kinds of IDs as they are."""
    try:
        return UUID(text.decode()).bytes
    except ValueError:
        return text
