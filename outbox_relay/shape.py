"""The shape of records where it is another than Settle's own: Kafka Connect's converters, CloudEvents."""

from dataclasses import dataclass
from typing import Literal

Converter = Literal["string", "json", "json-with-schemas", "bytes"]
HeaderConverter = Literal["string", "simple", "json", "json-with-schemas", "bytes"]
Binary = Literal["bytes", "base64", "base64-url-safe", "hex"]


@dataclass(frozen=True)
class Shape:
    """What Debezium's outbox event router and Connect's converters are set to.

    Attributes:
        key, value, headers: the converters. ``string`` is ``StringConverter`` (but bytes stay bytes, for which it
            has only Java's name), ``json`` and ``json-with-schemas`` are ``JsonConverter``, ``bytes`` is
            ``ByteArrayConverter`` or ``BinaryDataConverter``, ``simple`` is ``SimpleHeaderConverter``.
        expand_json: a JSON payload becomes a structure (``table.expand.json.payload``); needs a converter of JSON.
        json_nulls: what becomes of its nulls (``table.json.payload.null.behavior``): left out, or kept.
        empty_is_tombstone: an empty or NULL payload becomes a record without value
            (``route.tombstone.on.empty.payload``).
        binary: how a payload of bytes is written (``binary.handling.mode``).
        schema_prefix: what the names of structures in schemas begin with (``topic.prefix``).
    """

    key: Converter = "string"
    value: Converter = "string"
    headers: HeaderConverter = "string"
    expand_json: bool = False
    json_nulls: Literal["omit", "keep"] = "omit"
    empty_is_tombstone: bool = False
    binary: Binary = "bytes"
    schema_prefix: str = ""


@dataclass(frozen=True)
class CloudEvents:
    """Headers that make each record a CloudEvent in Kafka's binary mode, beside those that it has.

    Source: CloudEvents 1.0.2 and its Kafka Protocol Binding, section 3.2.

    Attributes:
        source: ``ce_source``, a URI reference that names the writer.
        type_prefix: what ``ce_type`` has before the row's ``type``.
        content_type: the header ``content-type``; None: by the type of the payload's column.
        subject: whether ``ce_subject`` has the ``aggregateid``.
    """

    source: str
    type_prefix: str = ""
    content_type: str | None = None
    subject: bool = False
