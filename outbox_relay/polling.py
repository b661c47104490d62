"""The polling reader of an outbox: the classic worker, for where logical decoding is not available.

Unpublished rows in the order of insertion, locked; publish, wait for Kafka, mark as published, commit; and again.
A row counts as unpublished until its own mark is set, so one that was numbered early and committed late is found
all the same. Rows of one key keep their order if those who write them take turns, as who locks the account does.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from contracts import failpoints
from outbox_relay import marks
from outbox_relay.acknowledgements import Acknowledgements
from outbox_relay.batches import read_in_order, rows_at, select_places
from outbox_relay.cleaner import REMOVE_AGAIN_S
from outbox_relay.control import rewind
from outbox_relay.control.skips import unless_skipped
from outbox_relay.control.table import DONE, REFUSED, Act, answer
from outbox_relay.dead import bring_up_to_date, living
from outbox_relay.errors import PublishError, SetupError
from outbox_relay.indexing import indexing
from outbox_relay.marks import MARK
from outbox_relay.names import one_line
from outbox_relay.places import in_each_partition
from outbox_relay.position import Origin
from outbox_relay.publisher import Publisher
from outbox_relay.removal import IGNORED, refusal
from outbox_relay.replication import connect
from outbox_relay.row import OutboxRow
from outbox_relay.slot_name import how_to_drop, slot_name
from outbox_relay.source import Source
from outbox_relay.stages import Publish, not_yet_published, or_quarantined
from outbox_relay.table import (
    Table,
    are_of_version_7,
    by_id,
    by_time,
    current_lsn,
    find_origin,
    find_table,
    is_of_version_7,
    lock,
    may_delete,
    row_of,
)

POLL_ROWS = 2_000
# Rows are locked meanwhile, and the snapshot holds back vacuum; after that, release them and begin again.
ACKNOWLEDGE_WAIT_S = 30.0
# The same once the session is to end.
CALLED_WAIT_S = 5.0
PUSH_WAIT_S = 0.1
REMOVE_ROWS = 10_000
# How often the log retained by an unused slot is measured.
MEASURE_INTERVAL_S = 5.0

_NOW_US = sql.SQL("(extract(epoch FROM clock_timestamp()) * 1000000)::int8")
# Rows at '-infinity' and 'infinity' are not known to be published (see marks).
_MARKED = """
    SELECT tableoid::int8, ctid::text FROM {table}
    WHERE {published_at} > '-infinity' AND {published_at} < 'infinity' AND {mine} LIMIT %s
"""
_AT = "FROM {table} WHERE tableoid = %s::oid AND ctid = ANY(%s::tid[]) AND isfinite({published_at})"
_REMOVE: LiteralString = "DELETE " + _AT
_SEE: LiteralString = "SELECT " + _AT
_SLOT = """
    SELECT active, greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::int8
    FROM pg_replication_slots WHERE slot_name = %s
"""


def poll(source: Source) -> None:
    """One session of a source: poll for unpublished rows until the relay stops.

    Raises:
        RelayError, psycopg.Error: what ended it.
    """
    settings, outbox = source.settings, source.outbox
    if outbox.messages is not None:
        raise SetupError("messages stand in the log alone, and no poll finds them: set reader = wal")
    with closing(connect(source.dsn, replication=False)) as connection:
        lock(connection, outbox)
        table = find_table(connection, outbox)
        keeps = not (settings.cleanup and may_delete(connection, outbox))
        if not table.is_marked:
            marks.prepare(source, connection, table)
            table = find_table(connection, outbox)
        bring_up_to_date(connection, outbox)
        source.has_table(table)
        marks.decide(source, connection)
        origin = find_origin(connection, outbox)
        with (
            indexing(source, connection),
            source.publishing(table, origin) as (publisher, publish),
            closing(source.published(table, origin, source.raise_if_stopped)) as published,
        ):
            worker = _Worker(
                source,
                connection,
                table,
                publisher,
                unless_skipped(
                    not_yet_published(publish, published, source.quarantine),
                    source.control.orders.skips,
                    frozenset(),
                    published,
                    source.quarantine,
                ),
                or_quarantined(publish, source.quarantine),
                origin,
            )
            act = source.control.orders.rewind
            while not source.control.is_called:
                worker.measure()
                if worker.poll() < POLL_ROWS:
                    if act is not None:
                        worker.rewind(act)
                        return
                    source.has_looked(keeps_rows=keeps)
                    source.progress()
                    if not (settings.cleanup and worker.remove()):
                        source.control.rest(settings.poll_interval_s)


class _Worker:
    """The steps of a polling session: publish and mark, remove, measure."""

    def __init__(
        self,
        source: Source,
        connection: psycopg.Connection[Any],
        table: Table,
        publisher: Publisher,
        publish: Publish,
        publish_again: Publish,
        origin: Origin,
    ) -> None:
        self._source = source
        self._connection = connection
        self._publisher = publisher
        self._publish = publish
        self._publish_again = publish_again
        self._table = table
        self._acks = Acknowledgements(origin, source.waits)
        self._measured_at = 0.0
        self._warned = False
        # Before this session rows may have been marked too.
        self._may_be_marked, self._kept_until = True, 0.0
        self._marked = source.outbox.sql(_MARKED, mine=table.mine)
        self._outbox = source.outbox
        self._living = living(connection, table)
        self._condition = sql.SQL("{} AND {}").format(table.unpublished, self._living)
        # IDs are taken to follow the inserts until one is seen that does not: a table may be empty at first.
        self._is_by_id, self._is_behind = table.has_uuids, False
        self._query = self._sorted(by_id(table) if self._is_by_id else by_time(table))
        source.reading(self._acks, lambda: None)

    def _sorted(self, order: sql.Composable) -> sql.Composed:
        # When it was committed is not on record; when its transaction began mostly is.
        query = select_places(self._table, order, self._condition)
        return sql.SQL("{} LIMIT {} FOR UPDATE SKIP LOCKED").format(query, sql.Literal(POLL_ROWS))

    def _read(self) -> list[Any]:
        """Where the next unpublished rows lie, which are locked, in their order."""
        found = self._connection.execute(self._query, binary=True).fetchall()
        is_behind = len(found) == POLL_ROWS
        if self._is_by_id:
            self._is_by_id = all(is_of_version_7(row_id) for *_, row_id in found)
            # Others may stand behind those that were read.
            if self._is_by_id and is_behind and not self._is_behind:
                self._is_by_id = are_of_version_7(self._connection, self._table, self._condition)
            if not self._is_by_id:
                self._query = self._sorted(by_time(self._table))
                found = self._connection.execute(self._query, binary=True).fetchall()
        self._is_behind = is_behind
        return found

    def poll(self) -> int:
        """Publish and mark rows, up to :data:`POLL_ROWS`; how many."""
        acks, publish = self._acks, self._publish
        places = []
        with self._connection.transaction():
            lsn = current_lsn(self._connection)
            found = rows_at(self._connection, self._table, self._read(), also=(_NOW_US,))
            for *values, created_us, now_us, partition, place in found:
                row = row_of(values)
                transaction = acks.begin(lsn, created_us or now_us)
                transaction.written_us = created_us or 0
                transaction.rows = 1
                transaction.value_bytes = len(row.payload or b"")
                publish(row, transaction, transaction.delivered)
                acks.end(transaction, lsn)
                places.append((partition, place))
            self._wait_acknowledged()
            failpoints.hit("relay.acknowledged")
            if in_each_partition(self._connection, self._outbox, MARK, places) < len(places):
                mark = self._outbox.columns.published_at
                raise SetupError(f"a trigger or a rule of {self._outbox.label} ignores that {mark} is set")
        self._may_be_marked = self._may_be_marked or bool(places)
        acks.reached(lsn)
        self._source.progress()
        return len(places)

    def rewind(self, act: Act) -> None:
        """Publish rows again that somebody asked for; what cannot be done is answered, and nothing waits for it.

        All of it is one transaction: whoever is killed meanwhile begins anew.
        """
        source, connection, outbox, table = self._source, self._connection, self._outbox, self._table
        open_places: list[tuple[int, str]] = []
        try:
            wanted = rewind.condition(connection, table, act.row_id, act.since)
        except SetupError as error:
            answer(connection, outbox, act.number, REFUSED, one_line(error))
            source.warn("a rewind is not done", why=one_line(error))
            source.begin_again("what else is asked")
            return

        def look() -> None:
            source.raise_if_stopped()
            self._acks.advance()
            source.progress(may_restart=False)

        def rows() -> Iterator[OutboxRow]:
            for *values, _created_us, is_open, partition, place in found:
                if is_open:
                    open_places.append((partition, place))
                yield row_of(values)

        source.say("publishing rows again", asked_by=act.by)
        is_unpublished = outbox.sql("isfinite({published_at}) IS NOT TRUE")
        condition = sql.SQL("({}) AND {}").format(wanted, self._living)
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            lsn = current_lsn(connection)
            stage = unless_skipped(
                self._publish_again, source.control.orders.skips, frozenset(), None, source.quarantine
            )
            with closing(read_in_order(connection, table, condition, also=(is_unpublished,))) as found:
                count = rewind.publish_again(rows(), self._acks, lsn, self._publisher, stage, table.key, look)
            in_each_partition(connection, outbox, MARK, open_places)
            answer(connection, outbox, act.number, DONE, rewind.outcome(count))
        source.begin_again(rewind.outcome(count))

    def _wait_acknowledged(self) -> None:
        """Wait until Kafka has all that was handed over.

        Raises:
            PublishError: it refused a record, or did not answer in time.
            StopRequestedError: the relay shall end.
        """
        began = time.monotonic()
        while True:
            self._publisher.push(PUSH_WAIT_S)
            self._acks.advance()
            self._source.progress(may_restart=False)
            if not self._publisher.waiting:
                return
            limit_s = CALLED_WAIT_S if self._source.control.is_called else ACKNOWLEDGE_WAIT_S
            if time.monotonic() - began > limit_s:
                raise PublishError(self._publisher.away or "Kafka does not acknowledge, waiting for it")

    def remove(self) -> bool:
        """Remove rows that are marked, up to a limit; whether there may be more."""
        if not self._may_be_marked or time.monotonic() < self._kept_until:
            return False
        connection, outbox = self._connection, self._outbox
        if not may_delete(connection, outbox):
            return False
        places = connection.execute(self._marked, (REMOVE_ROWS,)).fetchall()
        try:
            removed = in_each_partition(connection, outbox, _REMOVE, places)
        except psycopg.Error as error:
            self._keep_rows(refusal(error))
            return False
        self._source.removed_rows += removed
        # Others may have removed some.
        stays = removed < len(places) and in_each_partition(connection, outbox, _SEE, places) > 0
        if stays and removed == 0:
            self._keep_rows(IGNORED)
        self._may_be_marked = stays or len(places) == REMOVE_ROWS
        return len(places) == REMOVE_ROWS and not stays

    def _keep_rows(self, why: str) -> None:
        self._kept_until = time.monotonic() + REMOVE_AGAIN_S
        self._source.warn_once(f"published rows stay in {self._outbox.label}: {why}")

    def measure(self) -> None:
        """Measure the log retained by an unused slot; warn once."""
        if time.monotonic() - self._measured_at < MEASURE_INTERVAL_S:
            return
        self._measured_at = time.monotonic()
        self._source.quarantined.clear()  # which nobody here asks for
        slot = slot_name(self._connection, self._outbox)
        found = self._connection.execute(_SLOT, (slot,)).fetchone()
        active, kept_bytes = found or (False, 0)
        self._source.gauges["slot_retained_bytes"] = kept_bytes
        if found is not None and not active and not self._warned:
            self._warned = True
            self._source.warn(
                "nobody reads the slot any more, and the server keeps its log for it: "
                + how_to_drop(slot, self._outbox),
                kept_bytes=kept_bytes,
            )
