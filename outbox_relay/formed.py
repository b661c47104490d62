"""The records of outboxes with a shape: rows through Debezium's router, Connect's converters, CloudEvents.

Made for a table when a session starts; what a row costs is what its shape asks for.
"""

from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from contracts import headers
from outbox_relay.acknowledgements import Transaction
from outbox_relay.debezium import converters, values
from outbox_relay.debezium.converters import Convert
from outbox_relay.debezium.expansion import NoSchemaError, expanded
from outbox_relay.debezium.values import Column, Parse, Schema
from outbox_relay.errors import SetupError, UnpublishableError
from outbox_relay.first_batches import ANY_PARTITION
from outbox_relay.otherwise import TRACEPARENT_BYTES_MAX, TRACESTATE_BYTES_MAX, Fields
from outbox_relay.outbox import Additional, Outbox
from outbox_relay.row import OutboxRow
from outbox_relay.shape import CloudEvents, Shape

NOW_MS = 0
"""What confluent-kafka takes for the time of the call."""

CONVERTERS: dict[str, Convert] = {
    "string": converters.string,
    "simple": converters.simple_header,
    "json": converters.json_without_schemas,
    "json-with-schemas": converters.json_with_schemas,
    "bytes": converters.binary,
}
_BINARIES: dict[str, Callable[[bytes], str]] = {
    "base64": lambda value: b64encode(value).decode(),
    "base64-url-safe": lambda value: urlsafe_b64encode(value).decode(),
    "hex": bytes.hex,
}
_CONTENT_TYPES = {"json": "application/json", "jsonb": "application/json", "bytea": "application/octet-stream"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A UnicodeError is a ValueError; JSON may be nested more deeply than Python calls functions.
_NO_RECORD = (ValueError, ArithmeticError, RecursionError)
ENVELOPE = "payload"
"""What the router calls the payload in an envelope."""


class Formed(NamedTuple):
    """What Kafka gets of a row, besides its topic.

    Attributes:
        timestamp_ms: of the record; 0: when it is handed over.
        fields: its headers.
    """

    key: bytes | None
    value: bytes | None
    partition: int
    timestamp_ms: int
    fields: Fields


Contents = tuple[bytes, str, bytes | None, bytes | None, bytes | None]
"""What identifies a record: ID, topic, key, event type, value."""

Write = Callable[[bytes | None], bytes | None]
"""From what the readers have of a column to what a record has; raises ValueError where that cannot be."""


class Field:
    """What reads a column's values, as Debezium has them: NULL is the column's default, where it has one."""

    def __init__(self, column: Column, binary: str = "bytes", *, is_payload: bool = False) -> None:
        schema, parse = values.typed(column)
        if column.kind == "bytea":
            if is_payload:  # the readers have it as it is
                parse = _same
            if binary != "bytes":
                schema, parse = replace(schema, type="string"), _in_text(parse, _BINARIES[binary])
        self.schema = schema
        self._parse = parse
        # Text of PostgreSQL that is the value's own, or bytes that nobody asks to be text.
        self._is_plain = column.kind in _AS_THEY_ARE or parse is _same

    def read(self, raw: bytes | None) -> Any:
        """The value.

        Raises:
            ValueError: there is none for what the column holds.
        """
        return self.schema.default if raw is None else self._parse(raw)

    def writer(self, name: str) -> Write:
        """What writes the column with a converter."""
        convert, schema, read = CONVERTERS[name], self.schema, self.read
        if name in ("string", "simple") and self._is_plain:
            if schema.default is None:
                return _same
            default = convert(schema, schema.default)
            return lambda raw: default if raw is None else raw
        if name == "string" and schema.type == "bytes" and schema.name is None:
            return read
        return lambda raw: convert(schema, read(raw))


_AS_THEY_ARE = values.STRINGS | {"json", "jsonb", "uuid", "int2", "int4", "int8"}


def _same(raw: Any) -> Any:
    return raw


def _in_text(parse: Parse, write: Callable[[bytes], str]) -> Parse:
    return lambda raw: write(parse(raw))


class Former:
    """Makes records of an outbox's rows.

    Args:
        outbox: whose rows.
        columns: those of its table, by name.

    Raises:
        SetupError: there is no such record of a column.
    """

    def __init__(self, outbox: Outbox, columns: Mapping[str, Column]) -> None:
        shape, names = outbox.shape or Shape(), outbox.columns
        self._shape, self._events = shape, outbox.events
        self._convert = CONVERTERS[shape.value]
        self._id = Field(columns[names.id]).writer(shape.headers)
        self._key = self._of(columns, names.aggregateid, shape.key) or _nothing
        self._event_type = self._of(columns, names.type, shape.headers)
        self._payload = Field(columns[names.payload], shape.binary, is_payload=True)
        self._places = [_Place(one, columns, shape) for one in outbox.additional]
        self._has_envelope = any(place.placement == "envelope" for place in self._places)
        self._is_text = self._payload.schema.type == "string"
        # What is written column by column, without a look at its contents.
        is_plain = not (shape.expand_json or self._has_envelope)
        self._plain = self._payload.writer(shape.value) if is_plain else None
        self._name = names.payload
        self._begins = f"{shape.schema_prefix}.{outbox.schema}.{outbox.table}"
        self._content_type = _content_type(outbox.events, columns[names.payload].kind)

    @staticmethod
    def _of(columns: Mapping[str, Column], name: str | None, converter: str) -> Write | None:
        if name is None or name not in columns:
            return None
        return Field(columns[name]).writer(converter)

    def __call__(self, row: OutboxRow, transaction: Transaction) -> Formed:
        """The record of a row.

        Raises:
            UnpublishableError: there is none.
        """
        try:
            partition, timestamp_ms = ANY_PARTITION, NOW_MS
            for place, raw in zip(self._places, row.additional, strict=True):
                if raw is not None and place.placement == "partition":
                    partition = int(raw)
                elif raw is not None and place.placement == "timestamp":
                    timestamp_ms = place.milliseconds(raw)
            fields = self._fields(row)
            fields.append(transaction.position)
            _add_context(row, fields)
            if self._events is not None:
                self._add_event(self._events, row, transaction, fields)
            return Formed(self._key(row.aggregate_id), self._value(row), partition, timestamp_ms, fields)
        except _NO_RECORD as error:
            raise _unpublishable(row, transaction.commit_lsn, error) from None

    def contents(self, row: OutboxRow, topic: str, lsn: int) -> Contents:
        """What identifies the record of a row.

        Raises:
            UnpublishableError: there is none.
        """
        try:
            fields = dict(self._fields(row))
            row_id, event_type = fields[headers.ID], fields.get(headers.EVENT_TYPE)
            return _bytes(row_id) or b"", topic, self._key(row.aggregate_id), _bytes(event_type), self._value(row)
        except _NO_RECORD as error:
            raise _unpublishable(row, lsn, error) from None

    def _fields(self, row: OutboxRow) -> Fields:
        """The headers that Debezium gives a record, in its order."""
        fields: Fields = [(headers.ID, self._id(row.id))]
        if self._event_type is not None:
            fields.append((headers.EVENT_TYPE, self._event_type(row.event_type)))
        fields += [
            (place.name, place.write(raw))
            for place, raw in zip(self._places, row.additional, strict=True)
            if place.write is not None
        ]
        return fields

    def _value(self, row: OutboxRow) -> bytes | None:
        if self._plain is not None:
            if self._shape.empty_is_tombstone and self._is_empty(row.payload):
                return None
            return self._plain(row.payload)
        payload, schema = self._payload.read(row.payload), self._payload.schema
        if self._shape.expand_json and isinstance(payload, str):
            with suppress(NoSchemaError):
                schema, payload = expanded(payload, self._name, keep_nulls=self._shape.json_nulls == "keep")
        if self._shape.empty_is_tombstone and _is_empty(payload):
            return None
        return self._enveloped(row, schema, payload) if self._has_envelope else self._convert(schema, payload)

    def _is_empty(self, payload: bytes | None) -> bool:
        """Whether Debezium takes it for empty: bytes that are there never are, and NULL is the default."""
        if payload is None:
            return _is_empty(self._payload.schema.default)
        return self._is_text and not payload.strip()

    def _enveloped(self, row: OutboxRow, schema: Schema, payload: Any) -> bytes | None:
        fields, values, version = [(ENVELOPE, schema)], {ENVELOPE: payload}, None
        for place, raw in zip(self._places, row.additional, strict=True):
            if place.placement == "envelope" and place.field is not None:
                fields.append((place.name, place.field.schema))
                values[place.name] = place.field.read(raw)
            elif place.placement == "schema-version" and raw is not None:
                version = int(raw)
        name = f"{self._begins}.{(row.aggregate_type or b'').decode()}.Value"
        return self._convert(Schema("struct", name=name, version=version, fields=tuple(fields)), values)

    def _add_event(self, events: CloudEvents, row: OutboxRow, transaction: Transaction, fields: Fields) -> None:
        if not row.event_type:
            raise ValueError("a CloudEvent needs a type, and it has none")
        time = _EPOCH + timedelta(microseconds=transaction.committed_us)
        fields += [
            ("ce_specversion", "1.0"),
            ("ce_id", row.id),
            ("ce_source", events.source),
            ("ce_type", events.type_prefix.encode() + row.event_type),
            ("ce_time", f"{time:%Y-%m-%dT%H:%M:%S.%f}Z"),
        ]
        if events.subject and row.aggregate_id:
            fields.append(("ce_subject", row.aggregate_id))
        if row.payload is not None:
            fields.append(("content-type", self._content_type))


class _Place:
    """Where an additional column goes; ``write`` is for headers, and without a column there is no ``field``."""

    def __init__(self, one: Additional, columns: Mapping[str, Column], shape: Shape) -> None:
        self.placement, self.name = one.placement, one.name
        self.write: Write | None = None
        self.field: Field | None = None
        if one.column not in columns:
            return
        column = columns[one.column]
        if one.placement in ("partition", "schema-version") and column.kind not in _INTEGERS:
            raise SetupError(
                f"column {column.name} is of type {column.declared}, and a {one.placement} is a number"
            )
        if one.placement == "timestamp":
            if column.kind not in ("timestamp", "timestamptz"):
                raise SetupError(f"column {column.name} is of type {column.declared}, and no timestamp")
            # With a zone it is the same to the reader, as sessions are in UTC; Debezium takes only those without.
            column = replace(column, kind="timestamp", modifier=-1)
        self.field = Field(column, shape.binary)
        if one.placement == "header":
            self.write = self.field.writer(shape.headers)

    def milliseconds(self, raw: bytes | None) -> int:
        """A time for a record, milliseconds since the Unix epoch; 0 for none.

        Raises:
            ValueError: Kafka knows no such time.
        """
        if raw is None or self.field is None:
            return NOW_MS
        time_ms = int(self.field.read(raw.removesuffix(b"+00"))) // 1_000
        if time_ms <= 0:
            raise ValueError(f"{self.name} is {raw.decode()}, and no record is as old as that")
        return time_ms


_INTEGERS = frozenset(("int2", "int4", "int8"))


def _content_type(events: CloudEvents | None, kind: str) -> str:
    if events is not None and events.content_type is not None:
        return events.content_type
    return _CONTENT_TYPES.get(kind, "text/plain; charset=utf-8")


def _add_context(row: OutboxRow, fields: Fields) -> None:
    """The trace context of a row, where it is one; as records of the standard shape have it."""
    parent, state = row.traceparent, row.tracestate
    if parent is not None and len(parent) <= TRACEPARENT_BYTES_MAX and parent.isascii():
        fields.append((headers.TRACEPARENT, parent))
        if state is not None and len(state) <= TRACESTATE_BYTES_MAX and state.isascii():
            fields.append((headers.TRACESTATE, state))


def _is_empty(payload: Any) -> bool:
    return payload is None or (isinstance(payload, str) and not payload.strip())


def _nothing(_raw: bytes | None) -> None:
    """The key of records without one."""


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _unpublishable(row: OutboxRow, lsn: int, error: Exception) -> UnpublishableError:
    why = "it is nested too deeply" if isinstance(error, RecursionError) else error
    return UnpublishableError(row, lsn, f"no record can be made of it: {why}")
