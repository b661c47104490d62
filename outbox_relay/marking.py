"""The marks of published rows that stay in the table, set beside the log for whoever polls after its reader."""

from collections import deque
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql

from outbox_relay.handled import KEYS_MAX, LOOKS_MAX, Chunk
from outbox_relay.outbox import Outbox
from outbox_relay.removal import refusal
from outbox_relay.row import Leftover
from outbox_relay.source import Source
from outbox_relay.table import Connection, Table, scalar

# In the words of the index on rows without a mark: others may be all that a table has ever had.
_MARK = """
    UPDATE {table} SET {published_at} = now()
    WHERE {key} = ANY(%s::{type_of_key}[]) AND {published_at} IS NULL
"""
# What is acknowledged is published, also if it was left before.
_MARK_LEFT = """
    UPDATE {table} SET {published_at} = now()
    WHERE {key} = ANY(%s::{type_of_key}[]) AND NOT isfinite({published_at})
"""
_LEAVE = """
    UPDATE {table} SET {published_at} = 'infinity'
    WHERE {key} = ANY(%s::{type_of_key}[]) AND {published_at} IS NULL
"""
_MARKED = "SELECT FROM {table} WHERE {key} = ANY(%s::{type_of_key}[]) AND isfinite({published_at})"
_MAY_MARK = "SELECT has_column_privilege({name}, {column}, 'UPDATE')"


def may_mark(connection: Connection, table: Table) -> bool:
    """Whether the table has marks, and the role may set them."""
    column = sql.Literal(table.outbox.columns.published_at)
    return table.is_marked and bool(scalar(connection, table.outbox.sql(_MAY_MARK, column=column)))


class Marking:
    """Sets the marks of rows that are known to be published, and of those that nobody can decide on.

    Args:
        source: which reads the log.
        table: its outbox.
        key, type_of_key: SQL for the key of a row, and for its type.

    Attributes:
        is_on: whether it does.
        left: the keys of rows that are to be left.
    """

    def __init__(self, source: Source, table: Table, key: sql.Composable, type_of_key: sql.SQL) -> None:
        self.is_on = False
        self.left: deque[Chunk] = deque()
        self._source = source
        self._table = table
        self._outbox: Outbox = table.outbox
        self._mark, self._mark_left, self._leave, self._marked = (
            self._outbox.sql(query, key=key, type_of_key=type_of_key)
            for query in (_MARK, _MARK_LEFT, _LEAVE, _MARKED)
        )

    def begin(self, connection: psycopg.Connection[Any], *, is_asked_for: bool) -> None:
        """Find out whether there are marks to be set; where that is asked for, say so if the role may not."""
        self.is_on = may_mark(connection, self._table)
        if is_asked_for and self._table.is_marked and not self.is_on:
            role, column = connection.info.user, self._outbox.columns.published_at
            self._say_none(f"{role} may not UPDATE {column}")

    def mark(self, connection: psycopg.Connection[Any], chunk: Chunk) -> None:
        """Mark the rows of a chunk; those that are not seen yet once more, with the next call."""
        try:
            chunk.missing -= connection.execute(self._mark, (chunk,), prepare=False).rowcount
            chunk.looks += 1
            if chunk.missing > 0 and chunk.looks == LOOKS_MAX:  # or they had a mark before
                connection.execute(self._mark_left, (chunk,), prepare=False)
                chunk.missing = len(chunk) - connection.execute(self._marked, (chunk,), prepare=False).rowcount
        except psycopg.Error as error:
            self._give_up(error)
            return
        if chunk.missing <= 0 or chunk.looks == LOOKS_MAX:
            self._source.handled.drop(chunk)
            if chunk.missing > 0:
                self._source.left_out.note(for_marks=True)

    def leave(self, rows: Iterable[Leftover], *, is_final: bool) -> None:
        """Have rows that are not to be published looked for no more.

        Args:
            rows: which.
            is_final: whether they count as published; else nobody knows, and a person may have them published.
        """
        keys = [key for one in rows if (key := self._table.key(one.row)) is not None]
        if not (self.is_on and keys):
            return
        if is_final:
            self._source.handled.add(keys)
        elif sum(map(len, self.left)) < KEYS_MAX:
            self.left.append(self._source.handled.chunk(keys))
        else:
            self._source.left_out.note(for_marks=True)  # the next search finds them

    def mark_left(self, connection: psycopg.Connection[Any]) -> None:
        """Mark the first of the rows that are left.

        Args:
            connection: in no transaction: others who change these rows must not undo what a long one has found.
        """
        try:
            connection.execute(self._leave, (self.left[0],), prepare=False)
        except psycopg.Error as error:
            self._give_up(error)
        else:
            self.left.popleft()

    def _give_up(self, error: psycopg.Error) -> None:
        self._say_none(refusal(error))
        self.is_on = False
        self.left.clear()

    def _say_none(self, why: str) -> None:
        self._source.warn_once(
            f"published rows in {self._outbox.label} get no mark, so that a poller may publish them again once "
            f"their topics have forgotten them: {why}"
        )
