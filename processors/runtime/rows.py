"""How do many rows get into a table? By one INSERT, or, where there are very many, by COPY.

Few rows go by an INSERT, which is pipelined with the other statements of its transaction. Many go by COPY,
which needs a round trip of its own but writes a page's rows as one record of the write-ahead log instead of one
each; and every record is read again by the relay's walsender of each database of the server.
"""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection
from psycopg.pq import PipelineStatus


class Rows:
    """The rows of a table, as one kind of statement writes them.

    Args:
        table: its name.
        columns: name and PostgreSQL type of each column, in the order of a row's values. JSON is given as text.
    """

    def __init__(self, table: str, /, **columns: str) -> None:
        names = ", ".join(f'"{name}"' for name in columns)
        arrays = ", ".join(f"%b::{'text' if kind == 'json' else kind}[]" for kind in columns.values())
        values = ", ".join(f'"{name}"::json' if kind == "json" else f'"{name}"' for name, kind in columns.items())
        self._insert = f"INSERT INTO {table} ({names}) SELECT {values} FROM unnest({arrays}) AS n ({names})"
        self._copy = f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)"
        self._types = list(columns.values())

    async def insert(self, connection: AsyncConnection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows that are not there yet.

        Raises:
            psycopg.errors.UniqueViolation: one is there already.
        """
        if not rows:
            return
        if connection.pgconn.pipeline_status != PipelineStatus.OFF:
            await connection.execute(self._insert, _columns(rows))
            return
        async with connection.cursor().copy(self._copy) as copy:
            copy.set_types(self._types)
            for row in rows:
                await copy.write_row(row)

    async def insert_missing(self, connection: AsyncConnection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert those of the rows that are not there yet."""
        if rows:
            await connection.execute(self._insert + " ON CONFLICT DO NOTHING", _columns(rows))


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
