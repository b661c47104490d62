"""Connections for the functions of ``operations``, which wait on threads: a few for each database, for reading."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import psycopg

from api.problems import RETRY_S, Problem
from contracts.postgres import session
from operations.errors import CursorError
from processors.runtime.connection import hang_up
from processors.runtime.database import unavailable

CONNECTIONS_MAX = 4
"""To each database, which is how many requests it answers at a time."""

STATEMENT_S = 10
"""For one statement: a list reads an index, so one that takes longer waits for something else."""

ANSWER_S = STATEMENT_S + 2.0
"""For the whole: a server that hangs does not even end its statements."""

_READ_ONLY = f"SET default_transaction_read_only = on; SET statement_timeout = '{STATEMENT_S}s'"

T = TypeVar("T")


class Readers:
    """Runs functions that read databases.

    Args:
        dsn: gives the DSN of a database, by its name.
    """

    def __init__(self, dsn: Callable[[str], str]) -> None:
        self._dsn = dsn
        self._room: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(CONNECTIONS_MAX))
        self._idle: dict[str, list[psycopg.Connection]] = defaultdict(list)

    async def run(
        self, databases: Sequence[str], read: Callable[..., T], *args: Any, limit_s: float = ANSWER_S
    ) -> T:
        """What a function returns that takes a connection to each of some databases, and arguments.

        Args:
            databases: their names.
            read: the function.
            args: further arguments of it.
            limit_s: for the whole, seconds.

        Raises:
            Problem: a database does not answer, or a cursor is not one of the list's.
        """
        used: list[psycopg.Connection] = []
        try:
            async with asyncio.timeout(limit_s):
                async with AsyncExitStack() as stack:
                    for database in databases:
                        await stack.enter_async_context(self._room[database])
                    return await asyncio.to_thread(self._read, databases, read, args, used)
        except TimeoutError:
            for connection in used:
                hang_up(connection)  # so that its thread ends, too
            raise Problem("unavailable", f"{_named(databases)} does not answer in time", RETRY_S) from None
        except CursorError as error:
            raise Problem("invalid", str(error)) from None
        except psycopg.OperationalError as error:
            raise Problem("unavailable", f"{_named(databases)} {unavailable(error)}", RETRY_S) from error

    def close(self) -> None:
        """Close the connections."""
        for connections in self._idle.values():
            while connections:
                connections.pop().close()

    def _read(
        self,
        databases: Sequence[str],
        read: Callable[..., T],
        args: Sequence[Any],
        used: list[psycopg.Connection],
    ) -> T:
        """Read on kept connections; if one of them is broken, which nobody could notice before, on new ones."""
        kept = [self._idle[database].pop() if self._idle[database] else None for database in databases]
        if None not in kept:
            try:
                used += (whole := [one for one in kept if one is not None])
                return self._on(databases, whole, read, args)
            except psycopg.OperationalError:
                if not any(one.broken for one in kept if one is not None):
                    raise
        else:
            self._keep(databases, kept)
        used += (new := [self._connect(database) for database in databases])
        return self._on(databases, new, read, args)

    def _on(
        self,
        databases: Sequence[str],
        connections: Sequence[psycopg.Connection],
        read: Callable[..., T],
        args: Sequence[Any],
    ) -> T:
        try:
            return read(*connections, *args)
        finally:
            self._keep(databases, connections)

    def _keep(self, databases: Sequence[str], connections: Sequence[psycopg.Connection | None]) -> None:
        for database, connection in zip(databases, connections, strict=True):
            if connection is not None and not connection.closed:
                self._idle[database].append(connection)

    def _connect(self, database: str) -> psycopg.Connection:
        connection = session(self._dsn(database), autocommit=True)
        connection.execute(_READ_ONLY)
        return connection


def _named(databases: Sequence[str]) -> str:
    """Which of some it is that does not answer is not known."""
    return f"the {' or '.join(databases)} database"
