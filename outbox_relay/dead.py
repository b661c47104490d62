"""What becomes of a row that can never be published? It goes to a table beside the outbox, with the reason.

Only what Kafka will never take comes here (a record that is too large, a name that no topic can have); all else is
waited for. The rows after it go on, so it has lost its place: a person decides whether it is published yet.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from outbox_relay.errors import SetupError, UnpublishableError
from outbox_relay.ledger import Transaction
from outbox_relay.pgoutput import OutboxRow
from outbox_relay.position import format_lsn, parse_lsn
from outbox_relay.publisher import DeliveryReport, Publish
from outbox_relay.table import scalar

CREATE_TABLE = """
    CREATE TABLE IF NOT EXISTS public.outbox_dead (
        id            text PRIMARY KEY,
        aggregatetype text NOT NULL,
        aggregateid   text NOT NULL,
        type          text NOT NULL,
        payload       json NOT NULL,
        traceparent   text,
        tracestate    text,
        position      pg_lsn NOT NULL,
        reason        text NOT NULL,
        died_at       timestamptz NOT NULL DEFAULT now()
    )
"""
"""A row is known by its ID and by where it was committed: sent once more, it is another."""

_EXISTS = "SELECT to_regclass('public.outbox_dead') IS NOT NULL"
_IDS = "SELECT id FROM public.outbox_dead"
_SINCE = "SELECT id, position::text FROM public.outbox_dead WHERE position >= {}::pg_lsn"
_BURY = """
    INSERT INTO public.outbox_dead
        (id, aggregatetype, aggregateid, type, payload, traceparent, tracestate, position, reason)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s::pg_lsn, %s)
    ON CONFLICT (id) DO UPDATE SET position = excluded.position, reason = excluded.reason, died_at = now()
"""
_LIST = """
    SELECT id, aggregatetype, aggregateid, type, octet_length(payload::text) AS payload_bytes, reason, died_at
    FROM public.outbox_dead ORDER BY died_at, id
"""
_TAKE = """
    DELETE FROM public.outbox_dead WHERE id = ANY(%(ids)s) OR %(all)s
    RETURNING id, aggregatetype, aggregateid, type, payload::text, traceparent, tracestate
"""
_FORGET = "DELETE FROM public.outbox WHERE id::text = %s"
_INSERT = """
    INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload, traceparent, tracestate)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
"""

DeadRows = Container[tuple[bytes, int]]
"""ID and commit position of rows that are not to be published."""


@dataclass(frozen=True)
class DeadRow:
    """A row that could not be published, as a person sees it."""

    id: str
    aggregatetype: str
    aggregateid: str
    type: str
    payload_bytes: int
    reason: str
    died_at: datetime


def has_dead(connection: psycopg.Connection[Any]) -> bool:
    """Whether there is a table of dead rows."""
    return bool(scalar(connection, _EXISTS))


def dead_since(connection: psycopg.Connection[Any], lsn: int) -> set[tuple[bytes, int]]:
    """The dead among the rows committed at ``lsn`` or later; works on a replication connection too."""
    if not has_dead(connection):
        return set()
    query = sql.SQL(_SINCE).format(sql.Literal(format_lsn(lsn)))
    return {(row_id.encode(), parse_lsn(position)) for row_id, position in connection.execute(query)}


def dead_ids(connection: psycopg.Connection[Any]) -> set[bytes]:
    """The IDs of all dead rows."""
    if not has_dead(connection):
        return set()
    return {row_id.encode() for (row_id,) in connection.execute(_IDS)}


def not_dead(publish: Publish, dead: DeadRows) -> Publish:
    """The same stage, without the dead; the stage itself where there are none."""
    if not dead:
        return publish

    def publish_living(row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport, /) -> None:
        if (row.id, transaction.commit_lsn) in dead:
            transaction.leave(row)
        else:
            publish(row, transaction, on_delivery)

    return publish_living


def bury(connection: psycopg.Connection[Any], error: UnpublishableError) -> None:
    """Put a row into the dead-letter table, which is made if it is missing.

    Raises:
        SetupError: the role may not; the text says what to run.
        psycopg.Error: the database cannot.
    """
    row = [value.decode() if value is not None else None for value in error.row]
    try:
        if not has_dead(connection):
            connection.execute(CREATE_TABLE)
        connection.execute(_BURY, (*row, format_lsn(error.lsn), error.reason))
    except psycopg.errors.InsufficientPrivilege:
        role = connection.info.user
        raise SetupError(
            f"row {row[0]} can never be published ({error.reason}), and {role} may not put it aside. Let the "
            f"owner run: {' '.join(CREATE_TABLE.split())}; "
            f"GRANT SELECT, INSERT, UPDATE ON public.outbox_dead TO {role}"
        ) from None


def dead_rows(connection: psycopg.Connection[Any]) -> list[DeadRow]:
    """All of them, the oldest first."""
    if not has_dead(connection):
        return []
    return connection.cursor(row_factory=class_row(DeadRow)).execute(_LIST).fetchall()


def retry(connection: psycopg.Connection[Any], ids: Sequence[str] | None) -> list[str]:
    """Put dead rows into the outbox again, as new ones at its end with the same IDs; which those were.

    Args:
        connection: of a role that owns the tables, or may insert and delete.
        ids: of the rows; None for all.
    """
    if not has_dead(connection):
        return []
    with connection.transaction():
        values: Mapping[str, Any] = {"ids": list(ids or ()), "all": ids is None}
        rows = connection.execute(_TAKE, values).fetchall()
        for row in rows:
            connection.execute(_FORGET, row[:1])
            connection.execute(_INSERT, row)
    return [row[0] for row in rows]
