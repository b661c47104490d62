"""Rows of the outbox in their order, of which only so many bytes are in memory at a time."""

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from psycopg import sql

from outbox_relay.columns import as_bytes, octets
from outbox_relay.places import PLACE
from outbox_relay.row import OutboxRow
from outbox_relay.table import Connection, Table, order_of, row_of, select_rows

READ_BYTES = 8 * 1024 * 1024
"""Of contents, read at a time; one row may have more."""
READ_PLACES = 5_000

Found = Sequence[Any]
"""Of a row: partition, place within it, bytes, ID."""


def select_places(table: Table, order: sql.Composable, condition: sql.Composable) -> sql.Composed:
    """A query for where rows lie (see :data:`Found`), which reads no contents."""
    return table.outbox.sql(
        "SELECT {places}, {octets}, {id_as_bytes} FROM {table} WHERE {condition} ORDER BY {order}",
        places=sql.SQL(", ").join(PLACE),
        octets=octets(table.outbox.parts, table.columns),
        id_as_bytes=as_bytes("id", table.columns),
        condition=condition,
        order=order,
    )


def rows_at(
    connection: Connection, table: Table, found: Sequence[Found], *, also: tuple[sql.Composable, ...] = ()
) -> Iterator[list[Any]]:
    """Rows by where they lie, in the order given, :data:`READ_BYTES` at a time; without those that are gone.

    Yields:
        Of each what :func:`select_rows` selects and ``also``, its partition, and its place there.
    """
    begin = 0
    while begin < len(found):
        end, left = begin, READ_BYTES
        by_partition = defaultdict(list)
        while end < len(found) and left > 0:
            partition, place, size, *_ = found[end]
            by_partition[partition].append(place)
            end, left = end + 1, left - size
        rows = {}
        for partition, places in by_partition.items():
            there = sql.SQL("tableoid = {}::oid AND ctid = ANY({}::tid[])").format(partition, places)
            query = select_rows(table, sql.SQL("ctid"), there, also=(*also, *PLACE))
            for values in connection.execute(query, binary=True):
                rows[values[-2], values[-1]] = values
        for partition, place, *_ in found[begin:end]:
            if (row := rows.pop((partition, place), None)) is not None:
                yield row
        begin = end


def read_in_order(
    connection: Connection, table: Table, condition: sql.Composable, *, also: tuple[sql.Composable, ...] = ()
) -> Generator[list[Any]]:
    """Rows in a transaction's snapshot, in their order; between two reads the server waits for nobody.

    Args:
        connection: in a transaction that shows one snapshot to all of its queries.
        table: the outbox.
        condition: SQL for which rows.
        also: further columns.

    Yields:
        Of each what :func:`rows_at` does.
    """
    query = select_places(table, order_of(connection, table), condition)
    with connection.cursor(name="places") as cursor:
        cursor.execute(query, binary=True)
        while found := cursor.fetchmany(READ_PLACES):
            yield from rows_at(connection, table, found, also=also)


def rows_in_order(connection: Connection, table: Table) -> Iterator[tuple[OutboxRow, int]]:
    """The unpublished rows in a transaction's snapshot, and when they were written (microseconds; 0: unknown)."""
    for *values, created_us, _partition, _place in read_in_order(connection, table, table.unpublished):
        yield row_of(values), created_us or 0


def streamed(connection: Connection, query: sql.Composable, types: Sequence[str]) -> Generator[tuple[Any, ...]]:
    """What a query gives, row by row; the connection is in use until the iterator has ended or is closed.

    Args:
        connection: one that speaks the replication protocol, as the server ends others that read slowly.
        query: without parameters.
        types: of its columns.
    """
    with connection.cursor().copy(sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)) as copy:
        copy.set_types(types)
        yield from copy.rows()
