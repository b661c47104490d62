"""A service's access to its database: one connection, one transaction per batch, in one round trip."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from contracts.dsn import effective
from contracts.postgres import turns_away
from processors.runtime import metrics
from processors.runtime.connection import PromptConnection, connect
from tracing import attributes as names

MANY = 50
"""From this number of messages on, a COPY saves more than its extra round trip costs."""


class LostRace(Exception):  # noqa: N818
    """A row has changed since it was read (optimistic locking)."""


LOST_RACES = (
    LostRace,
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
"""Another instance decided on the same withdrawal concurrently: nothing was written, read and decide again."""

_TRANSIENT = (
    LostRace,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
)
_SETUP = "42"
"""SQLSTATE class for a missing table or column, or a missing right."""

_LIMIT = "54"
"""SQLSTATE class for a program limit: an OperationalError to psycopg, but a single row may be the cause."""


def is_transient(error: Exception) -> bool:
    """Whether waiting fixes an error: the database is unavailable, out of resources, locked, or not migrated yet.

    The wait is for the server, a lock, a migration or a grant. Any other error (a value or a constraint violation,
    a limit that one row exceeds, an exception in our code) may be caused by one message.
    """
    state = (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""
    if state.startswith(_LIMIT):
        return False
    return state.startswith(_SETUP) or isinstance(error, _TRANSIENT)


def is_refusal(error: Exception) -> bool:
    """Whether a transient error is a refusal by a database that answers: read-only, or a missing table or right.

    Readiness detects an unavailable database itself; this shows only when something is written.
    """
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return True
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(_SETUP)


def unavailable(error: Exception) -> str:
    """How a database is not to be had, as the end of a sentence about it."""
    return "turns this service away" if turns_away(error) else "does not answer"


class Database:
    """A connection that is re-established after an outage.

    Args:
        dsn: ``postgresql://user@host:port/database``.
        service: shown in ``pg_stat_activity`` and in the metrics.
        connection_class: how it waits for answers.

    Attributes:
        attributes: of spans: which database it is.
    """

    def __init__(
        self, dsn: str, service: str, connection_class: type[PromptConnection] = PromptConnection
    ) -> None:
        self._dsn = dsn
        self._connection_class = connection_class
        self._service = service
        self.attributes = _attributes(dsn)
        self._connection: PromptConnection | None = None
        self._open = metrics.CONNECTIONS.labels(service)
        self._busy = metrics.CONNECTIONS_BUSY.labels(service)
        self._connects = metrics.CONNECTS.labels(service)
        self._seconds = metrics.TRANSACTION_SECONDS.labels(service)

    async def connect(self) -> PromptConnection:
        """The open connection if it is usable, else a new one.

        Raises:
            psycopg.OperationalError: the database does not answer.
        """
        if self._connection is not None and not self._connection.fit:
            await self.close()
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._dsn, f"settle-{self._service}", self._connection_class)
            self._open.set(1)
            self._connects.inc()
        return self._connection

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[PromptConnection]:
        """The connection, for statements that need no transaction around them.

        Raises:
            psycopg.OperationalError: the database went away, maybe after it has carried out the last statement.
        """
        connection = await self.connect()
        started = time.perf_counter()
        self._busy.set(1)
        try:
            yield connection
        finally:
            if not connection.fit:
                await self.close()
            self._busy.set(0)
            self._seconds.observe(time.perf_counter() - started)

    @asynccontextmanager
    async def transaction(self, messages: int = 1) -> AsyncIterator[AsyncConnection]:
        """A transaction; for few messages its statements do not wait for each other's answers (pipeline mode).

        Args:
            messages: how many are handled in it: for many, rows are copied (:mod:`processors.runtime.rows`).

        Raises:
            psycopg.OperationalError: the database went away; whether it is committed is unknown.
            psycopg.Error: it is undone, for this reason.
        """
        # psycopg's own transaction() waits for an answer at its beginning and before its end, as it may be nested.
        async with self.connected() as connection:
            try:
                async with AsyncExitStack() as stack:
                    if messages < MANY:
                        await stack.enter_async_context(connection.pipeline())
                    await connection.command(b"BEGIN")
                    yield connection
                    if connection.info.transaction_status == TransactionStatus.INERROR:
                        raise psycopg.InternalError("an error was swallowed inside the transaction")
                    await connection.command(b"COMMIT")
            except BaseException:
                await self._undo(connection)
                raise

    async def _undo(self, connection: AsyncConnection) -> None:
        try:
            with suppress(psycopg.Error):  # then it is closed
                await connection.rollback()
        finally:
            # In any case the next statement must not run inside this transaction.
            if connection.info.transaction_status != TransactionStatus.IDLE:
                await self.close()

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
            self._open.set(0)


def _attributes(dsn: str) -> dict[str, str | int]:
    found: dict[str, str | int] = {names.DB_SYSTEM_NAME: "postgresql"}
    try:
        about = effective(dsn)
    except ValueError:  # connecting says what is wrong with it
        return found
    if database := about.get("dbname"):
        found[names.DB_NAMESPACE] = database
    host, port = about.get("host", ""), about.get("port", "")
    if host and "," not in host:  # several: only the connection knows
        found[names.SERVER_ADDRESS] = host
        if port.isdigit():
            found[names.SERVER_PORT] = int(port)
    return found
