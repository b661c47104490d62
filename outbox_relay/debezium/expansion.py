"""JSON expanded to a structure with a schema of its own, as ``table.expand.json.payload`` asks for.

What Debezium does with a payload that has no such form is followed too: one that it cannot describe stays the text
that it is; one that it describes and then fails to fill in ends its task, and is refused here.

Source: io.debezium.transforms.outbox.JsonSchemaData, EventRouterDelegate.
"""

import json
from dataclasses import replace
from functools import reduce
from typing import Any

from outbox_relay.debezium.values import Schema

STRING = Schema("string", optional=True)
BOOLEAN = Schema("boolean", optional=True)
INT32 = Schema("int32", optional=True)
INT64 = Schema("int64", optional=True)
FLOAT64 = Schema("double", optional=True)
BYTES = Schema("bytes", optional=True)

_INT32, _INT64 = 1 << 31, 1 << 63


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_READER = json.JSONDecoder(parse_constant=_no_constant)


class NoSchemaError(ValueError):
    """JSON that Debezium cannot describe, and so leaves as it is."""


def expanded(text: str, name: str, *, keep_nulls: bool) -> tuple[Schema, Any]:
    """The structure in a payload, and its schema.

    Args:
        name: of the payload's column, by which the schema is called.
        keep_nulls: ``table.json.payload.null.behavior`` is ``optional_bytes``.

    Raises:
        NoSchemaError: it stays text.
        ValueError: Debezium would end here.
    """
    if not text.startswith(("{", "[")):
        raise NoSchemaError("it begins with neither { nor [")
    try:
        parsed, _ = _READER.raw_decode(text)  # what follows is not looked at there either
    except (ValueError, RecursionError):
        raise NoSchemaError("it is no JSON") from None
    schema = _schema(name, parsed, keep_nulls)
    if isinstance(parsed, list):
        raise ValueError("Debezium has no form for an array as a whole payload")
    assert schema is not None
    return schema, _value(parsed, schema)


def _schema(name: str | None, value: Any, keep_nulls: bool) -> Schema | None:
    if isinstance(value, str):
        return STRING
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int):
        return INT32 if -_INT32 <= value < _INT32 else INT64 if -_INT64 <= value < _INT64 else FLOAT64
    if isinstance(value, float):
        return FLOAT64
    if isinstance(value, list):
        return Schema("array", optional=True, items=_items(name, value, keep_nulls)) if value else None
    if isinstance(value, dict):
        within = f"{name}." if name and name.strip() else ""
        fields = ((key, _schema(within + key, inner, keep_nulls)) for key, inner in value.items())
        return Schema("struct", optional=True, name=name, fields=tuple((key, of) for key, of in fields if of))
    return BYTES if keep_nulls else None


def _items(name: str | None, values: list[Any], keep_nulls: bool) -> Schema:
    """The schema of an array's members: of the first that is not null, which all must be like."""
    members = [value for value in values if value is not None]
    sample = members[0] if members else None
    if any(_node(member) is not _node(sample) for member in members):
        raise NoSchemaError("an array has members of several types")
    if isinstance(sample, dict):
        # Which of several comes first is not defined in Debezium, and with it the order of fields.
        several = dict.fromkeys(_schema(name, member, keep_nulls) for member in members)
        found = reduce(_merged, several)
    else:
        found = _schema(None, sample, keep_nulls)
        if _node(sample) is float and any(_schema(None, member, keep_nulls) != found for member in members):
            raise NoSchemaError("an array has numbers of several types")
    if found is None:
        raise NoSchemaError("an array has members without a schema")
    return found


def _node(value: Any) -> type:
    """What JSON calls the type: a number of any kind is one."""
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def _merged(left: Schema | None, right: Schema | None) -> Schema | None:
    """The fields of both; of two that differ the left one, unless that is a null."""
    assert left is not None and right is not None
    fields = dict(left.fields)
    for key, of in right.fields:
        if key not in fields or (fields[key].type == "bytes" and of.type != "bytes"):
            fields[key] = of
    return replace(left, optional=False, fields=tuple(fields.items()))


def _value(value: Any, schema: Schema) -> Any:
    """The value, of what the schema names.

    Raises:
        ValueError: it is of another type there.
    """
    if value is None:
        return None
    if isinstance(value, dict) and schema.type == "struct":
        return {key: _value(value[key], of) for key, of in schema.fields if key in value}
    if isinstance(value, list) and schema.type == "array" and schema.items is not None:
        return [_value(member, schema.items) for member in value]
    if _schema(None, value, False) != schema:
        raise ValueError("its members differ in type")
    if isinstance(value, int) and schema == FLOAT64:
        raise ValueError("it has a number of more than 64 bits")
    return value
