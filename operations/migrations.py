"""Migrations: each database's schema by Alembic, each service with versions of its own."""

import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

import processors
from contracts.postgres import session
from contracts.services import FOLDERS
from operations.errors import SchemaError

_ROOT = Path(processors.__file__).parents[1]

VERSIONS = {name: _ROOT.joinpath(*folder.split("."), "migrations") for name, folder in FOLDERS.items()}
"""Where the versions of each database's schema are."""

# An arbitrary number, the same for every process that migrates a Settle database.
_MIGRATION_LOCK = 0x5E771E

LOCK_WAIT_S = 2
"""How long a version waits for a table's lock: whatever a service does to that table waits behind it."""
PAUSE_S = 5.0
"""Between two attempts: what waited behind one gets done."""
GIVE_UP_AFTER_S = 300.0

_OLDEST = """
SELECT format('the oldest transaction in the way is that of process %s (%s, %s, %s, for %s s): when it has ended, '
              'or SELECT pg_terminate_backend(%s) has ended it, migrate again',
              pid, usename, coalesce(nullif(application_name, ''), 'no name'), state,
              extract(epoch FROM clock_timestamp() - xact_start)::bigint, pid)
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'relation' AND granted AND relation >= 16384)
ORDER BY xact_start LIMIT 1
"""


def migrate(service: str, dsn: str) -> None:
    """Bring the database of a service to the newest version; safe to run again, and by several at once.

    Each version is a transaction: what is interrupted leaves the database at a version between, which to services
    is like any older one. Where a table is in use by a transaction that stays, or a service waits for a version
    that waits for it (a deadlock), it is tried again and again, and services work in between.

    Args:
        service: one of :data:`VERSIONS`.
        dsn: of a role that may create tables; in any form that libpq takes, also with several hosts.

    Raises:
        sqlalchemy.exc.OperationalError: the database does not answer.
        psycopg.errors.LockNotAvailable: a table has been in use for :data:`GIVE_UP_AFTER_S`.
        SchemaError: the database has a version that is not among ours.
    """
    deadline = time.monotonic() + GIVE_UP_AFTER_S
    while True:
        try:
            return _upgrade(service, dsn)
        except CommandError as error:
            raise SchemaError(f"{service}: its schema is of a newer version of Settle: {error}") from None
        except OperationalError as error:
            if not isinstance(error.orig, (LockNotAvailable, DeadlockDetected)):
                raise
        if time.monotonic() > deadline:
            raise LockNotAvailable(f"{service}: a table could not be locked; {_in_the_way(dsn)}")
        time.sleep(PAUSE_S)


def _upgrade(service: str, dsn: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(_ROOT / "processors" / "runtime" / "alembic"))
    config.set_main_option("version_locations", str(VERSIONS[service]))
    config.set_main_option("path_separator", "newline")
    # SQLAlchemy parses URLs differently from libpq, so it gets a function that makes connections.
    engine = create_engine("postgresql+psycopg://", creator=lambda: session(dsn), poolclass=NullPool)
    with engine.connect() as connection:
        # For as long as the session, which ends with this block.
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
        connection.execute(text(f"SET lock_timeout = '{LOCK_WAIT_S}s'"))
        connection.commit()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _in_the_way(dsn: str) -> str:
    with session(dsn) as connection:
        row = connection.execute(_OLDEST).fetchone()
    return str(row[0]) if row else "what was in the way has just ended: migrate again"
