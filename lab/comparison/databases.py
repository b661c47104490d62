"""An approach's own databases, made and removed on one of the servers that the stack runs.

An approach's databases stand together on the account service's server, but an approach that spans services
still uses one connection and one transaction per database.
"""

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from contracts.postgres import session

_EXISTS: LiteralString = "SELECT 1 FROM pg_database WHERE datname = %s"
_ANY_EXISTS: LiteralString = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = ANY(%s))"
_END_SESSIONS: LiteralString = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()
"""
_PREPARED: LiteralString = "SELECT gid FROM pg_prepared_xacts WHERE database = %s"
_SESSIONS: LiteralString = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = ANY(%s))"
_SLOTS: LiteralString = "SELECT slot_name FROM pg_replication_slots WHERE database = %s"
# A walsender whose relay has gone notices it a moment later.
_END_READERS: LiteralString = """
SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
WHERE database = %s AND active_pid IS NOT NULL
"""


class Server:
    """A database server.

    Args:
        dsn: URL of any database on it, of a role that may create databases.

    Attributes:
        address: host:port.
    """

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self.address = self._parts.netloc.rpartition("@")[2]

    def dsn(self, database: str) -> str:
        """The URL of one of its databases."""
        return urlunsplit(self._parts._replace(path=f"/{database}"))

    def any_exists(self, names: Sequence[str]) -> bool:
        """Whether one of these databases is there; asked through the DSN's, to which a reader may connect."""
        with session(urlunsplit(self._parts), autocommit=True) as known:
            row = known.execute(_ANY_EXISTS, (list(names),)).fetchone()
        return row is not None and bool(row[0])

    def create(self, schemas: Mapping[str, str], *, fresh: bool) -> None:
        """Create databases with their tables.

        Args:
            schemas: SQL by database name.
            fresh: begin empty, whatever was there; otherwise those that exist stay as they are.
        """
        for name, schema in schemas.items():
            if fresh:
                self.drop(name)
            with self._admin() as admin:
                if admin.execute(_EXISTS, (name,)).fetchone():
                    continue
                admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            with session(self.dsn(name), autocommit=True) as database:
                database.execute(schema)

    def drop(self, name: str) -> None:
        """Drop a database with its slots, prepared transactions and sessions; no effect if it does not exist."""
        with self._admin() as admin:
            if not admin.execute(_EXISTS, (name,)).fetchone():
                return
        self.open(name)
        with session(self.dsn(name), autocommit=True) as database:
            for (gid,) in database.execute(_PREPARED, (name,)).fetchall():
                database.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        with self._admin() as admin:
            admin.execute(_END_SESSIONS, (name,))
        self.drop_slots(name)
        with self._admin() as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def drop_slots(self, name: str) -> None:
        """Drop a database's replication slots, which nobody reads any more."""
        with self._admin() as admin:
            admin.execute(_END_READERS, (name,))
            for (slot,) in admin.execute(_SLOTS, (name,)).fetchall():
                admin.execute("SELECT pg_drop_replication_slot(%s)", (slot,))

    def has_sessions(self, names: Sequence[str]) -> bool:
        """Whether a session of one of these databases has not ended yet."""
        with self._admin() as admin:
            row = admin.execute(_SESSIONS, (list(names),)).fetchone()
        return row is not None and bool(row[0])

    def close(self, name: str) -> None:
        """Make a database unavailable: its sessions end as in a crash, and new ones are refused."""
        with self._admin() as admin:
            admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
            admin.execute(_END_SESSIONS, (name,))

    def open(self, name: str) -> None:
        """Make it available again."""
        with self._admin() as admin:
            admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name)))

    def ask(self, query: LiteralString, *values: Any) -> Any:
        """The first value of a query on the server's statistics."""
        with self._admin() as admin:
            row = admin.execute(query, values or None).fetchone()
            return row[0] if row else None

    def _admin(self) -> psycopg.Connection[tuple[Any, ...]]:
        return session(self.dsn("postgres"), autocommit=True)
