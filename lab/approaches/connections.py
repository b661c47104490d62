"""An approach's database connection, which counts its round trips."""

from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from contracts.postgres import session

LOCK_TIMEOUT_S = 2.0
"""How long a statement waits for a lock before its client gives up, seconds."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection in autocommit mode: transactions are explicit.

    Attributes:
        waits: round trips of all connections in this process.
    """

    waits = 0

    def wait(self, *arguments: Any, **options: Any) -> Any:
        """As psycopg's; called once per statement, BEGIN and COMMIT."""
        Connection.waits += 1  # not exact where threads race; counted with one client
        return super().wait(*arguments, **options)


def connect(dsn: str, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> Connection:
    """A new connection.

    Args:
        dsn: ``postgresql://user@host:port/database``.
        lock_timeout_s: how long a statement may wait for a lock, seconds.

    Raises:
        psycopg.OperationalError: the database does not answer.
    """
    options = f"-c lock_timeout={round(lock_timeout_s * 1000)}"
    dsn = make_conninfo(dsn, options=options, application_name="settle-approaches")
    return session(dsn, autocommit=True, connection_class=Connection)
