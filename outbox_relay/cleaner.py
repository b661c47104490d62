"""The cleaner: a background thread that removes published rows from the outbox, and finds rows the stream missed.

A row is removed because its own key is acknowledged (:mod:`outbox_relay.handled`), never because the log position
is past it. So a row that the stream skipped is still there, whatever the reason: the publication did not have the
table, the slot was advanced, or the row was published by a relay that died before it could remove it. Every few
seconds such rows are searched for: a transaction takes a snapshot, reads the end of the log, and waits until
everything before that is acknowledged. Rows that its snapshot still shows did not come with the stream. Those
whose ID is on its topic are removed; the others are handed to the source, which publishes them.

A table that keeps its rows is searched like that when something has been changed (:mod:`outbox_relay.left_out`),
and of those on no topic a rule says which are published (:mod:`outbox_relay.initial`).

The same thread checks whether the publication still covers the table, and measures the relay's lag.
"""

import sqlite3
import threading
import time
from contextlib import closing
from types import TracebackType
from typing import Any

import psycopg
from psycopg import sql

from broker.security import KafkaSettingsError
from outbox_relay import covering, initial
from outbox_relay.batches import READ_BYTES, rows_in_order
from outbox_relay.dead import dead_since
from outbox_relay.errors import PublishError, RelayError, StopRequestedError, TopicError, UnpublishableError
from outbox_relay.handled import Chunk, ChunkDumper, Handled
from outbox_relay.identity import contents, key_in_table
from outbox_relay.marking import Marking
from outbox_relay.marks import LEFT
from outbox_relay.measures import measure
from outbox_relay.names import one_line
from outbox_relay.position import Origin
from outbox_relay.published import Published
from outbox_relay.removal import may_vacuum, vacuum
from outbox_relay.removing import Removing
from outbox_relay.replication import connect
from outbox_relay.row import Leftover, OutboxRow
from outbox_relay.source import Source
from outbox_relay.table import Table, current_lsn, flush, oldest_us

CLEAN_INTERVAL_S = 1.0
# How often table, publication and slot are looked at, and rows are looked for that did not come.
LOOK_INTERVAL_S = 5.0
AGAIN_AFTER_S = 5.0
# Where the database is away, the source reports it sooner; the session may go on where only others cannot connect.
AWAY_S_MAX = 15.0
TURN_S = 0.1
# How long a snapshot is held while the relay is behind; a longer one would keep dead rows of the whole database.
CAUGHT_UP_WAIT_S = 1.0
CAUGHT_UP_LOOK_S = 0.02
# Where rows could not be removed, it is tried again after so long.
REMOVE_AGAIN_S = 600.0
# In one transaction: large enough to keep up with any load the relay can carry, small enough to be over soon.
# Without an index each one reads the whole table.
DELETE_ROWS = 50_000
# Catching up comes before cleaning, until so many rows could be removed.
BEHIND_ROWS_MAX = 1_000_000
# Looked at in one query for rows that did not come; handed over at a time.
SUSPECT_ROWS = 1_000
HAND_OVER_ROWS = 5_000
# How long their acknowledgement is waited for, with the snapshot held.
HAND_OVER_WAIT_S = 30.0
# Space is reused once it is vacuumed. Autovacuum does that too, but visits a database only once a minute.
VACUUM_ROWS = 50_000
# Another session's lock on the table takes precedence over cleaning.
LOCK_WAIT = "5s"

_SUSPECTS = "SELECT {key} FROM {table} WHERE {condition} LIMIT %s"


class Cleaner:
    """Removes published rows while a source reads; a context manager with a thread of its own.

    Args:
        source: which reads; what it has handled is removed, its gauges are filled in.
        table: its outbox.
        origin: its database.
    """

    def __init__(self, source: Source, table: Table, origin: Origin) -> None:
        self._source = source
        self._table = table
        self._outbox = table.outbox
        self._origin = origin
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"cleaner-{source.name}", daemon=True)
        self._key = key_in_table(table.columns)
        # By UUIDs an index may help.
        key, kind = (table.outbox.sql("{id}"), "uuid") if table.has_uuids else (self._key, "bytea")
        self._removing = Removing(source, table, key, sql.SQL(kind), REMOVE_AGAIN_S)
        self._marking = Marking(source, table, key, sql.SQL(kind))
        self._handed: dict[bytes, bytes] = {}
        self._looked_at = self._snapshot_at = 0.0
        self._away_since: float | None = None
        self._is_behind = False
        self._rule: initial.Rule | None = None
        self._waits: str | None = None

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._source.cleaning.acquire(timeout=TURN_S):  # the last session's may be at work still
                try:
                    if self._source.control.orders.skips:  # which may be of rows that the search is to find
                        self._source.left_out.end_rest()
                    self._clean()
                finally:
                    self._source.cleaning.release()

    def _clean(self) -> None:
        while not self._stop.is_set():
            try:
                self._gather()  # what waited meanwhile is to take little memory
                with closing(connect(self._source.dsn, replication=False)) as connection:
                    connection.adapters.register_dumper(Chunk, ChunkDumper)
                    connection.execute(f"SET lock_timeout = '{LOCK_WAIT}'".encode())
                    self._work(connection)
            except StopRequestedError:
                return
            except (RelayError, KafkaSettingsError) as error:
                self._source.find_gap(str(error))
            except psycopg.OperationalError as error:
                self._away_since = self._away_since or time.monotonic()
                if time.monotonic() - self._away_since > AWAY_S_MAX:
                    self._source.find_gap(f"the outbox cannot be looked after: {one_line(error)}")
            except (psycopg.Error, sqlite3.Error) as error:
                self._source.find_gap(f"the outbox cannot be looked after: {one_line(error)}")
            except Exception as error:
                self._source.find_gap(f"a bug in the relay: {one_line(error)}", exc_info=True)
            self._stop.wait(AGAIN_AFTER_S)

    def _work(self, connection: psycopg.Connection[Any]) -> None:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        source, removing = self._source, self._removing
        removing.begin(connection)
        self._marking.begin(connection, is_asked_for=not removing.is_on)
        vacuums = removing.is_on and may_vacuum(connection, self._outbox)
        while not (self._stop.is_set() or removing.is_due):
            self._remove(connection)
            if time.monotonic() - self._looked_at > LOOK_INTERVAL_S:
                measure(connection, self._outbox, source.gauges)
                covering.look(source, connection, self._table, self._waits, keeps=source.keeps_rows)
                if self._look_for_leftovers(connection):
                    source.has_looked(keeps_rows=source.keeps_rows)
                self._looked_at, self._away_since = time.monotonic(), None
            if self._is_behind:
                flush(connection)
                self._is_behind = False
            if vacuums and removing.unvacuumed >= VACUUM_ROWS:
                vacuum(connection, self._outbox)
                removing.unvacuumed = 0
            self._stop.wait(CLEAN_INTERVAL_S)

    # Rows that are published.

    def _remove(self, connection: psycopg.Connection[Any]) -> None:
        """Remove the rows that are known to be published, or mark them; while the relay is behind, only many."""
        while self._marking.left and not self._stop.is_set():
            self._marking.mark_left(connection)
        handled = self._gather()
        for chunk in handled.chunks:
            if not (self._removing.is_on or self._marking.is_on):
                handled.drop(chunk)
            elif self._stop.is_set() or not (
                len(handled) > BEHIND_ROWS_MAX or self._is_published(current_lsn(connection))
            ):
                return
            elif self._removing.is_on:
                self._removing.remove(connection, chunk)
            else:
                self._marking.mark(connection, chunk)

    def _is_published(self, lsn: int) -> bool:
        """Wait a little for everything before ``lsn`` to be acknowledged."""
        give_up = time.monotonic() + CAUGHT_UP_WAIT_S
        while self._source.acks.confirmed_lsn < lsn:
            if self._stop.is_set() or time.monotonic() > give_up:
                self._is_behind = True
                return False
            time.sleep(CAUGHT_UP_LOOK_S)
        return True

    # Rows that the stream did not bring.

    def _look_for_leftovers(self, connection: psycopg.Connection[Any]) -> bool:
        """Find rows that the stream missed; have those published that are on no topic.

        Returns:
            False while the relay is behind: missed rows cannot be determined then.
        """
        if self._table.is_marked and self._removing.is_on:
            self._removing.remove_marked(connection, DELETE_ROWS)
        keeps, left_out = self._source.keeps_rows, self._source.left_out
        self._gather()
        self._snapshot_at = time.monotonic()
        for digest, at in list(self._source.quarantined.items()):
            if at < self._snapshot_at:  # this snapshot shows it
                del self._source.quarantined[digest]
        if keeps and not left_out.is_due(connection):
            return not left_out.rests
        with connection.transaction():
            # Its first statement is what the snapshot is taken for.
            if self._handed or not self._is_published(current_lsn(connection)):
                return False
            if (not keeps or self._marking.is_on) and not self._has_suspects(connection, keeps=keeps):
                self._waits = None
                self._removing.end_keeping()
                if keeps:
                    left_out.searched(is_complete=True)
                return True
            self._source.expects_leftovers, is_complete = True, False
            try:
                is_complete = self._search(connection)
            except StopRequestedError:
                keeps = False  # the next session searches at once
                raise
            except Exception as error:
                self._waits = one_line(error)
                raise
            finally:
                self._source.expects_leftovers = False
                if keeps:
                    left_out.searched(is_complete=is_complete)
        return True

    def _has_suspects(self, connection: psycopg.Connection[Any], *, keeps: bool) -> bool:
        """Whether this transaction's snapshot shows a row that the log went past, and that was not handled."""
        query = self._outbox.sql(_SUSPECTS, key=self._key, condition=self._table.unpublished)
        found = [key for (key,) in connection.execute(query, (SUSPECT_ROWS,), binary=True)]
        if keeps and len(found) == SUSPECT_ROWS:
            return True  # maybe: who keeps rows does not look again
        return bool(found) and bool(set(found).difference(self._gather().keys()))

    def _search(self, connection: psycopg.Connection[Any]) -> bool:
        """Sort out the missed rows that are on their topics already, and hand over the others.

        Rows of a topic that does not exist wait for it without blocking others: their order is lost anyway.

        Returns:
            Whether none waits.
        """
        source, handled, table = self._source, self._gather(), self._table
        self._rule = None
        known, key_of = set(handled.keys()), table.key
        dead = {digest for _, digest in dead_since(connection, 0, self._outbox)}
        with closing(source.published(table, self._origin, self._raise_if_stopped)) as topics:
            topics.look_back_to(oldest_us(connection, table, table.unpublished))
            on_topic: list[bytes | None] = []
            missing: list[Leftover] = []
            missing_bytes = 0
            without_topic: dict[bytes | None, str] = {}
            for row, created_us in rows_in_order(connection, table):
                # What is to be skipped needs no topic: who publishes it takes it out.
                is_asked_for = row.id in source.control.orders.skips
                if (key := key_of(row)) in known or (row.aggregate_type in without_topic and not is_asked_for):
                    continue
                if source.quarantined and source.quarantined.get(contents(row), 0.0) > self._snapshot_at:
                    continue  # since the snapshot
                if dead and contents(row) in dead:
                    if self._removing.is_on:
                        self._removing.remove_dead(connection, row)
                    continue
                try:
                    is_on_topic = _is_on_topic(topics, row, created_us)
                except TopicError as error:
                    if not is_asked_for:
                        without_topic[row.aggregate_type] = str(error)
                        continue
                    is_on_topic = False
                if not is_on_topic:
                    missing.append(Leftover(row, created_us))
                    missing_bytes += len(row.payload or b"")
                elif self._removing.is_on or self._marking.is_on:
                    on_topic.append(key)
                if len(on_topic) >= HAND_OVER_ROWS:
                    handled.add(on_topic)
                    on_topic = []
                if len(missing) >= HAND_OVER_ROWS or missing_bytes >= READ_BYTES:
                    self._hand_over(self._to_publish(connection, missing))
                    missing, missing_bytes = [], 0
            handled.add(on_topic)
            self._hand_over(self._to_publish(connection, missing))
        rule = self._rule
        if not without_topic and (rule is None or not (rule.unwanted or rule.skipped or rule.undecided)):
            self._removing.end_keeping()
        if source.left_out.is_for_marks:
            without_topic.clear()  # the log brings what is to be published
        self._waits = f"rows wait: {'; '.join(without_topic.values())}" if without_topic else None
        if self._waits:
            source.find_gap(self._waits)
        if rule is not None:
            initial.tell(rule, source.warn, LEFT if self._marking.is_on else ", and stay in the table")
        return self._waits is None

    def _to_publish(self, connection: psycopg.Connection[Any], missing: list[Leftover]) -> list[Leftover]:
        """Those of the missed rows that are to be published: all, if rows can be removed once they are.

        Where a setting, a trigger or a foreign key keeps rows in the table, or did, they may have been published
        long ago, and their records have left the topics since: then the rule for such tables decides.

        Raises:
            SetupError: it cannot be determined which are to be published.
            TableBusyError: others hold these rows.
        """
        source = self._source
        # As they were before a removal that is refused has noted something else.
        since_us, for_marks = source.left_out.since_us or self._origin.now_us, source.left_out.is_for_marks
        if not (missing and self._removing.rows_stay(connection, missing)):
            return missing
        if self._rule is None:
            if for_marks:  # the log brings what was written since the session began
                since_us = max(since_us, self._origin.now_us)
            settings, meanwhile = source.settings, self._raise_if_stopped
            self._rule = initial.rule(settings, since_us, keeps=True, for_marks=for_marks, meanwhile=meanwhile)
        rule, skips = self._rule, source.control.orders.skips
        wanted = [one for one in missing if one.row.id in skips or rule.wants(one.row, one.created_us or None)]
        ids = {id(one) for one in wanted}
        self._marking.leave([one for one in missing if id(one) not in ids], is_final=rule.is_final)
        return wanted

    def _hand_over(self, missing: list[Leftover]) -> None:
        """Hand rows to the source for publication, and wait until they are acknowledged.

        Raises:
            PublishError: they are not acknowledged in time.
        """
        if not missing:
            return
        self._raise_if_stopped()  # the next session's rows would be doubled
        for one in missing:
            if (key := self._table.key(one.row)) is not None:
                self._handed[key] = contents(one.row)
        self._source.take_leftovers(missing)
        give_up = time.monotonic() + HAND_OVER_WAIT_S
        while self._handed:
            self._raise_if_stopped()
            if time.monotonic() > give_up:
                raise PublishError("Kafka does not acknowledge rows that the stream did not bring; waiting for it")
            time.sleep(CAUGHT_UP_LOOK_S)
            self._gather()

    def _gather(self) -> Handled:
        """Collect the keys handled since the last call."""
        handled = self._source.handled
        if handled.gather(DELETE_ROWS) and self._marking.is_on and not self._removing.is_on:
            self._source.left_out.note(for_marks=True)
        if self._handed:
            for key in handled.keys():  # noqa: SIM118 - no mapping
                self._handed.pop(key, None)
            if dead := self._source.quarantined:
                self._handed = {key: row for key, row in self._handed.items() if row not in dead}
        return handled

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise StopRequestedError("stopped while rows were looked for that the stream did not bring")

    def __enter__(self) -> "Cleaner":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(AGAIN_AFTER_S)


def _is_on_topic(topics: Published, row: OutboxRow, created_us: int) -> bool:
    try:
        return topics.holds(row, created_us, 0)
    except UnpublishableError:
        return False  # the source finds that out too, and quarantines it
