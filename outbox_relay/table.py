"""What does the outbox look like, and what is in it? Whatever is asked of the table itself, but not of its log."""

from typing import Any

import psycopg
from psycopg import sql

from outbox_relay.columns import Columns, as_bytes
from outbox_relay.pgoutput import COLUMNS
from outbox_relay.position import Origin, parse_lsn, tag

Connection = psycopg.Connection[Any]

_ORIGIN = """
    SELECT c.system_identifier::text, d.oid::int8, (extract(epoch FROM clock_timestamp()) * 1000000)::int8
    FROM pg_control_system() AS c, pg_database AS d WHERE d.datname = current_database()
"""
_MAY_DELETE = "SELECT has_table_privilege('public.outbox', 'DELETE')"
_CURRENT_LSN = "SELECT pg_current_wal_insert_lsn()::text"
# Commit order is not on record in the table. UUIDs of version 7 follow the insert even where the transaction that
# started first inserted last; with random IDs the start of the transaction is the best there is.
_ID_IF_ORDERED = "CASE WHEN substr(id::text, 15, 1) = '7' THEN id::text COLLATE \"C\" END NULLS FIRST"
_OLDEST = "SELECT (extract(epoch FROM min(created_at)) * 1000000)::int8 FROM public.outbox"


ALL_ROWS = sql.SQL("true")


def find_origin(connection: Connection) -> Origin:
    """Which database this is, and that nothing is known to be confirmed."""
    system_identifier, oid, now_us = _one(connection, _ORIGIN)
    return Origin(tag(system_identifier, oid), 0, now_us)


def current_lsn(connection: Connection) -> int:
    """Where the database's log ends now."""
    return parse_lsn(scalar(connection, _CURRENT_LSN))


def select_rows(
    columns: Columns, condition: sql.Composable = ALL_ROWS, *, also: sql.Composable | None = None
) -> sql.Composed:
    """A query for rows in the order of insertion; it gives the columns of ``OutboxRow`` as bytes, and ``also``."""
    fields = [as_bytes(name, columns) for name in COLUMNS] + ([also] if also is not None else [])
    order = [sql.SQL(_ID_IF_ORDERED), sql.SQL("created_at"), sql.SQL("id")]
    if "created_at" not in columns:
        del order[1]
    return sql.SQL("SELECT {} FROM public.outbox WHERE {} ORDER BY {}").format(
        sql.SQL(", ").join(fields), condition, sql.SQL(", ").join(order)
    )


def oldest_us(connection: Connection, columns: Columns) -> int:
    """When the oldest row was written, microseconds since the Unix epoch; 0 without rows, or if nobody knows."""
    return (scalar(connection, _OLDEST) or 0) if "created_at" in columns else 0


def scalar(connection: Connection, query: str, *values: str) -> Any:
    """The first column of a query's only row; None without a row."""
    row = connection.execute(query.encode(), values or None).fetchone()
    return row[0] if row else None


def may_delete(connection: Connection) -> bool:
    """Whether the role may take rows out of the outbox."""
    return bool(scalar(connection, _MAY_DELETE))


def _one(connection: Connection, query: str) -> Any:
    return connection.execute(query.encode()).fetchone()
