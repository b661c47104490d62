"""What a source measures in its database: lag, log that its slot keeps, dead rows."""

from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

import psycopg

from outbox_relay.outbox import Outbox
from outbox_relay.slot_name import slot_name
from outbox_relay.table import scalar

_GAUGES = """
    SELECT greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn))::int8,
        greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::int8
    FROM pg_replication_slots WHERE slot_name = %s
"""
_DEAD = "SELECT count(*) FROM {dead}"


def measure(connection: psycopg.Connection[Any], outbox: Outbox, gauges: MutableMapping[str, int]) -> None:
    """Fill in ``lag_bytes``, ``slot_retained_bytes`` and ``dead_rows``, each where it can be told."""
    found = connection.execute(_GAUGES, (slot_name(connection, outbox),)).fetchone()
    if found is not None:
        gauges["lag_bytes"], gauges["slot_retained_bytes"] = found
    with suppress(psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        gauges["dead_rows"] = scalar(connection, outbox.sql(_DEAD))
