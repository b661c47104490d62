"""The identity of a row within its source: its UUID, or where the ID is none, a digest of its contents.

A UUID is assigned once. Other IDs may be reused: a table that was recreated, or emptied with its
sequence, counts from 1.
"""

import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from uuid import UUID

from psycopg import sql

from outbox_relay.columns import Columns, as_bytes
from outbox_relay.outbox import ROLES, ROLES_CONTENTS
from outbox_relay.row import OutboxRow

UUID_BYTES = 16
# As a converter of JSON writes it, with a schema or without.
_UUID_IN_JSON = re.compile(rb'"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"}?$')

Key = Callable[[OutboxRow], bytes | None]
"""The key of a row, as :func:`key_in_table` gives it."""


def contents(row: OutboxRow) -> bytes:
    """The contents that identify a row, be its ID unique or not; the trace context does not count."""
    return _digests(row[:ROLES_CONTENTS])


def _digests(values: Iterable[bytes | None]) -> bytes:
    return b"".join(sha256(value).digest() if value is not None else b"-" for value in values)


def digest(row: OutboxRow) -> bytes:
    """The same in 32 bytes."""
    return sha256(contents(row)).digest()


def identity(row_id: bytes, topic: str, key: bytes | None, event_type: bytes | None, value: bytes | None) -> bytes:
    """The identity shared by a row and its record: the 16 bytes of a UUID, or a digest of what the record says."""
    try:
        return UUID(row_id.decode()).bytes
    except ValueError:
        if row_id.endswith((b'"', b'"}')) and (found := _UUID_IN_JSON.search(row_id)):
            return UUID(found[1].decode()).bytes
        return sha256(_digests((row_id, topic.encode(), key, event_type, value))).digest()


def key_in_table(columns: Columns) -> sql.Composable:
    """SQL for the key of a row of the table: the text of its UUID, or the digest, as bytes."""
    if columns["id"].kind == "uuid":
        return as_bytes("id", columns)
    parts = [
        sql.SQL("coalesce(sha256({}), '-')").format(as_bytes(role, columns)) for role in ROLES[:ROLES_CONTENTS]
    ]
    return sql.SQL("sha256({})").format(sql.SQL(" || ").join(parts))
