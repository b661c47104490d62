"""Kafka Connect's schema and value of a column, as Debezium's PostgreSQL connector gives them.

With the connector's own settings for times (``adaptive``), numbers (``precise``) and bytes (``bytes``).

Source: io.debezium.connector.postgresql.PostgresValueConverter, PostgresDefaultValueConverter.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import psycopg
from psycopg import sql

from outbox_relay.errors import SetupError

Parse = Callable[[bytes], Any]
"""What PostgreSQL writes of a value to the value; raises ValueError where there is none."""

STRINGS = frozenset(("text", "varchar", "bpchar", "name", "citext", "enum"))

_COLUMNS = """
    WITH RECURSIVE types AS (
        SELECT attname::text AS name, atttypid AS type, atttypmod AS modifier, NOT attnotnull AS nullable,
            pg_get_expr(adbin, adrelid) AS "default", format_type(atttypid, atttypmod) AS declared
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = to_regclass({table}) AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT name, typbasetype, typtypmod, nullable, "default", declared
        FROM types JOIN pg_type ON oid = type AND typtype = 'd'
    )
    SELECT name, CASE typtype WHEN 'e' THEN 'enum' ELSE typname::text END, modifier, nullable, "default", declared,
        (SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = type)
    FROM types JOIN pg_type ON oid = type AND typtype <> 'd'
"""

_FUNCTION = re.compile(r"[(]?[A-Za-z0-9_.]+\(.*\)")
_NOW = frozenset(("current_timestamp", "current_time", "current_date", "localtime", "localtimestamp"))
_LITERAL = re.compile(r"'(.*?)'")
# What stands for a default that a function gives.
_GENERATED = {
    "bool": "false",
    "numeric": "0.0",
    "float4": "0.0",
    "float8": "0.0",
    "int2": "0",
    "int4": "0",
    "int8": "0",
    "json": "{}",
    "jsonb": "{}",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "date": "1970-01-01",
    "timestamp": "1970-01-01 00:00:00",
    "timestamptz": "1970-01-01 00:00:00+00",
}
MILLIS_DIGITS = 3
EXACT = Context(prec=1_100)
"""For decimals of as many digits as a ``numeric`` can declare, 1,000; Python's own context has room for 28."""


@dataclass(frozen=True)
class Schema:
    """A schema of Kafka Connect.

    Attributes:
        type: as Connect's JSON has it: ``string``, ``int32``, ``struct``, …
        fields: of a struct, in order.
        items: of an array.
    """

    type: str
    optional: bool = False
    name: str | None = None
    version: int | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    default: Any = None
    fields: tuple[tuple[str, "Schema"], ...] = ()
    items: "Schema | None" = None


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        kind: its type as ``pg_type`` calls it, ``enum``, or for a domain the type under it.
        modifier: of the type, -1 without.
        default: SQL, as PostgreSQL writes it.
        labels: of an enum, with commas between.
        declared: its type as the table has it, for people.
    """

    name: str
    kind: str
    modifier: int = -1
    nullable: bool = False
    default: str | None = None
    declared: str = ""
    labels: str | None = None


def find(connection: psycopg.Connection[Any], table: str) -> dict[str, Column]:
    """The columns of a table, by name; works on a replication connection too.

    Args:
        table: its name as SQL writes it, with its schema.
    """
    query = sql.SQL(_COLUMNS).format(table=sql.Literal(table))
    return {row[0]: Column(*row) for row in connection.execute(query)}


def typed(column: Column) -> tuple[Schema, Parse]:
    """A column's schema, and what reads its values.

    Raises:
        SetupError: there is no such schema here.
    """
    schema, parse = _typed(column)
    schema = replace(schema, optional=column.nullable)
    with suppress(ValueError, TypeError):  # which Debezium says in its log, and goes on without
        schema = replace(schema, default=_default(column, parse))
    return schema, parse


def _typed(column: Column) -> tuple[Schema, Parse]:
    kind = column.kind
    if kind == "enum":
        return Schema(
            "string", name="io.debezium.data.Enum", version=1, parameters=(("allowed", column.labels or ""),)
        ), _text
    if kind in STRINGS:
        return Schema("string"), _text
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if kind == "numeric" and column.modifier >= 0:
        # precision << 16 | scale, and 4 bytes of a header that is none
        precision, scale = (column.modifier - 4) >> 16, (column.modifier - 4) & 0x7FF
        parameters = (("scale", str(scale)), ("connect.decimal.precision", str(precision)))
        unit = Decimal(1).scaleb(-scale, EXACT)
        schema = Schema("bytes", name="org.apache.kafka.connect.data.Decimal", version=1, parameters=parameters)
        return schema, lambda raw: _number(raw).quantize(unit, context=EXACT)
    if kind == "timestamptz":
        digits = column.modifier if column.modifier >= 0 else 6
        return Schema("string", name="io.debezium.time.ZonedTimestamp", version=1), lambda raw: _zoned(raw, digits)
    if kind == "timestamp":
        if 0 <= column.modifier <= MILLIS_DIGITS:
            return Schema("int64", name="io.debezium.time.Timestamp", version=1), lambda raw: _micros(raw) // 1000
        return Schema("int64", name="io.debezium.time.MicroTimestamp", version=1), _micros
    raise SetupError(
        f"column {column.name} is of type {column.declared or kind}, of which no part of a record can be made"
    )


def _text(raw: bytes) -> str:
    return raw.decode()


def _number(raw: bytes) -> Decimal:
    number = Decimal(raw.decode())
    if not number.is_finite():
        raise ValueError("it is no number")
    return number


def _bytes(raw: bytes) -> bytes:
    if raw[:2] != b"\\x":
        raise ValueError("it is not hexadecimal")
    return bytes.fromhex(raw[2:].decode())


def _truth(raw: bytes) -> bool:
    return raw in (b"t", b"true")


def _days(raw: bytes) -> int:
    return (date.fromisoformat(raw.decode()) - date(1970, 1, 1)).days


def _instant(raw: bytes) -> datetime:
    """A time without zone; what Python does not know (years before 1 and after 9999, infinity) raises."""
    return datetime.fromisoformat(raw.decode())


def _micros(raw: bytes) -> int:
    return (_instant(raw) - datetime(1970, 1, 1)) // timedelta(microseconds=1)


def _zoned(raw: bytes, digits: int) -> str:
    """A time in UTC as ISO 8601 has it, with so many digits after the seconds."""
    text = raw.decode()
    if not text.endswith("+00"):
        raise ValueError("it is not in UTC")
    instant = _instant(text[:-3].encode())
    if digits == 0:
        return f"{instant:%Y-%m-%dT%H:%M:%S}Z"
    return f"{instant:%Y-%m-%dT%H:%M:%S}.{instant.microsecond:06d}"[: 20 + digits] + "Z"


_SIMPLE: dict[str, tuple[Schema, Parse]] = {
    "json": (Schema("string", name="io.debezium.data.Json", version=1), _text),
    "jsonb": (Schema("string", name="io.debezium.data.Json", version=1), _text),
    "uuid": (Schema("string", name="io.debezium.data.Uuid", version=1), _text),
    "int2": (Schema("int16"), int),
    "int4": (Schema("int32"), int),
    "int8": (Schema("int64"), int),
    "bool": (Schema("boolean"), _truth),
    "float4": (Schema("float"), float),
    "float8": (Schema("double"), float),
    "bytea": (Schema("bytes"), _bytes),
    "date": (Schema("int32", name="io.debezium.time.Date", version=1), _days),
}


def _default(column: Column, parse: Parse) -> Any:
    """The default that Debezium puts into a column's schema; a function's is a stand-in."""
    expression = column.default
    if expression is None or expression.startswith("NULL::") or column.kind in ("bytea", "name", "citext"):
        return None
    if column.kind == "enum":
        found = re.fullmatch(r"'(.*)'::.*", expression)
        return found[1] if found else None
    if _FUNCTION.match(expression) or expression.lower() in _NOW:
        text = _GENERATED.get(column.kind, "")
    elif "'" in expression:
        found = _LITERAL.search(expression)
        text = found[1] if found else ""
    else:
        text = expression
    if column.kind == "timestamptz":
        moment = datetime.fromisoformat(text)
        text = f"{moment:%Y-%m-%d %H:%M:%S.%f}+00"
    return parse(text.encode())
