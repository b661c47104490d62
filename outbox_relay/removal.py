"""Whether rows can be removed from a table at all, tried out: a trigger, a rule or a foreign key may keep them."""

from typing import Any

import psycopg
from psycopg import sql

from outbox_relay.handled import Chunk
from outbox_relay.names import one_line

IGNORED = "a trigger or a rule ignores that they are deleted"
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


def why_rows_stay(connection: psycopg.Connection[Any], delete: sql.Composed, rows: Chunk) -> str | None:
    """Why these rows, which are there, would stay in the table; None where they would not.

    What is tried out is taken back: it happens in a transaction of its own within the one that is open.

    Args:
        connection: in a transaction whose snapshot shows the rows.
        delete: the statement that removes a chunk.
        rows: by their keys.
    """
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            removed = connection.execute(delete, (rows,), prepare=False).rowcount
        return IGNORED if removed < len(set(rows.keys())) else None
    except _IN_USE:
        return None
    except psycopg.Error as error:
        return refusal(error)
