"""Connections for the functions of ``operations``, which wait on threads: a few for each database, for reading."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
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


class _Reading:
    """A read under way: its connections, which are shut down under its thread once nobody waits for it any more.

    Attributes:
        has_begun: whether a thread works on it.
        is_given_up: whether nobody does; a connection that is made from then on is of no use.
    """

    def __init__(self) -> None:
        self.has_begun = self.is_given_up = False
        self._used: list[psycopg.Connection] = []

    def use(self, connection: psycopg.Connection) -> None:
        """From now on the read waits for this one, too; called by its thread."""
        self._used.append(connection)
        if self.is_given_up:
            hang_up(connection)

    def give_up(self) -> None:
        """End its thread, whatever it waits for."""
        self.is_given_up = True
        for connection in self._used:
            hang_up(connection)


class Readers:
    """Runs functions that read databases.

    A thread that waits for a database keeps its place there, also where its caller waits no more: however many
    come and leave, it is at most :data:`CONNECTIONS_MAX` threads for each database.

    Args:
        dsn: gives the DSN of a database, by its name.
    """

    def __init__(self, dsn: Callable[[str], str]) -> None:
        self._dsn = dsn
        self._room: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(CONNECTIONS_MAX))
        self._idle: dict[str, list[psycopg.Connection]] = defaultdict(list)
        self._under_way: dict[asyncio.Task[Any], _Reading] = {}

    async def run(
        self, databases: Sequence[str], read: Callable[..., T], *args: Any, limit_s: float = ANSWER_S
    ) -> T:
        """What a function returns that takes a connection to each of some databases, and arguments.

        Args:
            databases: their names.
            read: the function.
            args: further arguments of it.
            limit_s: for the whole, seconds; also where the caller waits for less.

        Raises:
            Problem: a database does not answer, or a cursor is not one of the list's.
        """
        reading = _Reading()
        task = asyncio.create_task(self._in_turn(reading, databases, read, args))
        self._under_way[task] = reading
        limit = asyncio.get_running_loop().call_later(limit_s, reading.give_up)
        task.add_done_callback(partial(self._ended, limit))
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.shield(task)
        except TimeoutError:
            raise Problem("unavailable", f"{_named(databases)} does not answer in time", RETRY_S) from None
        except CursorError as error:
            raise Problem("invalid", str(error)) from None
        except psycopg.OperationalError as error:
            raise Problem("unavailable", f"{_named(databases)} {unavailable(error)}", RETRY_S) from error
        finally:
            if not reading.has_begun:
                task.cancel()

    def close(self) -> None:
        """Close the connections."""
        for reading in self._under_way.values():
            reading.give_up()
        for connections in self._idle.values():
            while connections:
                connections.pop().close()

    async def _in_turn(
        self, reading: _Reading, databases: Sequence[str], read: Callable[..., T], args: Sequence[Any]
    ) -> T:
        async with AsyncExitStack() as stack:
            for database in databases:
                await stack.enter_async_context(self._room[database])
            reading.has_begun = True
            return await asyncio.to_thread(self._read, reading, databases, read, args)

    def _ended(self, limit: asyncio.TimerHandle, task: asyncio.Task[Any]) -> None:
        limit.cancel()
        del self._under_way[task]
        if not task.cancelled():
            task.exception()  # of one that nobody waits for

    def _read(self, reading: _Reading, databases: Sequence[str], read: Callable[..., T], args: Sequence[Any]) -> T:
        """Read on kept connections; if one of them is broken, which nobody could notice before, on new ones."""
        kept = [self._idle[database].pop() if self._idle[database] else None for database in databases]
        whole = [one for one in kept if one is not None]
        if len(whole) == len(databases):
            for connection in whole:
                reading.use(connection)
            try:
                return self._on(databases, whole, read, args)
            except psycopg.OperationalError:
                if reading.is_given_up or not any(one.broken for one in whole):
                    raise
        else:
            self._keep(databases, kept)
        return self._on(databases, [self._connect(database, reading) for database in databases], read, args)

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
        """Keep connections for later reads; none where one has failed, as what cut it may have cut the others."""
        there = [(name, one) for name, one in zip(databases, connections, strict=True) if one is not None]
        has_failed = any(connection.closed for _, connection in there)
        for database, connection in there:
            if has_failed or len(self._idle[database]) >= CONNECTIONS_MAX:
                connection.close()
            else:
                self._idle[database].append(connection)

    def _connect(self, database: str, reading: _Reading) -> psycopg.Connection:
        class Used(psycopg.Connection[Any]):
            """Known to its read before its first statement, which a pooler may let wait for minutes."""

            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                reading.use(self)

        connection = session(self._dsn(database), autocommit=True, connection_class=Used)
        connection.execute(_READ_ONLY)
        return connection


def _named(databases: Sequence[str]) -> str:
    """Which of some it is that does not answer is not known."""
    return f"the {' or '.join(databases)} database"
