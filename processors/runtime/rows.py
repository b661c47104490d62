"""Bulk writes of rows: few in one statement, many by COPY.

For few rows the number of statements is the cost: so a transaction writes all in one. Many rows go by COPY, which
needs a round trip of its own but writes a page's rows as one record of the write-ahead log instead of one each;
and every record is read again by the relay's walsender of each database of the server.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from psycopg.pq import PipelineStatus

Row = tuple[Any, ...]


class Write(NamedTuple):
    """A statement that writes rows, with a parameter for each of their columns: an array of its values."""

    statement: str
    rows: Sequence[Row]
    copy: str | None = None
    types: Sequence[str] = ()


class Rows:
    """The rows of a table, as one kind of statement writes them.

    Args:
        table: its name.
        columns: name and PostgreSQL type of each column, in the order of a row's values. JSON is given as text.
    """

    def __init__(self, table: str, /, **columns: str) -> None:
        names = ", ".join(f'"{name}"' for name in columns)
        # JSON travels as its text, in either format; its own type would take each value through Python.
        self._types = tuple("text" if kind == "json" else kind for kind in columns.values())
        arrays = ", ".join(f"%b::{kind}[]" for kind in self._types)
        values = ", ".join(f'"{name}"::json' if kind == "json" else f'"{name}"' for name, kind in columns.items())
        self._insert = f"INSERT INTO {table} ({names}) SELECT {values} FROM unnest({arrays}) AS n ({names})"  # noqa: S608 made of constants
        self._copy = f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)"

    def insert(self, rows: Sequence[Row]) -> Write:
        """Rows that are not there yet: one that is raises ``psycopg.errors.UniqueViolation``."""
        return Write(self._insert, rows, self._copy, self._types)

    def insert_missing(self, rows: Sequence[Row]) -> Write:
        """Those of the rows that are not there yet."""
        return Write(self._insert + " ON CONFLICT DO NOTHING", rows)


async def write_rows(connection: AsyncConnection, *writes: Write) -> None:
    """Write disjoint sets of rows; their order, and whether one write sees another's rows, is undefined.

    Raises:
        psycopg.Error: the database refused one of them. In pipeline mode this may only be raised at its end.
    """
    wanted = [one for one in writes if one.rows]
    if connection.pgconn.pipeline_status != PipelineStatus.OFF:
        if wanted:
            *others, last = (one.statement for one in wanted)
            also = ", ".join(f"w{number} AS ({statement})" for number, statement in enumerate(others))
            statement = f"WITH {also} {last}" if also else last
            await connection.execute(statement, [column for one in wanted for column in columns(one.rows)])
        return
    for one in wanted:
        if one.copy is None:
            await connection.execute(one.statement, columns(one.rows))
            continue
        async with connection.cursor().copy(one.copy) as copy:
            copy.set_types(one.types)
            # Not by the copy's own write_row: a coroutine for each row costs a third of its time.
            for data in map(copy.formatter.write_row, one.rows):
                if data:
                    await copy.write(data)


def columns(rows: Sequence[Row]) -> list[list[Any]]:
    """The values of each column."""
    return [list(column) for column in zip(*rows, strict=True)]
