"""The publication of a source that reads the log: made and mended where possible, and watched for changes."""

from contextlib import suppress
from typing import Any

import psycopg

from outbox_relay import coverage
from outbox_relay.errors import SetupError
from outbox_relay.replication import ReplicationConnection
from outbox_relay.source import Source
from outbox_relay.table import Connection, Table, find_table

# When it is, and which transactions of the database run. When these began is shown to few roles only.
_RUNNING = """
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8, ARRAY(
        SELECT virtualxid FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'virtualxid' AND mode = 'ExclusiveLock' AND datname = current_database()
            AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
    )
"""
_CHANGED = "the publication or the table has been changed"


def ensure(source: Source, connection: ReplicationConnection, table: Table, *, keeps: bool) -> str | None:
    """Create or repair the publication; continue with what it covers where only its owner may repair it.

    Args:
        source: which is to read.
        connection: the session's.
        table: the outbox.
        keeps: whether published rows stay in the table, so that it is to be searched for what was left out.

    Returns:
        Why a slot that is there may have left out rows until now, if so.

    Raises:
        SetupError: there is none, and the role may not make it.
    """
    at_us, running = _running(connection)
    gap = coverage.publication_gap(connection, table)
    mended: str | None = None
    if gap is not None:
        try:
            coverage.mend(connection, gap)
        except SetupError:
            if gap.is_missing:
                raise
            source.find_gap(str(gap))
        else:
            mended = gap.reason
            source.say("the publication is made, or mended", was=mended)
            gap = None
            if keeps:
                source.left_out.note()
    is_covered = gap is None and mended is None
    has_changed = source.left_out.look(_facts(connection, table, gap), at_us, running, is_covered=is_covered)
    if has_changed and keeps:
        source.left_out.note()
    return mended or (_CHANGED if has_changed else None)


def look(
    source: Source, connection: psycopg.Connection[Any], table: Table, waits: str | None, *, keeps: bool
) -> None:
    """Repair the publication if it does not cover the table, or report the statements to run.

    Args:
        source: which reads.
        connection: an ordinary one.
        table: the outbox, as the session knows it.
        waits: what is to be reported where the publication covers it, if anything.
        keeps: whether published rows stay in the table.
    """
    at_us, running = _running(connection)
    if find_table(connection, table.outbox) != table:
        source.begin_again("the outbox has other columns now")
    gap = coverage.publication_gap(connection, table)
    is_covered = gap is None
    if gap is not None:
        source.find_gap(str(gap))
        with suppress(SetupError):  # the statements to run are reported already
            coverage.mend(connection, gap)
            source.say("the publication is mended", was=gap.reason)
            gap = None
    if source.left_out.look(_facts(connection, table, gap), at_us, running, is_covered=is_covered) and keeps:
        source.leave_out(_CHANGED)
    if gap is None:
        source.find_gap(waits)


def miss_columns(source: Source, names: str | None) -> None:
    """Rows come without these columns, and cannot be read for that; None: they come with all again."""
    if names is None:
        return
    publication = source.outbox.publication_name
    source.find_gap(f"rows come without the column {names}: publication {publication} had not all of them")
    if source.keeps_rows:
        source.leave_out(f"rows came without the column {names}")


def _running(connection: Connection) -> tuple[int, list[str]]:
    found = connection.execute(_RUNNING).fetchone()
    assert found is not None, "a row of the server"
    return found[0], found[1]


def _facts(connection: Connection, table: Table, gap: coverage.Gap | None) -> str:
    """What changes with table and publication, also where that is reverted, and with what they lack."""
    return f"{coverage.fingerprint(connection, table.outbox)} {gap.reason if gap is not None else ''}"
