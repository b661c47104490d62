"""Faults that operators cause: to tables, publications, slots, rights, topics and clocks.

Each is done with care: rows are copied when a table is replaced, a read-only database becomes writable again, and
only records that every group has read are deleted. The system has to recover by itself.
"""

import random
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import count
from typing import Any, LiteralString, TypeVar

import psycopg
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewPartitions
from psycopg import sql
from psycopg.conninfo import make_conninfo

from broker.clients import admin, idempotent_producer
from broker.offsets import Offsets
from contracts import headers
from contracts.postgres import session
from contracts.services import READ_BY, TOPICS
from contracts.topics import consumer_group
from lab.chaos.arming import Arming
from lab.chaos.plan import (
    CLOCK,
    FORGET,
    JUNK,
    LOCK_OUT,
    PARTITIONS,
    PUBLICATION,
    READ_ONLY,
    SLOT_ADVANCE,
    SLOT_DROP,
    SWAP,
    Fault,
)
from outbox_relay.outbox import OUTBOX
from outbox_relay.slot_name import slot_name
from stack.errors import StackError
from stack.postgres import USER
from stack.supervisor import Stack

PLANTED = "planted"
"""The header by which the verdict recognises planted records."""

ROLE = "operator"
"""The role used in the databases, so that a changed password does not lock out the one who changes it back."""

ANY = -1
"""Whichever partition the key belongs to."""
PARTITIONS_MORE = 2
PATIENCE_S = 60.0
"""Time limit: database or broker may be away, a slot or publication not recreated yet, a table locked."""
AGAIN_S = 0.05
END_SESSION_MS = 5_000

RECORD_OVERHEAD_BYTES = 512
"""Of a record alone in its batch: what a topic's limit counts besides the body."""
COMPRESSED_BYTES = 8_000_000
"""Far beyond a topic's limit, before compression."""
NESTED = 100_000
PRODUCER = {
    "message.max.bytes": 2 * COMPRESSED_BYTES,
    "compression.type": "lz4",  # incompressible data is left as it is
}

_SWAP: tuple[LiteralString, ...] = (
    "SET LOCAL lock_timeout = '1s'",
    "LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE",
    "ALTER TABLE outbox RENAME TO {old}",
    "CREATE TABLE outbox (LIKE {old} INCLUDING ALL)",
    "INSERT INTO outbox SELECT * FROM {old}",
)
_END_READER = """
SELECT pg_terminate_backend(active_pid, %s) FROM pg_replication_slots
WHERE slot_name = %s AND active_pid IS NOT NULL
"""
_DROP_SLOT = "SELECT pg_drop_replication_slot(%s)"
_ADVANCE_SLOT = "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())"
_END_SESSIONS = """
SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity
WHERE usename <> %s AND backend_type IN ('client backend', 'walsender')
"""
_PASSWORD = "SELECT rolpassword FROM pg_authid WHERE rolname = %s"  # noqa: S105 no password

T = TypeVar("T")


class Operators:
    """Does the operators' part of a plan.

    Args:
        stack: whose databases, topics and services.
        arming: its command, which sets clocks.

    Attributes:
        kinds: how each kind of fault is done.
        planted: names of records that some service has to refuse, by their header :data:`PLANTED`.
    """

    def __init__(self, stack: Stack, arming: Arming) -> None:
        self.planted: set[str] = set()
        self.kinds: Mapping[str, Callable[[Fault], None]] = {
            SWAP: self._swap,
            PUBLICATION: self._drop_publication,
            SLOT_DROP: self._drop_slot,
            SLOT_ADVANCE: self._advance_slot,
            READ_ONLY: self._read_only,
            LOCK_OUT: self._lock_out,
            FORGET: self._forget,
            JUNK: self._junk,
            PARTITIONS: self._add_partitions,
            CLOCK: self._set_clock,
        }
        self._stack = stack
        self._arming = arming
        self._numbers = count(1)
        self._admin = admin(self._bootstrap)
        self._password = secrets.token_urlsafe()
        role = sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}")
        for service in READ_BY:
            with session(stack.state.dsns[service]) as connection:
                connection.execute(role.format(sql.Identifier(ROLE), sql.Literal(self._password)))

    def _swap(self, fault: Fault) -> None:
        old = sql.Identifier(f"outbox_old_{next(self._numbers)}")

        def swap() -> None:
            with self._connect(fault.part) as connection, connection.transaction():
                for statement in _SWAP:
                    connection.execute(sql.SQL(statement).format(old=old))

        _until_done(fault, swap)

    def _drop_publication(self, fault: Fault) -> None:
        drop = sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(OUTBOX.publication_name))
        _until_done(fault, lambda: self._execute(fault.part, drop))

    def _drop_slot(self, fault: Fault) -> None:
        _until_done(fault, lambda: self._take_slot(fault.part, _DROP_SLOT))

    def _advance_slot(self, fault: Fault) -> None:
        _until_done(fault, lambda: self._take_slot(fault.part, _ADVANCE_SLOT))

    def _take_slot(self, service: str, query: LiteralString) -> None:
        """Act on a slot whose reader is disconnected for it; the reader reconnects half a second later."""
        with self._connect(service) as connection:
            slot = slot_name(connection)
            connection.execute(_END_READER, (END_SESSION_MS, slot))
            connection.execute(query, (slot,))

    def _read_only(self, fault: Fault) -> None:
        """Sessions that began meanwhile stay read-only afterwards, as after a failover."""
        change = "ALTER DATABASE {} SET default_transaction_read_only = on"
        back = "ALTER DATABASE {} RESET default_transaction_read_only"
        name = sql.Identifier(fault.part)
        try:
            _until_done(fault, lambda: self._execute(fault.part, sql.SQL(change).format(name)))
            self._end_sessions(fault.part)
            time.sleep(fault.for_s)
        finally:
            _until_done(fault, lambda: self._execute(fault.part, sql.SQL(back).format(name)))

    def _lock_out(self, fault: Fault) -> None:
        with self._connect(fault.part) as connection:
            row = connection.execute(_PASSWORD, (USER,)).fetchone()
        assert row is not None
        set_password = sql.SQL("ALTER ROLE {} PASSWORD {}").format
        role, before, after = sql.Identifier(USER), sql.Literal(row[0]), sql.Literal(secrets.token_urlsafe())
        try:
            _until_done(fault, lambda: self._execute(fault.part, set_password(role, after)))
            self._end_sessions(fault.part)
            time.sleep(fault.for_s)
        finally:
            _until_done(fault, lambda: self._execute(fault.part, set_password(role, before)))

    def _end_sessions(self, service: str) -> None:
        with self._connect(service) as connection:
            connection.execute(_END_SESSIONS, (END_SESSION_MS, ROLE))

    def _execute(self, service: str, statement: sql.Composed) -> None:
        with self._connect(service) as connection:
            connection.execute(statement)

    def _connect(self, service: str) -> psycopg.Connection:
        # As the owner of the tables: what is made belongs to it, too.
        dsn = make_conninfo(
            self._stack.state.dsns[service],
            user=ROLE,
            password=self._password,
            options=f"-c role={USER} -c default_transaction_read_only=off",
        )
        return session(dsn, autocommit=True)

    def _forget(self, fault: Fault) -> None:
        """Delete records as retention does, but none that a group has yet to read."""
        readers = [service for service, read in READ_BY.items() if fault.part in (topic.name for topic in read)]

        def forget() -> None:
            offsets = Offsets(self._bootstrap)
            confirmed = [offsets.confirmed(consumer_group(service), [fault.part]) for service in readers]
            read_by_all = {place: min(each.get(place, 0) for each in confirmed) for place in confirmed[0]}
            before = [TopicPartition(*place, offset) for place, offset in read_by_all.items() if offset > 0]
            if before:
                _wait_for(self._admin.delete_records(before))

        _until_done(fault, forget)

    def _junk(self, fault: Fault) -> None:
        """Plant records that no service can read, of kinds that have stopped consumers elsewhere."""
        rng = random.Random(fault.at_s)
        claims = next(topic for topic in TOPICS if topic.name == fault.part).event_types[0].__name__
        typed: headers.Headers = [(headers.EVENT_TYPE, claims.encode())]
        with_id: headers.Headers = [*typed, (headers.ID, b"01a20aeb-4358-716a-b291-9134760df1f7")]

        def plant() -> None:
            largest = self._bytes_max(fault.part) - RECORD_OVERHEAD_BYTES
            self._plant(
                fault.part,
                (rng.randbytes(100), [], ANY),
                (None, with_id, ANY),
                (b'{"payment_id": "nobody', typed, ANY),
                (b"[" * NESTED, with_id, ANY),
                (rng.randbytes(largest), with_id, ANY),
                (bytes(COMPRESSED_BYTES), with_id, ANY),
            )

        _until_done(fault, plant)

    def _add_partitions(self, fault: Fault) -> None:
        """Add partitions, and an unreadable record on each: a partition that is not read is detected by it."""
        first = len({partition for _, partition in Offsets(self._bootstrap).end([fault.part])})

        def add() -> None:
            _wait_for(self._admin.create_partitions([NewPartitions(fault.part, first + PARTITIONS_MORE)]))

        def plant() -> None:
            new = range(first, first + PARTITIONS_MORE)
            self._plant(fault.part, *((b"on a new partition", [], partition) for partition in new))

        _until_done(fault, add)
        _until_done(fault, plant)

    def _plant(self, topic: str, *records: tuple[bytes | None, headers.Headers, int]) -> None:
        """Write records (body, headers, partition) that their readers have to refuse.

        Raises:
            KafkaException: one was not taken.
        """
        producer = idempotent_producer(self._bootstrap, PRODUCER)
        failures: list[KafkaException] = []
        for value, fields, partition in records:
            name = f"{topic} {next(self._numbers)}"
            producer.produce(
                topic,
                value,
                name.encode(),
                partition=partition,
                headers=[(PLANTED, name.encode()), *fields],
                on_delivery=lambda error, _: failures.append(KafkaException(error)) if error else None,
            )
            producer.flush(PATIENCE_S)  # one at a time: a batch of several may be larger than the topic takes
            if failures:
                raise failures[0]
            self.planted.add(name)

    def _set_clock(self, fault: Fault) -> None:
        self._arming.set_clock(fault.part, fault.off_s)
        right_at = time.monotonic() + fault.for_s
        try:
            self._restart(fault.part)
            self._stack.wait_ready(fault.part, PATIENCE_S)
            time.sleep(max(right_at - time.monotonic(), 0.0))
        finally:
            self._arming.set_clock(fault.part, 0.0)
        self._restart(fault.part)

    def _restart(self, part: str) -> None:
        self._stack.stop_service(part)
        self._stack.start_service(part)

    def _bytes_max(self, topic: str) -> int:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        (described,) = _wait_for(self._admin.describe_configs([resource]))
        return int(described["max.message.bytes"].value)

    @property
    def _bootstrap(self) -> str:
        return self._stack.admin_bootstrap


def _wait_for(asked: Mapping[Any, Future[T]]) -> list[T]:
    return [done.result(PATIENCE_S) for done in asked.values()]


def _until_done(fault: Fault, act: Callable[[], None]) -> None:
    """Retry until it succeeds: its target may be away, or in use.

    Raises:
        StackError: not within :data:`PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return act()
        except (psycopg.Error, KafkaException) as error:
            if time.monotonic() > deadline:
                raise StackError(f"{fault.in_words()}: not within {PATIENCE_S:g} s: {error}") from None
        time.sleep(AGAIN_S)
