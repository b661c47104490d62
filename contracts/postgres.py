"""Factories for PostgreSQL connections, one per purpose, with time limits that detect a vanished host.

No other module opens one. A limit in the DSN, or in the service that it names, wins:
https://www.postgresql.org/docs/current/libpq-connect.html.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, overload

from psycopg import AsyncConnection, BaseConnection, Connection, OperationalError

from contracts.dsn import effective
from contracts.variables import variable_of

_REACHABLE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}
"""libpq's parameters that detect a vanished host within 25 s."""

# A walsender that decodes a large transaction of others reads nothing from its socket, maybe for hours. Once its
# buffers are full, tcp_user_timeout would close a live connection. The relay asks on a new connection instead.
_STREAMING = {**_REACHABLE, "tcp_user_timeout": 0}

# The server's names of the same: by default it notices a vanished client after two hours, and keeps its locks
# until then. Its tcp_user_timeout would also close the connection of who reads a long result slowly.
_SERVER_KEEPALIVES = {
    "keepalives_idle": "tcp_keepalives_idle",
    "keepalives_interval": "tcp_keepalives_interval",
    "keepalives_count": "tcp_keepalives_count",
}
_SERVER_LIMITS = {**_SERVER_KEEPALIVES, "tcp_user_timeout": "tcp_user_timeout"}

# What libpq, or the server, says where the DSN is to blame. Starting up and too many clients are FATAL as well.
_REFUSED = re.compile(
    r"authentication failed|certificate|SSL(?! SYSCALL| connection has been closed)|no password supplied"
    r"|pg_hba\.conf|role \"|database \"|denied|too old"
)

# Where nothing answers at all: as a rule an outage, but maybe another host or port than was meant.
_UNREACHED = re.compile(
    r"refused|resolve host|translate host|No route|unreachable|timeout expired|No such file", re.I
)

VERSION_MIN = 140_000
"""The oldest PostgreSQL, as its ``server_version_num``."""

AnyConnection = TypeVar("AnyConnection", bound=BaseConnection[Any])
ConnectionT = TypeVar("ConnectionT", bound=Connection[Any])
AsyncConnectionT = TypeVar("AsyncConnectionT", bound=AsyncConnection[Any])


@overload
def session(dsn: str, *, autocommit: bool = False) -> Connection: ...
@overload
def session(dsn: str, *, autocommit: bool = False, connection_class: type[ConnectionT]) -> ConnectionT: ...
def session(dsn: str, *, autocommit: bool = False, connection_class: type[Any] = Connection) -> Any:
    """A session for a command or another occasional caller, with no time limit but the server's.

    Its ``application_name`` is ``settle`` unless the DSN or ``PGAPPNAME`` gives another.

    Raises:
        psycopg.OperationalError: the database does not answer, or turns it away.
    """
    parameters = _parameters(dsn, fallback_application_name="settle")
    with _naming_the_variable(dsn):
        connection = _not_too_old(connection_class.connect(dsn, autocommit=True, **parameters))
    connection = _limited(connection, _server_limits(dsn))
    connection.autocommit = autocommit
    return connection


async def service_connection(dsn: str, name: str, connection_class: type[AsyncConnectionT]) -> AsyncConnectionT:
    """A connection that a service keeps, in autocommit mode.

    Args:
        dsn: where the database is.
        name: shown in ``pg_stat_activity``.
        connection_class: how it waits for answers.

    Raises:
        psycopg.OperationalError: the database does not answer, or turns it away.
    """
    parameters = _parameters(dsn, application_name=name)
    with _naming_the_variable(dsn):
        connection = _not_too_old(await connection_class.connect(dsn, autocommit=True, **parameters))
    try:
        await connection.execute(_server_limits(dsn))
    except BaseException:
        await connection.close()
        raise
    return connection


def relay_connection(dsn: str, *, replication: bool) -> Connection:
    """A connection of the relay's, in autocommit mode; for replication, it takes that protocol's commands as well.

    Raises:
        psycopg.OperationalError: the database does not answer, or turns it away.
    """
    limits, protocol = (_STREAMING, {"replication": "database"}) if replication else (_REACHABLE, {})
    parameters = _parameters(dsn, limits, application_name="settle-relay", **protocol)
    with _naming_the_variable(dsn):
        connection = _not_too_old(Connection.connect(dsn, autocommit=True, **parameters))
    # Who follows the log may read slowly, and is looked after by wal_sender_timeout; all others read at once.
    return _limited(connection, _server_limits(dsn, _SERVER_KEEPALIVES if replication else _SERVER_LIMITS))


def _not_too_old(connection: AnyConnection) -> AnyConnection:
    """The connection, if its server is of a version that Settle works with."""
    if connection.info.server_version < VERSION_MIN:
        major = connection.info.server_version // 10_000
        connection.pgconn.finish()
        raise OperationalError(f"PostgreSQL {major} is too old: {VERSION_MIN // 10_000} or newer is needed")
    return connection


def turns_away(error: Exception) -> bool:
    """Whether a server answered and let nobody in: for a password, a certificate or a right, not for an outage."""
    return isinstance(error, OperationalError) and _REFUSED.search(str(error)) is not None


@contextmanager
def _naming_the_variable(dsn: str) -> Iterator[None]:
    """Say in an error which variable the DSN comes from, and whether to look at it or for the server."""
    try:
        yield
    except OperationalError as error:
        first, *others = str(error).splitlines() or [""]
        how = "look at" if turns_away(error) else "the server of" if _UNREACHED.search(str(error)) else None
        if how is not None and (name := variable_of(dsn)) is not None:
            error.args = ("\n".join([f"{first}; {how} {name}", *others]),)
        raise


def _parameters(dsn: str, limits: Mapping[str, Any] = _REACHABLE, **named: str) -> dict[str, Any]:
    """libpq's parameters beside a DSN. Text is UTF-8, whatever the encoding of a database or a shell."""
    about = _about(dsn)
    unsaid = {limit: value for limit, value in limits.items() if limit not in about}
    return {**unsaid, "client_encoding": "utf8", **named}


def _about(dsn: str) -> dict[str, str]:
    try:
        return effective(dsn)
    except ValueError:  # connecting says what is wrong with it; a service file may be gone for a moment
        return {}


def _server_limits(dsn: str, names: Mapping[str, str] = _SERVER_KEEPALIVES) -> bytes:
    """SQL that has the server notice a vanished host as soon as this side would."""
    limits = {**_REACHABLE, **_about(dsn)}
    if str(limits.get("keepalives", "1")).strip() == "0":
        limits |= dict.fromkeys(_SERVER_KEEPALIVES, 0)
    said = (f"set_config('{name}', '{max(0, int(limits[limit]))}', false)" for limit, name in names.items())
    return f"SELECT {', '.join(said)}".encode()


def _limited(connection: ConnectionT, limits: bytes) -> ConnectionT:
    try:
        connection.execute(limits)
    except BaseException:
        connection.close()
        raise
    return connection
