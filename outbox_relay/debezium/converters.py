"""Kafka Connect's converters: a value with its schema to the bytes of a record's key, value or header.

Source: org.apache.kafka.connect.json.JsonConverter, storage.StringConverter, storage.SimpleHeaderConverter,
converters.ByteArrayConverter; io.debezium.converters.BinaryDataConverter.
"""

import re
from base64 import b64encode
from collections.abc import Callable
from decimal import Decimal
from math import isfinite
from typing import Any

from outbox_relay.debezium.values import EXACT, Schema

Convert = Callable[[Schema | None, Any], bytes | None]
"""Raises ValueError where the converter refuses the value."""

# Jackson escapes what JSON asks for, and writes everything else as it is.
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
DECIMAL = "org.apache.kafka.connect.data.Decimal"
# Where Java's doubles begin to be written with an exponent.
PLAIN_FROM, PLAIN_BELOW = 1e-3, 1e7
# So many schemas are kept, of this size at the most: where names of fields are data, each payload has one.
KEPT_SCHEMAS, KEPT_TEXT_MAX = 500, 10_000


def json_without_schemas(schema: Schema | None, value: Any) -> bytes | None:
    """``JsonConverter`` with ``schemas.enable=false``."""
    if schema is None and value is None:
        return None
    return written(schema, value).encode()


def json_with_schemas(schema: Schema | None, value: Any) -> bytes | None:
    """``JsonConverter`` as it is by default."""
    if schema is None and value is None:
        return None
    return f'{{"schema":{schema_written(schema)},"payload":{written(schema, value)}}}'.encode()


def string(_schema: Schema | None, value: Any) -> bytes | None:
    """``StringConverter``; bytes and structures, of which it writes what Java calls them, are refused."""
    if value is None:
        return None
    if isinstance(value, bytes | dict | list):
        raise ValueError("StringConverter has no form for bytes or a structure")
    return _plain(value).encode()


def simple_header(schema: Schema | None, value: Any) -> bytes | None:
    """``SimpleHeaderConverter``: as text; bytes in Base64."""
    if isinstance(value, bytes):
        return b64encode(value)
    return string(schema, value)


def binary(schema: Schema | None, value: Any) -> bytes | None:
    """``ByteArrayConverter`` and ``BinaryDataConverter``: bytes as they are, and nothing else."""
    if value is None or isinstance(value, bytes):
        return value
    raise ValueError(f"a converter of bytes takes no {schema.type if schema else type(value).__name__}")


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return java_double(value)
    if isinstance(value, Decimal):
        return java_decimal(value)
    return str(value)


def written(schema: Schema | None, value: Any) -> str:
    """A value as JSON.

    Raises:
        ValueError: it is None where the schema does not allow that, or is of another type.
    """
    if value is None:
        if schema is None or schema.optional:
            return "null"
        raise ValueError("it is NULL where the schema has no null")
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bytes):
        return f'"{b64encode(value).decode()}"'
    if isinstance(value, Decimal):
        return f'"{b64encode(_unscaled(value, schema)).decode()}"'
    if isinstance(value, dict):
        fields = schema.fields if schema is not None else ()
        return "{" + ",".join(f"{text(name)}:{written(of, value.get(name))}" for name, of in fields) + "}"
    if isinstance(value, list):
        items = schema.items if schema is not None else None
        return "[" + ",".join(written(items, item) for item in value) + "]"
    return _plain(value)


def schema_written(schema: Schema | None) -> str:
    """A schema as ``JsonConverter`` writes it."""
    if schema is None:
        return "null"
    text = _kept.get(schema)
    if text is None:
        text = "{" + _schema_members(schema) + "}"
        if len(text) <= KEPT_TEXT_MAX:
            if len(_kept) >= KEPT_SCHEMAS:
                _kept.clear()
            _kept[schema] = text
    return text


_kept: dict[Schema, str] = {}


def _schema_members(schema: Schema) -> str:
    members = [f'"type":"{schema.type}"']
    if schema.type == "struct":
        fields = ",".join(f'{{{_schema_members(of)},"field":{text(name)}}}' for name, of in schema.fields)
        members.append(f'"fields":[{fields}]')
    if schema.type == "array":
        members.append(f'"items":{schema_written(schema.items)}')
    members.append(f'"optional":{_plain(schema.optional)}')
    if schema.name is not None:
        members.append(f'"name":{text(schema.name)}')
    if schema.version is not None:
        members.append(f'"version":{schema.version}')
    if schema.parameters:
        inner = ",".join(f"{text(name)}:{text(value)}" for name, value in schema.parameters)
        members.append(f'"parameters":{{{inner}}}')
    if schema.default is not None:
        members.append(f'"default":{written(schema, schema.default)}')
    return ",".join(members)


def text(value: str) -> str:
    """A string as Jackson writes it."""
    return f'"{_ESCAPED.sub(_escape, value)}"'


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return _SHORT.get(character) or f"\\u{ord(character):04X}"


def java_double(value: float) -> str:
    """A double as ``Double.toString`` writes it, which is the shortest text that reads back as it.

    Raises:
        ValueError: infinite, or no number.
    """
    if not isfinite(value):
        raise ValueError("it is not finite")
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    assert isinstance(exponent, int)
    number = "".join(map(str, digits)).rstrip("0") or "0"
    point = len(digits) + exponent  # of 0.d₁d₂d₃…
    minus = "-" if sign else ""
    if value == 0:
        return f"{minus}0.0"
    if PLAIN_FROM <= abs(value) < PLAIN_BELOW:
        if point <= 0:
            return f"{minus}0.{'0' * -point}{number}"
        whole = number[:point].ljust(point, "0")
        return f"{minus}{whole}.{number[point:] or '0'}"
    return f"{minus}{number[0]}.{number[1:] or '0'}E{point - 1}"


def java_decimal(value: Decimal) -> str:
    """A decimal of a fixed scale as ``BigDecimal.toString`` writes it: it uses an exponent as Python's does."""
    return str(value)


def _unscaled(value: Decimal, schema: Schema | None) -> bytes:
    """The unscaled number of a decimal, in two's complement."""
    scale = int(dict(schema.parameters).get("scale", "0")) if schema is not None else 0
    number = int(value.scaleb(scale, EXACT))
    return number.to_bytes((8 + (number + (number < 0)).bit_length()) // 8, "big", signed=True)
