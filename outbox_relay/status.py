"""The status of an outbox, queried from its database, whether a relay runs or not."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.rows import class_row

from outbox_relay import coverage
from outbox_relay.columns import as_bytes
from outbox_relay.control import table as control
from outbox_relay.dead import has_dead
from outbox_relay.outbox import OUTBOX, Outbox
from outbox_relay.slot_name import slot_name
from outbox_relay.table import Table, find_table, is_locked
from outbox_relay.topic import topic_named

_STATUS = """
    SELECT current_database()::text AS source,
        s.slot_name::text AS slot,
        coalesce(s.active, false) OR {is_locked} AS active,
        s.wal_status::text AS wal_status,
        s.confirmed_flush_lsn::text AS confirmed_lsn,
        greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn))::int8 AS lag_bytes,
        greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn))::int8 AS retained_bytes,
        (SELECT count(*) FROM {table} WHERE {mine})::int8 AS rows,
        pg_total_relation_size({name})::int8 AS table_bytes,
        {dead_rows} AS dead_rows,
        %s::text AS gap
    FROM (SELECT) AS one LEFT JOIN pg_replication_slots AS s ON s.slot_name = %s
"""
_DEAD_ROWS = "(SELECT count(*) FROM {dead})::int8"
_AGGREGATE_TYPES = "SELECT DISTINCT {bytes} FROM {table} WHERE {condition} LIMIT %s"
# In one outbox; more would be no list for a person.
AGGREGATE_TYPES_MAX = 1_000


@dataclass(frozen=True)
class OutboxStatus:
    """Where an outbox stands.

    Attributes:
        source: the database's name.
        slot: of the relay; None where none has ever read the log.
        active: whether a relay reads it now, the log or the table.
        wal_status: ``reserved``, ``extended``, ``unreserved`` or ``lost``, as PostgreSQL says.
        confirmed_lsn: everything before it is published.
        lag_bytes: log that is not confirmed.
        retained_bytes: log that the server keeps for the slot.
        rows: in the table now, of the share where it is split: not published yet, or not removed yet.
        table_bytes: with indexes, and with the space of rows that were removed.
        dead_rows: quarantined, as they can never be published.
        gap: why the log does not bring all rows to a relay that reads it, and what mends that; None where it does.
        paused: since when, by whom and why people have it paused; None where they have not.
        missing_topics: that rows of the table belong on, and Kafka does not have; None where it was not asked.
    """

    source: str
    slot: str | None
    active: bool
    wal_status: str | None
    confirmed_lsn: str | None
    lag_bytes: int | None
    retained_bytes: int | None
    rows: int
    table_bytes: int
    dead_rows: int
    gap: str | None
    paused: str | None = None
    missing_topics: tuple[str, ...] | None = None


def outbox_status(
    connection: psycopg.Connection[Any], topics: AbstractSet[str] | None = None, outbox: Outbox = OUTBOX
) -> OutboxStatus:
    """Ask for all of it.

    Args:
        connection: of the outbox's database.
        topics: those that Kafka has; None where it could not be asked.
        outbox: which of that database.

    Raises:
        OutboxMissingError: there is no outbox.
    """
    table = find_table(connection, outbox)
    name = slot_name(connection, outbox)
    gap = coverage.slot_gap(connection, name) or coverage.publication_gap(connection, table)
    dead_rows = outbox.sql(_DEAD_ROWS if has_dead(connection, outbox) else "0::int8")
    with connection.cursor(row_factory=class_row(OutboxStatus)) as cursor:
        query = outbox.sql(_STATUS, dead_rows=dead_rows, is_locked=is_locked(outbox), mine=table.mine)
        row = cursor.execute(query, (str(gap) if gap is not None else None, name)).fetchone()
    assert row is not None
    row = replace(row, paused=paused(connection, outbox))
    return row if topics is None else replace(row, missing_topics=missing_topics(connection, table, topics))


def paused(connection: psycopg.Connection[Any], outbox: Outbox = OUTBOX) -> str | None:
    """Since when, by whom and why an outbox is paused, if it is; whoever may not read of it hears of nothing."""
    if not control.has_table(connection, outbox) or not control.rights(connection, outbox)[0]:
        return None
    pause = control.orders(connection, outbox).pause
    return pause.as_pause if pause is not None else None


def missing_topics(connection: psycopg.Connection[Any], table: Table, topics: AbstractSet[str]) -> tuple[str, ...]:
    """The topics that rows of the table belong on, and Kafka does not have."""
    route = table.outbox.route
    query = table.outbox.sql(
        _AGGREGATE_TYPES, bytes=as_bytes("aggregatetype", table.columns), condition=table.unpublished
    )
    names = [name for (name,) in connection.execute(query, (AGGREGATE_TYPES_MAX,))]
    wanted = {topic_named(name, route) if name is not None else route.topic for name in names}
    return tuple(sorted(topic for topic in wanted if topic is not None and topic not in topics))
