"""Rows that a service writes into the log alone, with ``pg_logical_emit_message``: no table has them.

The prefix of a message names the outbox; its content is a JSON object with the outbox's columns as keys. Pure, as
:mod:`outbox_relay.pgoutput` is: bytes in, rows out.

Source: PostgreSQL documentation, "Logical Replication Message Formats" (Message).
"""

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from outbox_relay.errors import DecodeError
from outbox_relay.outbox import ROLES, Outbox
from outbox_relay.row import OutboxRow

TRANSACTIONAL = 1
_FLAGS_AT, _PREFIX_AT = 1, 10  # kind, flags, position (8 bytes)
_length = struct.Struct(">I").unpack_from


def decoder(outbox: Outbox, *, uuids: bool) -> Callable[[bytes], OutboxRow | None]:
    """What makes rows of an outbox's messages; None for messages that are not its own.

    A content that is none becomes a row without an ID, which is quarantined like any other. A message that is not
    transactional is none of the outbox: it is in the log though its transaction may be rolled back.

    Args:
        outbox: whose prefix and columns.
        uuids: whether IDs must be UUIDs, as those of the table are.

    Raises (the function that is returned):
        DecodeError: it violates the protocol.
    """
    prefix = (outbox.messages or "").encode()
    names = [outbox.columns.by_role.get(role) for role in ROLES]
    others = [one.column for one in outbox.additional]
    (id_at, payload_at) = (ROLES.index(role) for role in ("id", "payload"))

    def decode(message: bytes) -> OutboxRow | None:
        try:
            prefix_end = message.index(0, _PREFIX_AT)
            (length,) = _length(message, prefix_end + 1)
        except (ValueError, struct.error):
            raise DecodeError(f"truncated message of {len(message)} bytes") from None
        if message[_PREFIX_AT:prefix_end] != prefix or not message[_FLAGS_AT] & TRANSACTIONAL:
            return None
        content = message[prefix_end + 5 :]
        if len(content) != length:
            raise DecodeError(f"message of {len(message)} bytes has a content of {length}")
        try:
            return row_of(json.loads(content))
        except (ValueError, RecursionError, AttributeError):  # no JSON, no object, or text that no encoding has
            return OutboxRow(None, None, None, None, content)

    def row_of(found: Mapping[str, Any]) -> OutboxRow:
        values = [_text(found.get(name)) if name is not None else None for name in names]
        values[payload_at] = _payload(found.get(outbox.columns.payload))
        if uuids:
            values[id_at] = _uuid(values[id_at])
        return OutboxRow._make([*values, tuple(_text(found.get(name)) for name in others)])

    return decode


def _text(value: Any) -> bytes | None:
    """A value as PostgreSQL writes it in the log."""
    if value is None or isinstance(value, str):
        return value.encode() if value is not None else None
    if isinstance(value, bool):
        return b"t" if value else b"f"
    return _written(value)


def _payload(value: Any) -> bytes | None:
    """A payload that is text as it is, and any other as compact JSON."""
    if value is None or isinstance(value, str):
        return value.encode() if value is not None else None
    return _written(value)


def _written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _uuid(value: bytes | None) -> bytes | None:
    """A UUID as PostgreSQL writes it; None for what is none."""
    try:
        return str(UUID((value or b"").decode())).encode()
    except ValueError:
        return None
