"""The columns of an outbox: their types, validation, and conversion to the bytes of a record."""

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from outbox_relay.errors import OutboxMissingError, SetupError
from outbox_relay.pgoutput import BYTEA, COLUMNS, COLUMNS_REQUIRED

Columns = Mapping[str, str]
"""The type of each column by its name: what ``pg_type`` calls it, ``enum``, or for a domain the type under it."""

# What is written in one way only, whatever a session is set to (a timestamp or a float is not).
_TEXTS = frozenset(("text", "varchar", "bpchar", "name", "citext", "enum"))
_NAMES = _TEXTS | {"uuid", "int2", "int4", "int8", "numeric"}
_PAYLOADS = _TEXTS | {"json", "jsonb", "bytea"}
_ONES_THAT_CAN = {
    "payload": "json, jsonb, text, varchar or bytea",
    "": "text, varchar, an enum, uuid, a type of integers or numeric",
}

_COLUMNS = """
    WITH RECURSIVE types AS (
        SELECT attname::text AS name, format_type(atttypid, atttypmod) AS declared, atttypid AS type
        FROM pg_attribute
        WHERE attrelid = to_regclass('public.outbox') AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT name, declared, typbasetype FROM types JOIN pg_type ON oid = type AND typtype = 'd'
    )
    SELECT name, declared, CASE typtype WHEN 'e' THEN 'enum' ELSE typname::text END
    FROM types JOIN pg_type ON oid = type AND typtype <> 'd'
"""
_BYTEA_TYPES = f"""
    WITH RECURSIVE types AS (
        SELECT {BYTEA}::oid AS type
        UNION ALL
        SELECT oid FROM types JOIN pg_type ON typbasetype = type AND typtype = 'd'
    )
    SELECT type::int8 FROM types
"""  # noqa: S608 made of constants


def find_columns(connection: psycopg.Connection[Any]) -> Columns:
    """Which columns the outbox has; works on a replication connection too.

    Raises:
        OutboxMissingError: no table ``public.outbox`` (yet).
        SetupError: a column that every record needs is missing, or one is of a type that makes no record.
    """
    found = connection.execute(_COLUMNS.encode()).fetchall()
    if not found:
        raise OutboxMissingError("there is no table public.outbox yet; waiting for the service's migration")
    columns = {name: kind for name, _, kind in found}
    if missing := [name for name in COLUMNS[:COLUMNS_REQUIRED] if name not in columns]:
        raise SetupError(f"the outbox has no column {', '.join(missing)}")
    for name, declared, kind in sorted(found):
        if name in COLUMNS and kind not in (_PAYLOADS if name == "payload" else _NAMES):
            can = _ONES_THAT_CAN.get(name, _ONES_THAT_CAN[""])
            raise SetupError(
                f"public.outbox.{name} is of type {declared}, of which no record can be made; it may be {can}"
            )
    return columns


def bytea_types(connection: psycopg.Connection[Any]) -> frozenset[int]:
    """The OIDs of ``bytea`` and of all domains over it."""
    return frozenset(oid for (oid,) in connection.execute(_BYTEA_TYPES.encode()))


def as_bytes(name: str, columns: Columns) -> sql.Composable:
    """SQL for the bytes that the log gives of a column: its own, or its text in the session's encoding."""
    column, kind = sql.Identifier(name), columns.get(name)
    if kind is None:
        return sql.SQL("NULL::bytea")
    if kind == "bytea":
        return column
    if kind == "bpchar":  # a cast would take the blanks off that the log has
        return sql.SQL("textsend(textin(bpcharout({})))").format(column)
    return sql.SQL("textsend({}::text)").format(column)


def is_row(columns: Columns) -> sql.Composable:
    """A condition for the row that holds the five values given, as bytes; IDs need not be unique."""
    return sql.SQL("ROW({}) IS NOT DISTINCT FROM ROW({})").format(
        sql.SQL(", ").join(as_bytes(name, columns) for name in COLUMNS[:COLUMNS_REQUIRED]),
        sql.SQL(", ").join([sql.SQL("%s::bytea")] * COLUMNS_REQUIRED),
    )
