"""A decoder of PostgreSQL's ``pgoutput`` messages into rows of the outbox.

Pure: bytes in, rows out, no socket. Protocol version 1 in text mode, in which every column arrives as the
UTF-8 text that goes into a Kafka header, key or value, whatever its type. Only of ``bytea`` it is not the bytes
themselves, but how ``bytea_output = hex`` writes them.

Source: PostgreSQL documentation, "Logical Replication Message Formats".
"""

import struct
from binascii import unhexlify
from collections.abc import Callable
from typing import NamedTuple

from outbox_relay.errors import DecodeError
from outbox_relay.outbox import OUTBOX, ROLES, Outbox
from outbox_relay.row import OutboxRow

BYTEA, UUID = 17, 2950
"""The OIDs of ``bytea`` and ``uuid`` among PostgreSQL's types."""

# Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01 UTC.
POSTGRES_EPOCH_US = 946_684_800_000_000

_BEGIN, _COMMIT, _INSERT, _RELATION, _TYPE, _MESSAGE = b"BCIRYM"
# Origin, Update, Delete, Truncate, and mostly Message: legal, and nothing that an outbox row comes from.
_SKIPPED = frozenset(b"OUDTM")
# What a type is, by the name of the one under it. Of PostgreSQL's own types the server names no schema.
_BASES = {(b"", b"bytea"): BYTEA, (b"", b"uuid"): UUID}

_TEXT, _NULL = b"tn"
_NEW_TUPLE = ord("N")
_COLUMNS_AT = 8  # in an Insert: kind, relation (4 bytes), 'N', number of columns (2 bytes)

_begin = struct.Struct(">xQqI")
_commit = struct.Struct(">xBQQq")
_tagged_length = struct.Struct(">BI").unpack_from
_u32 = struct.Struct(">I").unpack_from
_u16 = struct.Struct(">H").unpack_from


class Begin(NamedTuple):
    """A transaction starts; its rows follow.

    Attributes:
        commit_lsn: where its commit record lies in the log.
        committed_us: when it committed, microseconds since the Unix epoch by the database's clock.
    """

    commit_lsn: int
    committed_us: int


class Commit(NamedTuple):
    """The transaction is complete; once it is handled, ``end_lsn`` may be confirmed."""

    end_lsn: int


class Decoder:
    """Turns messages into rows; remembers which relation has its columns where, and of which types.

    Args:
        outbox: its table and columns, which may have any order; rows of any other table are skipped.
        messages: what makes rows of messages; None: nothing does.

    Attributes:
        incomplete: which columns the rows lack that come now, if they cannot be read for that; they are skipped.
        has_uuids: whether the IDs of the rows that come now are UUIDs by type, which the table's need not be.
    """

    def __init__(
        self,
        outbox: Outbox = OUTBOX,
        messages: Callable[[bytes], OutboxRow | None] | None = None,
    ) -> None:
        self.incomplete: str | None = None
        self.has_uuids = True
        self._messages = messages
        self._outbox = outbox
        self._table = (outbox.schema.encode(), outbox.table.encode())
        self._bases = {BYTEA: BYTEA, UUID: UUID}
        self._row_decoders: dict[bytes, Callable[[bytes], OutboxRow | None]] = {}

    def decode(self, message: bytes) -> OutboxRow | Begin | Commit | None:
        """Read one message; None for what an outbox row does not come from.

        Raises:
            DecodeError: truncated, malformed, of an unknown kind, or of a relation not announced.
        """
        try:
            kind = message[0]
            if kind == _INSERT:
                return self._row_decoders[message[1:5]](message)
            if kind == _BEGIN:
                commit_lsn, committed_us, _xid = _begin.unpack(message)
                return Begin(commit_lsn, committed_us + POSTGRES_EPOCH_US)
            if kind == _COMMIT:
                _flags, _commit_lsn, end_lsn, _committed_us = _commit.unpack(message)
                return Commit(end_lsn)
        except KeyError:
            relation = int.from_bytes(message[1:5], "big")
            raise DecodeError(f"pgoutput Insert for relation {relation}, which was not announced") from None
        except (struct.error, IndexError):
            raise DecodeError(_complaint(message)) from None
        if kind == _MESSAGE and self._messages is not None:
            return self._messages(message)
        if kind == _RELATION:
            self._row_decoders[message[1:5]] = self._announced(message)
        elif kind == _TYPE:
            oid, schema, name = _type(message)
            self._bases[oid] = _BASES.get((schema, name), oid)
        elif kind not in _SKIPPED:
            raise DecodeError(f"pgoutput message of unknown kind {chr(kind)!r} ({len(message)} bytes)")
        return None

    def _announced(self, message: bytes) -> Callable[[bytes], OutboxRow | None]:
        schema, table, columns, types = _relation(message)
        if (schema, table) != self._table:
            return _skip
        names = self._outbox.columns.by_role
        wanted = tuple(names[role].encode() if role in names else None for role in ROLES)
        additional = tuple(one.column.encode() for one in self._outbox.additional)
        needed = [
            *(names[role].encode() for role in self._outbox.required),
            *(one.column.encode() for one in self._outbox.additional if not one.optional),
        ]
        missing = [name.decode() for name in needed if name not in columns]
        self.incomplete = ", ".join(missing) or None
        if missing:
            return _skip
        decode = _in_order(columns, wanted, additional)
        if columns[: len(wanted)] == wanted and not additional:
            decode = _in_standard_order(len(columns), otherwise=decode)
        id_type, payload_type = (
            self._bases.get(types[columns.index(name.encode())])
            for name in (self._outbox.columns.id, self._outbox.columns.payload)
        )
        self.has_uuids = id_type == UUID
        return _with_bytes(decode) if payload_type == BYTEA else decode


def _skip(_message: bytes) -> None:
    """A row of another table."""


def _in_standard_order(column_count: int, otherwise: Callable[[bytes], OutboxRow]) -> Callable[[bytes], OutboxRow]:
    """A decoder for tables that begin with the columns of a row: one pass at computed offsets.

    This runs for every event. Whether a length is honest is asked once, at the end: offsets only grow, so
    a message that ends exactly where its last column does was read inside its bounds all the way. What does not
    work out, be it a NULL among the first five columns or a message that is broken, is left to ``otherwise``.
    """
    expected = struct.pack(">BH", _NEW_TUPLE, column_count)
    trailing = range(column_count - len(ROLES))
    new_tuple = tuple.__new__

    def decode(message: bytes, at: int = _COLUMNS_AT) -> OutboxRow:
        try:
            t1, length = _tagged_length(message, at)
            id_at = at + 5
            at = id_end = id_at + length
            t2, length = _tagged_length(message, at)
            aggregate_type_at = at + 5
            at = aggregate_type_end = aggregate_type_at + length
            t3, length = _tagged_length(message, at)
            aggregate_id_at = at + 5
            at = aggregate_id_end = aggregate_id_at + length
            t4, length = _tagged_length(message, at)
            event_type_at = at + 5
            at = event_type_end = event_type_at + length
            t5, length = _tagged_length(message, at)
            payload_at = at + 5
            at = payload_end = payload_at + length
            traceparent = tracestate = None
            if message[at] == _NULL:
                at += 1
            else:
                traceparent, at = _nullable(message, at)
            if message[at] == _NULL:
                at += 1
            else:
                tracestate, at = _nullable(message, at)
            for _ in trailing:
                at = _end_of_column(message, at)
        except (struct.error, IndexError, DecodeError):
            return otherwise(message)
        if at != len(message) or message[5:8] != expected or not t1 == t2 == t3 == t4 == t5 == _TEXT:
            return otherwise(message)
        # The tuple at once: going through the class's own constructor takes twice as long.
        return new_tuple(
            OutboxRow,
            (
                message[id_at:id_end],
                message[aggregate_type_at:aggregate_type_end],
                message[aggregate_id_at:aggregate_id_end],
                message[event_type_at:event_type_end],
                message[payload_at:payload_end],
                traceparent,
                tracestate,
                (),
            ),
        )

    return decode


def _in_order(
    columns: tuple[bytes, ...], wanted: tuple[bytes | None, ...], additional: tuple[bytes, ...]
) -> Callable[[bytes], OutboxRow]:
    """A decoder for any order of columns, and for whatever is NULL among them."""
    expected = struct.pack(">BH", _NEW_TUPLE, len(columns))
    positions = [columns.index(name) if name in columns else None for name in wanted]
    others = [columns.index(name) if name in columns else None for name in additional]

    def decode(message: bytes) -> OutboxRow:
        at, values = _COLUMNS_AT, []
        for _ in columns:
            value, at = _nullable(message, at)
            values.append(value)
        if at != len(message) or message[5:8] != expected:
            raise DecodeError(_complaint(message))
        own = [values[position] if position is not None else None for position in positions]
        additions = tuple([values[position] if position is not None else None for position in others])
        return OutboxRow._make([*own, additions])

    return decode


def _with_bytes(decode: Callable[[bytes], OutboxRow]) -> Callable[[bytes], OutboxRow]:
    """The same decoder for a payload of bytes, which come in hexadecimal digits."""

    def decode_with_bytes(message: bytes) -> OutboxRow:
        row = decode(message)
        if row.payload is None:
            return row
        if row.payload[:2] != b"\\x":
            raise DecodeError("a bytea came otherwise than bytea_output = hex writes it")
        try:
            return row._replace(payload=unhexlify(row.payload[2:]))
        except ValueError:
            raise DecodeError(_complaint(message)) from None

    return decode_with_bytes


def _nullable(message: bytes, at: int) -> tuple[bytes | None, int]:
    """A column's value and where the next one begins."""
    tag = message[at]
    if tag == _TEXT:
        end = at + 5 + _u32(message, at + 1)[0]
        return message[at + 5 : end], end
    if tag == _NULL:
        return None, at + 1
    raise DecodeError(_complaint(message))


def _end_of_column(message: bytes, at: int) -> int:
    tag = message[at]
    if tag == _TEXT:
        return int(at + 5 + _u32(message, at + 1)[0])
    if tag == _NULL:
        return at + 1
    raise DecodeError(_complaint(message))


def _relation(message: bytes) -> tuple[bytes, bytes, tuple[bytes, ...], tuple[int, ...]]:
    """Schema, table, and names and type OIDs of the columns that a Relation message announces.

    Raises:
        DecodeError: truncated or malformed.
    """
    try:
        schema_end = message.index(0, 5)
        table_end = message.index(0, schema_end + 1)
        (column_count,) = _u16(message, table_end + 2)
        at, columns, types = table_end + 4, [], []
        for _ in range(column_count):
            name_end = message.index(0, at + 1)
            columns.append(message[at + 1 : name_end])
            types.append(_u32(message, name_end + 1)[0])
            at = name_end + 9  # type (4 bytes) and type modifier (4 bytes) follow the name
    except (struct.error, ValueError):
        raise DecodeError(f"truncated Relation message ({len(message)} bytes)") from None
    if at != len(message):
        raise DecodeError(f"Relation message of {len(message)} bytes says that it has {at}")
    return message[5:schema_end], message[schema_end + 1 : table_end], tuple(columns), tuple(types)


def _type(message: bytes) -> tuple[int, bytes, bytes]:
    """OID of the type that a Type message announces, and schema and name of the one under it.

    Raises:
        DecodeError: truncated or malformed.
    """
    try:
        (oid,) = _u32(message, 1)
        schema_end = message.index(0, 5)
        name_end = message.index(0, schema_end + 1)
    except (struct.error, ValueError):
        raise DecodeError(f"truncated Type message ({len(message)} bytes)") from None
    if name_end + 1 != len(message):
        raise DecodeError(f"Type message of {len(message)} bytes says that it has {name_end + 1}")
    return oid, message[5:schema_end], message[schema_end + 1 : name_end]


def _complaint(message: bytes) -> str:
    """What is wrong with a message that could not be read, for a person."""
    if not message:
        return "empty pgoutput message"
    return (
        f"pgoutput message {chr(message[0])!r} of {len(message)} bytes is truncated or malformed: "
        f"{message[:48].hex(' ')}"
    )
