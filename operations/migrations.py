"""Migrations: each database's schema by Alembic, each service with versions of its own."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import processors
from contracts.postgres import session
from contracts.services import FOLDERS

_ROOT = Path(processors.__file__).parents[1]

VERSIONS = {name: _ROOT.joinpath(*folder.split("."), "migrations") for name, folder in FOLDERS.items()}
"""Where the versions of each database's schema are."""

# An arbitrary number, the same for every process that migrates a Settle database.
_MIGRATION_LOCK = 0x5E771E


def migrate(service: str, dsn: str) -> None:
    """Bring the database of a service to the newest version; safe to run again, and by several at once.

    Args:
        service: one of :data:`VERSIONS`.
        dsn: of a role that may create tables; in any form that libpq takes, also with several hosts.

    Raises:
        sqlalchemy.exc.OperationalError: the database does not answer.
    """
    config = Config()
    config.set_main_option("script_location", str(_ROOT / "processors" / "runtime" / "alembic"))
    config.set_main_option("version_locations", str(VERSIONS[service]))
    config.set_main_option("path_separator", "newline")
    # SQLAlchemy parses URLs differently from libpq, so it gets a function that makes connections.
    engine = create_engine("postgresql+psycopg://", creator=lambda: session(dsn), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
