"""Rewinding: rows that the table still holds are published again, from a time or a row on.

Which rows these are is a condition in SQL. Where the log is read, they come from the snapshot of a temporary slot:
everything committed before it is published first, nothing committed after it, and then the rows again in the order
of the table. So each key's records end in the order of their commits, however much came in meanwhile.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from contracts import failpoints
from outbox_relay.acknowledgements import Acknowledgements
from outbox_relay.columns import as_bytes
from outbox_relay.errors import SetupError
from outbox_relay.identity import Key
from outbox_relay.outbox import Outbox
from outbox_relay.publisher import Publisher
from outbox_relay.row import OutboxRow
from outbox_relay.stages import Publish
from outbox_relay.table import Table, order_of

PUSH_WAIT_S = 0.1
# The keys of rows under way are packed, and acknowledgements looked at, when there are so many.
PACK_ROWS = 1_000

_SINCE = "{created_at} >= {since} AND {mine}"
_FROM_ROW = """
    ({order}) >= (SELECT {order} FROM {table} WHERE {bytes} = {row_id} ORDER BY {order} LIMIT 1) AND {mine}
"""
_HAS_ROW = "SELECT count(*) > 0 FROM {table} WHERE {bytes} = {row_id} AND {mine}"


@dataclass(frozen=True)
class Held:
    """What of a rewind the table still holds.

    Attributes:
        rows: that would be published again.
        all_rows: in the table.
        oldest: when the oldest of all was written, as PostgreSQL writes it; None where that is not known.
    """

    rows: int
    all_rows: int
    oldest: str | None


def refusal(outbox: Outbox) -> str | None:
    """Why an outbox cannot be rewound at all; None where it can."""
    if outbox.messages is not None:
        return "rows that stand in the log alone are gone once they are published: there is nothing to rewind to"
    return None


def condition(
    connection: psycopg.Connection[Any], table: Table, from_id: str | None, since: datetime | None
) -> sql.Composable:
    """SQL for the rows that are to be published again.

    Args:
        connection: to the table's database.
        table: which holds them.
        from_id: the ID of the first one; or None, and
        since: they were written then or later.

    Raises:
        SetupError: the table does not say when rows were written, or has not that row.
    """
    if from_id is None:
        column = table.columns.get("created_at")
        if column is None or column.kind != "timestamptz":
            raise SetupError(
                f"{table.outbox.label} does not say exactly when its rows were written (it has no created_at of "
                "type timestamptz): rewind to a row"
            )
        return table.outbox.sql(_SINCE, since=sql.Literal(since), mine=table.mine)
    row_id = sql.SQL("{}::bytea").format(sql.Literal(from_id.encode()))
    row = {"bytes": as_bytes("id", table.columns), "row_id": row_id, "mine": table.mine}
    (is_there,) = connection.execute(table.outbox.sql(_HAS_ROW, **row)).fetchone() or (False,)
    if not is_there:
        gone = "it was published and removed, or never was"
        raise SetupError(f"{table.outbox.label} has no row {from_id}: {gone}")
    return table.outbox.sql(_FROM_ROW, order=order_of(connection, table), **row)


def held(connection: psycopg.Connection[Any], table: Table, wanted: sql.Composable) -> Held:
    """What the table holds of it now."""
    column = table.columns.get("created_at")
    created_at = sql.Identifier(column.name) if column is not None else sql.SQL("NULL::timestamptz")
    query = table.outbox.sql(
        "SELECT count(*) FILTER (WHERE {wanted}), count(*), min({created})::text FROM {table} WHERE {mine}",
        wanted=wanted,
        mine=table.mine,
        created=created_at,
    )
    return Held(*(connection.execute(query).fetchone() or (0, 0, None)))


def publish_again(
    rows: Iterator[OutboxRow],
    acks: Acknowledgements,
    lsn: int,
    publisher: Publisher,
    publish: Publish,
    key: Key,
    look: Callable[[], None],
) -> int:
    """Publish rows, and wait until Kafka has all of them; how many they are.

    Args:
        rows: in their order.
        acks: what is on its way.
        lsn: they count as committed there.
        publisher: Kafka.
        publish: the stage that takes them.
        key: of a row, by which it may be removed from the table.
        look: called now and then; may raise to give up.
    """
    transaction = acks.begin(lsn, int(time.time() * 1e6))
    delivered = transaction.delivered
    seen = 0
    for seen, row in enumerate(rows, 1):
        transaction.keys.append(key(row))
        transaction.rows += 1
        transaction.value_bytes += len(row.payload or b"")
        publish(row, transaction, delivered)
        if seen % PACK_ROWS == 0:
            acks.pack(transaction)
            publisher.poll()
            look()
    published = transaction.rows
    acks.end(transaction, max(acks.confirmed_lsn, 1))
    while publisher.waiting:
        publisher.push(PUSH_WAIT_S)
        look()
    look()
    failpoints.hit("control.repeated")
    return published


def outcome(rows: int) -> str:
    """What came of a rewind, for people."""
    return f"{rows:,} row{'s' if rows != 1 else ''} published again"
