"""The columns of an outbox: their types, validation, and conversion to the bytes of a record."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from outbox_relay.errors import OutboxMissingError, SetupError
from outbox_relay.outbox import OUTBOX, ROLES, ROLES_CONTENTS, Additional, Outbox, Part
from outbox_relay.quoting import quoted


class Column(NamedTuple):
    """A column's name, and its type: what ``pg_type`` calls it, ``enum``, or for a domain the type under it."""

    name: str
    kind: str


Columns = Mapping[Part, Column]
"""The columns that an outbox has, by role, and the additional ones."""

# What is written in one way only, whatever a session is set to (a timestamp or a float is not).
_TEXTS = frozenset(("text", "varchar", "bpchar", "name", "citext", "enum"))
_INTEGERS = frozenset(("int2", "int4", "int8"))
_NAMES = _TEXTS | _INTEGERS | {"uuid", "numeric"}
_PAYLOADS = _TEXTS | {"json", "jsonb", "bytea"}
_ONES_THAT_CAN = {
    "payload": "json, jsonb, text, varchar or bytea",
    "": "text, varchar, an enum, uuid, a type of integers or numeric",
}

_COLUMNS = """
    WITH RECURSIVE types AS (
        SELECT attname::text AS name, format_type(atttypid, atttypmod) AS declared, atttypid AS type
        FROM pg_attribute
        WHERE attrelid = to_regclass({name}) AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT name, declared, typbasetype FROM types JOIN pg_type ON oid = type AND typtype = 'd'
    )
    SELECT name, declared, CASE typtype WHEN 'e' THEN 'enum' ELSE typname::text END
    FROM types JOIN pg_type ON oid = type AND typtype <> 'd'
"""


def find_columns(connection: psycopg.Connection[Any], outbox: Outbox = OUTBOX) -> Columns:
    """Which columns the outbox has; works on a replication connection too.

    Raises:
        OutboxMissingError: there is no such table (yet).
        SetupError: a column that every record needs is missing, or one is of a type that makes no record; or the
            role may not look into the schema.
    """
    try:
        found = connection.execute(outbox.sql(_COLUMNS)).fetchall()
    except psycopg.errors.InsufficientPrivilege as error:
        grant = f"GRANT USAGE ON SCHEMA {quoted(outbox.schema)} TO {quoted(connection.info.user)}"
        raise SetupError(f"{error.diag.message_primary}: let its owner run: {grant}") from None
    if not found:
        raise OutboxMissingError(f"there is no table {outbox.label} yet; waiting for the service's migration")
    kinds = {name: kind for name, _, kind in found}
    declared = {name: text for name, text, _ in found}
    names: dict[Part, str] = {one: one.column for one in outbox.additional}
    names.update(outbox.columns.by_role)
    columns = {role: Column(name, kinds[name]) for role, name in names.items() if name in kinds}
    needed: tuple[Part, ...] = (*outbox.required, *(one for one in outbox.additional if not one.optional))
    if missing := [names[role] for role in needed if role not in columns]:
        of = "the outbox" if outbox.is_standard else outbox.label
        raise SetupError(f"{of} has no column {', '.join(missing)}")
    for role, (name, kind) in sorted(columns.items(), key=lambda column: column[1]):
        if (may_be := _kinds(role, outbox)) is not None and kind not in may_be:
            can = _ONES_THAT_CAN.get(str(role), _ONES_THAT_CAN[""])
            column = f"{outbox.label}.{quoted(name)}"
            raise SetupError(
                f"{column} is of type {declared[name]}, of which no record can be made; it may be {can}"
            )
    return columns


def _kinds(role: Part, outbox: Outbox) -> frozenset[str] | None:
    """The types that a column may be of; None: any."""
    if isinstance(role, Additional):
        if outbox.is_shaped:  # whoever makes the records knows more of them
            return None
        return _INTEGERS if role.placement == "partition" else _NAMES | {"json", "jsonb"}
    if role == "payload":
        return _PAYLOADS
    return _NAMES if role in ROLES else None


def as_bytes(role: Part, columns: Columns) -> sql.Composable:
    """SQL for the bytes that the log gives of a column: its own, or its text in the session's encoding."""
    found = columns.get(role)
    if found is None:
        return sql.SQL("NULL::bytea")
    name, kind = found
    column = sql.Identifier(name)
    if kind == "bytea" and not isinstance(role, Additional):  # of those the readers have the text
        return column
    if kind == "bpchar":  # a cast would take the blanks off that the log has
        return sql.SQL("textsend(textin(bpcharout({})))").format(column)
    return sql.SQL("textsend({}::text)").format(column)


def is_content(part: Part) -> bool:
    """Whether a column may be large: the payload, or an additional one."""
    return part == "payload" or isinstance(part, Additional)


def octets(parts: Iterable[Part], columns: Columns) -> sql.Composable:
    """SQL for how many bytes of contents a row has."""
    sizes = [
        sql.SQL("coalesce(octet_length({}{}), 0)").format(
            sql.Identifier(columns[part].name), sql.SQL("" if columns[part].kind == "bytea" else "::text")
        )
        for part in parts
        if part in columns and is_content(part)
    ]
    return sql.SQL("({})::int8").format(sql.SQL(" + ").join(sizes))


def is_row(columns: Columns) -> sql.Composable:
    """A condition for the row that holds the five values given, as bytes; IDs need not be unique."""
    return sql.SQL("ROW({}) IS NOT DISTINCT FROM ROW({})").format(
        sql.SQL(", ").join(as_bytes(role, columns) for role in ROLES[:ROLES_CONTENTS]),
        sql.SQL(", ").join([sql.SQL("%s::bytea")] * ROLES_CONTENTS),
    )
