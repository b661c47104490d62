"""Bulk writes of rows: few as one JSON document, many by COPY.

For few rows the number of statements, and of their parameters, is the cost: so a transaction writes all in one
statement, with one parameter for each table. (Three tables with a row each took 390 µs of a service's CPU with an
array for each column, and 215 as JSON; PostgreSQL's was the same.) Many rows go by COPY, which needs a round trip
of its own but writes a page's rows as one record of the write-ahead log instead of one each; and every record is
read again by the relay's walsender of each database of the server.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.pq import PipelineStatus

Row = tuple[Any, ...]


def columns(rows: Sequence[Row]) -> list[list[Any]]:
    """The values of each column."""
    return [list(column) for column in zip(*rows, strict=True)]


def uuid_array(ids: Iterable[UUID]) -> str:
    """IDs as the text of an array, for ``%t::uuid[]``: psycopg takes longer to make one of a list."""
    return f"{{{','.join(map(str, ids))}}}"


class Write(NamedTuple):
    """A statement that writes rows.

    Attributes:
        statement: with a placeholder for each of its parameters.
        rows: what it writes.
        parameters: makes those of the rows; as it is, an array for each of their columns.
        copy: a statement that does the same by COPY, for many rows, and
        types: of its columns.
        counted: it ends in ``RETURNING 1``, and a row that it does not find is a lost race. The statement itself
            ends the transaction then (``LOST_RACE_V1`` of the schema), so nobody waits for its answer to commit.
    """

    statement: str
    rows: Sequence[Row]
    parameters: Callable[[Sequence[Row]], list[Any]] = columns
    copy: str | None = None
    types: Sequence[str] = ()
    counted: bool = False


class Rows:
    """The rows of a table, as one kind of statement writes them.

    Args:
        table: its name.
        columns: name and PostgreSQL type of each column, in the order of a row's values. JSON is given as text.
    """

    def __init__(self, table: str, /, **columns: str) -> None:
        self._columns = tuple(columns)
        names = ", ".join(f'"{name}"' for name in columns)
        # JSON travels as its text, in either way; its own type would take each value through Python.
        types = {name: "text" if kind == "json" else kind for name, kind in columns.items()}
        self._types = tuple(types.values())
        record = ", ".join(f'"{name}" {kind}' for name, kind in types.items())
        values = ", ".join(f'"{name}"::json' if kind == "json" else f'"{name}"' for name, kind in columns.items())
        self._insert = (
            f"INSERT INTO {table} ({names}) SELECT {values} FROM json_to_recordset(%t::json) AS n ({record})"  # noqa: S608 made of constants
        )
        self._copy = f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)"

    def insert(self, rows: Sequence[Row]) -> Write:
        """Rows that are not there yet: one that is raises ``psycopg.errors.UniqueViolation``."""
        return Write(self._insert, rows, self._document, self._copy, self._types)

    def insert_missing(self, rows: Sequence[Row]) -> Write:
        """Those of the rows that are not there yet."""
        return Write(self._insert + " ON CONFLICT DO NOTHING", rows, self._document)

    def _document(self, rows: Sequence[Row]) -> list[str]:
        records = [dict(zip(self._columns, row, strict=True)) for row in rows]
        return [msgspec.json.encode(records).decode()]


async def write_rows(connection: AsyncConnection, *writes: Write) -> None:
    """Write disjoint sets of rows; their order, and whether one write sees another's rows, is undefined.

    Raises:
        psycopg.errors.SerializationFailure: a counted write has not found each of its rows.
        psycopg.Error: the database refused one of them. In pipeline mode either may only be raised at its end.
    """
    wanted = [one for one in writes if one.rows]
    if connection.pgconn.pipeline_status != PipelineStatus.OFF:
        if wanted:
            await connection.execute(*_together(wanted))
        return
    for one in wanted:
        if one.copy is None:
            await connection.execute(*_together([one]))
            continue
        async with connection.cursor().copy(one.copy) as copy:
            copy.set_types(one.types)
            # Not by the copy's own write_row: a coroutine for each row costs a third of its time.
            for data in map(copy.formatter.write_row, one.rows):
                if data:
                    await copy.write(data)


def _together(writes: Sequence[Write]) -> tuple[str, list[Any]]:
    """One statement for all, and its parameters."""
    statements = [one.statement for one in writes]
    values = [value for one in writes for value in one.parameters(one.rows)]
    counts = {f"w{number}": len(one.rows) for number, one in enumerate(writes) if one.counted}
    found = " AND ".join(f"(SELECT count(*) FROM {name}) = %b" for name in counts)  # noqa: S608 made of constants
    last = f"SELECT CASE WHEN NOT ({found}) THEN settle_lost_race() END" if counts else statements.pop()
    before = ", ".join(f"w{number} AS ({statement})" for number, statement in enumerate(statements))
    return f"WITH {before} {last}" if before else last, [*values, *counts.values()]
