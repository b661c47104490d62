"""The removal of rows: what keeps them in the table (a trigger, a rule, a foreign key), tried out; and vacuum."""

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from outbox_relay.columns import is_row
from outbox_relay.errors import TableBusyError
from outbox_relay.names import one_line
from outbox_relay.outbox import ROLES_CONTENTS, Outbox
from outbox_relay.places import PLACE, in_each_partition
from outbox_relay.row import OutboxRow
from outbox_relay.table import Table, may_delete, scalar

IGNORED = "a trigger or a rule ignores that they are deleted"
# So many of the oldest rows, and of the newest: what keeps rows may let some of them go.
TRIED_ROWS = 500
LOCK_WAIT = "5s"

# What can keep rows that may be deleted: triggers (foreign keys are some), rules, policies, and publications of
# deletes, whose columns and filters have to fit the key. Most outboxes have none: the relay's own is of inserts.
_CAN_KEEP = """
    WITH RECURSIVE parts(id) AS (
        SELECT {name}::regclass::oid
        UNION SELECT i.inhrelid FROM pg_inherits AS i JOIN parts ON i.inhparent = parts.id
    )
    SELECT EXISTS (
        SELECT FROM parts JOIN pg_class AS c ON c.oid = parts.id
        WHERE c.relrowsecurity
            OR EXISTS (SELECT FROM pg_rewrite AS r WHERE r.ev_class = c.oid AND r.ev_type = '4')
            OR EXISTS (
                SELECT FROM pg_trigger AS t
                WHERE t.tgrelid = c.oid AND t.tgtype & 8 <> 0 AND t.tgenabled <> 'D'
            )
    ) OR EXISTS (
        SELECT FROM pg_publication AS p JOIN pg_publication_tables AS t USING (pubname)
        JOIN pg_namespace AS n ON n.nspname = t.schemaname
        JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
        WHERE p.pubdelete
            AND c.oid IN (SELECT id FROM parts UNION SELECT relid FROM pg_partition_ancestors({name}::regclass))
    )
"""
_SOME_ROWS = """
    (SELECT {place} FROM {table} WHERE {mine} ORDER BY {id} LIMIT {count})
    UNION (SELECT {place} FROM {table} WHERE {mine} ORDER BY {id} DESC LIMIT {count})
"""
_REMOVE = "DELETE FROM {table} WHERE tableoid = %s::oid AND ctid = ANY(%s::tid[])"
_REMOVE_DEAD = "DELETE FROM {table} WHERE {is_row}"
# Rows at '-infinity' and 'infinity' are not known to be published (see marks).
_REMOVE_MARKED = """
    DELETE FROM {table} WHERE isfinite({published_at})
        AND ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE isfinite({published_at}) LIMIT %s))
"""
_HAS_MARKED = "SELECT EXISTS (SELECT FROM {table} WHERE isfinite({published_at}))"
# As the background process would, and without the lock that gives space back to the operating system.
_VACUUM = "VACUUM (TRUNCATE false) {table}"
_MAY_VACUUM = """
    SELECT pg_has_role(c.relowner, 'USAGE') OR current_setting('server_version_num')::int >= 170000
        AND has_table_privilege(c.oid, 'MAINTAIN')
    FROM pg_class AS c WHERE c.oid = {name}::regclass
"""
# Others hold the rows that a removal is tried out on: that says nothing.
_IN_USE = (psycopg.errors.LockNotAvailable, psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)


def refusal(error: psycopg.Error) -> str:
    """Why the database refuses to remove rows: a trigger, a foreign key, or no key where deletes are published.

    Raises:
        psycopg.OperationalError: it is away, or others are in the way; the error itself.
    """
    is_refusal = isinstance(error, psycopg.errors.ObjectNotInPrerequisiteState)
    if isinstance(error, psycopg.OperationalError) and not is_refusal:
        raise error
    return one_line(error)


def rows_stay(
    connection: psycopg.Connection[Any],
    table: Table,
    *,
    cleanup: bool,
    refused: Callable[[str], None] = lambda _: None,
) -> bool:
    """Whether published rows stay in the table: by the setting, by right, or as some cannot be removed.

    To be asked before rows are published from the table: where they stay, most were published long ago.

    Args:
        connection: an ordinary one, in no transaction.
        table: the outbox.
        cleanup: whether published rows are to be removed.
        refused: called with why some cannot be removed that may be, if so.

    Raises:
        TableBusyError: others hold the rows, so that it is not known now.
    """
    outbox = table.outbox
    if not (cleanup and may_delete(connection, outbox)):
        return True
    if not scalar(connection, outbox.sql(_CAN_KEEP)):
        return False
    parts = {"place": sql.SQL(", ").join(PLACE), "mine": table.mine, "count": sql.Literal(TRIED_ROWS)}
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'".encode())
        places = connection.execute(outbox.sql(_SOME_ROWS, **parts)).fetchall()
        why = why_rows_stay(
            connection, outbox, lambda: in_each_partition(connection, outbox, _REMOVE, places), len(places)
        )
    if why is not None:
        refused(why)
    return why is not None


def remove_marked(connection: psycopg.Connection[Any], outbox: Outbox, rows_max: int) -> int:
    """Remove rows that are marked as published; returns how many."""
    return connection.execute(outbox.sql(_REMOVE_MARKED), (rows_max,)).rowcount


def has_marked(connection: psycopg.Connection[Any], outbox: Outbox) -> bool:
    """Whether the table has rows that are marked as published."""
    return bool(scalar(connection, outbox.sql(_HAS_MARKED)))


def remove_dead(connection: psycopg.Connection[Any], table: Table, row: OutboxRow) -> int:
    """Remove a row that is quarantined, by its contents: its ID may be NULL, or another one's too."""
    query = table.outbox.sql(_REMOVE_DEAD, is_row=is_row(table.columns))
    return connection.execute(query, row[:ROLES_CONTENTS]).rowcount


def may_vacuum(connection: psycopg.Connection[Any], outbox: Outbox) -> bool:
    """Whether the role may vacuum the table."""
    return bool(scalar(connection, outbox.sql(_MAY_VACUUM)))


def vacuum(connection: psycopg.Connection[Any], outbox: Outbox) -> None:
    """Have the space of removed rows reused."""
    connection.execute(outbox.sql(_VACUUM))


def why_rows_stay(
    connection: psycopg.Connection[Any], outbox: Outbox, remove: Callable[[], int], rows: int
) -> str | None:
    """Why rows that are there would stay in the table; None where they would not.

    What is tried out is taken back: it happens in a transaction of its own within the one that is open.

    Args:
        connection: in a transaction whose snapshot shows the rows.
        outbox: whose they are.
        remove: removes them; returns how many it did.
        rows: how many they are.

    Raises:
        TableBusyError: others hold the rows, so that it is not known now.
    """
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            removed = remove()
        return IGNORED if removed < rows else None
    except _IN_USE:
        raise TableBusyError(
            f"transactions that are open hold rows of {outbox.label}; whether these can be removed is tried later"
        ) from None
    except psycopg.Error as error:
        return refusal(error)
