"""The removal of published rows beside the log, for as long as the table lets them go."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from outbox_relay.handled import LOOKS_MAX, Chunk
from outbox_relay.outbox import Outbox
from outbox_relay.removal import (
    IGNORED,
    has_marked,
    refusal,
    remove_dead,
    remove_marked,
    rows_stay,
    why_rows_stay,
)
from outbox_relay.row import Leftover, OutboxRow
from outbox_relay.source import Source
from outbox_relay.table import Table, may_delete

_DELETE = "DELETE FROM {table} WHERE {key} = ANY(%s::{type_of_key}[])"
_SEE = "SELECT FROM {table} WHERE {key} = ANY(%s::{type_of_key}[]) LIMIT 1"


class Removing:
    """Removes rows that are known to be published, until one cannot be; after a pause, it tries again.

    Once one could not be, rows that are there may have been published long ago (``source.keeps_rows``), also when
    rows can be removed again: until a search has decided on all that are left.

    Args:
        source: which reads the log.
        table: its outbox.
        key, type_of_key: SQL for the key of a row, and for its type.
        pause_s: how long the pause is, seconds.

    Attributes:
        is_on: whether it does.
        unvacuumed: how many rows it has removed since that was set to 0.
    """

    def __init__(
        self, source: Source, table: Table, key: sql.Composable, type_of_key: sql.SQL, pause_s: float
    ) -> None:
        self.is_on = False
        self.unvacuumed = 0
        self._source = source
        self._table = table
        self._outbox: Outbox = table.outbox
        self._pause_s = pause_s
        self._delete, self._see = (
            self._outbox.sql(query, key=key, type_of_key=type_of_key) for query in (_DELETE, _SEE)
        )
        self._may_remove = False
        if source.keeps_rows and not source.kept_until:  # what was found out otherwise is not tried again at once
            source.kept_until = time.monotonic() + pause_s

    def begin(self, connection: psycopg.Connection[Any]) -> None:
        """Find out whether rows may be removed, and whether the pause is over."""
        source = self._source
        self._may_remove = source.settings.cleanup and may_delete(connection, self._outbox)
        if not self._may_remove:
            self._count_as_kept()
            if source.settings.cleanup:
                role = connection.info.user
                source.say(f"{role} may not DELETE from {self._outbox.label}: published rows stay there")  # noqa: S608 no query
        self.is_on = self._may_remove and time.monotonic() >= source.kept_until
        if self.is_on and source.keeps_rows:  # what stayed, and is on its topic, may go by now
            source.left_out.note(for_marks=True)

    @property
    def is_due(self) -> bool:
        """Whether the pause is over."""
        return self._may_remove and not self.is_on and time.monotonic() >= self._source.kept_until

    def remove(self, connection: psycopg.Connection[Any], chunk: Chunk) -> None:
        """Remove the rows of a chunk; those that are not seen yet with a later call."""
        with self._unless_refused():
            # Planned for these IDs: as a constant they are looked up in a hash table.
            removed = connection.execute(self._delete, (chunk,), prepare=False).rowcount
            self._count(removed)
            chunk.missing -= removed
            chunk.looks += 1
            are_missing, is_last = chunk.missing > 0, chunk.looks == LOOKS_MAX
            if are_missing and is_last and connection.execute(self._see, (chunk,), prepare=False).rowcount:
                self._keep_rows(IGNORED)
                chunk.looks = 0  # they may be marked instead
            elif is_last or not are_missing:
                self._source.handled.drop(chunk)

    def remove_marked(self, connection: psycopg.Connection[Any], rows_max: int) -> None:
        """Remove the rows that are marked as published, so many in a statement."""
        with self._unless_refused():
            while has_marked(connection, self._outbox):
                removed = remove_marked(connection, self._outbox, rows_max)
                self._count(removed)
                if not removed:  # unless somebody else was first
                    if has_marked(connection, self._outbox):
                        self._keep_rows(IGNORED)
                    return

    def remove_dead(self, connection: psycopg.Connection[Any], row: OutboxRow) -> None:
        """Remove a row that is quarantined; if it cannot be, that says nothing of others.

        Raises:
            psycopg.OperationalError: the database is away, or somebody holds the row.
        """
        try:
            with connection.transaction():
                self._count(remove_dead(connection, self._table, row))
        except psycopg.errors.SerializationFailure:
            pass  # somebody else has removed it since the snapshot
        except psycopg.Error as error:
            self._source.warn_once(f"a row that is quarantined stays in {self._outbox.label}: {refusal(error)}")

    def rows_stay(self, connection: psycopg.Connection[Any], rows: Sequence[Leftover]) -> bool:
        """Whether rows that are there may be published; tried out with the oldest and newest, and with some.

        Args:
            connection: in a transaction whose snapshot shows the rows.
            rows: those that would be published.

        Raises:
            TableBusyError: others hold the rows, so that it is not known now.
        """
        if not self._source.keeps_rows:
            if rows_stay(connection, self._table, cleanup=self._may_remove, refused=self._keep_rows):
                self._count_as_kept()
            elif (why := self._why_rows_stay(connection, rows)) is not None:
                self._keep_rows(why)
        return self._source.keeps_rows

    def end_keeping(self) -> None:
        """Whatever had stayed in the table has been decided on: what is there now is not published."""
        if self.is_on:
            self._source.keeps_rows = False

    def _why_rows_stay(self, connection: psycopg.Connection[Any], rows: Sequence[Leftover]) -> str | None:
        keys = {key for one in rows if (key := self._table.key(one.row)) is not None}
        if not keys:
            return None
        chunk = self._source.handled.chunk(list(keys))

        def remove() -> int:
            return connection.execute(self._delete, (chunk,), prepare=False).rowcount

        return why_rows_stay(connection, self._outbox, remove, len(keys))

    @contextmanager
    def _unless_refused(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            self._keep_rows(refusal(error))

    def _keep_rows(self, why: str) -> None:
        self.is_on = False
        self._source.kept_until = time.monotonic() + self._pause_s
        self._count_as_kept()
        self._source.warn_once(f"published rows stay in {self._outbox.label}: {why}")

    def _count_as_kept(self) -> None:
        if not self._source.keeps_rows:
            self._source.keeps_rows = True
            self._source.left_out.note()  # until now, whatever was there was looked for

    def _count(self, removed: int) -> None:
        self._source.removed_rows += removed
        self.unvacuumed += removed
