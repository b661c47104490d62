"""Connections for the functions of ``operations``, which wait on threads: a few for each database, for reading."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import psycopg

from api.problems import RETRY_S, Problem
from contracts.postgres import session
from operations.errors import BacklogError, CursorError
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
    """A read under way: its connection, which is shut down under its thread once nobody waits for it any more.

    Attributes:
        has_begun: whether a thread works on it.
        is_given_up: whether nobody waits for it; a connection that is made from then on is of no use.
    """

    def __init__(self) -> None:
        self.has_begun = self.is_given_up = False
        self._used: psycopg.Connection | None = None

    def use(self, connection: psycopg.Connection) -> None:
        """From now on the read waits for this one; called by its thread."""
        self._used = connection
        if self.is_given_up:
            hang_up(connection)

    def give_up(self) -> None:
        """End its thread, whatever it waits for."""
        self.is_given_up = True
        if self._used is not None:
            hang_up(self._used)


_current: ContextVar[_Reading] = ContextVar("reading")


class _Connection(psycopg.Connection[Any]):
    """Known to its read before its first statement, which a pooler may let wait for minutes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _current.get().use(self)


class Readers:
    """Runs functions that read a database. One that needs two is two reads, so that it has no place at one of them
    while it waits for the other.

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

    async def run(self, database: str, read: Callable[..., T], *args: Any, limit_s: float = ANSWER_S) -> T:
        """What a function returns that takes a connection to a database, and arguments.

        Args:
            database: its name.
            read: the function.
            args: further arguments of it.
            limit_s: for the whole, seconds; also where the caller waits for less.

        Raises:
            Problem: the database does not answer or has too much to look through, or a cursor is not one of the
                list's.
        """
        reading = _Reading()
        task = asyncio.create_task(self._in_turn(reading, database, read, args))
        self._under_way[task] = reading
        limit = asyncio.get_running_loop().call_later(limit_s, reading.give_up)
        task.add_done_callback(partial(self._ended, limit))
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.shield(task)
        except BacklogError as error:
            raise Problem("unavailable", str(error), RETRY_S) from error
        except TimeoutError:
            raise Problem("unavailable", f"the {database} database does not answer in time", RETRY_S) from None
        except CursorError as error:
            raise Problem("invalid", str(error)) from None
        except psycopg.OperationalError as error:
            raise Problem("unavailable", f"the {database} database {unavailable(error)}", RETRY_S) from error
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

    async def _in_turn(self, reading: _Reading, database: str, read: Callable[..., T], args: Sequence[Any]) -> T:
        async with self._room[database]:
            reading.has_begun = True
            return await asyncio.to_thread(self._read, reading, database, read, args)

    def _ended(self, limit: asyncio.TimerHandle, task: asyncio.Task[Any]) -> None:
        limit.cancel()
        del self._under_way[task]
        if not task.cancelled():
            task.exception()  # of one that nobody waits for

    def _read(self, reading: _Reading, database: str, read: Callable[..., T], args: Sequence[Any]) -> T:
        """Read on a kept connection; if that is broken, which nobody could notice before, on a new one."""
        _current.set(reading)
        if (kept := self._kept(database)) is not None:
            reading.use(kept)
            try:
                return self._on(database, kept, read, args)
            except psycopg.OperationalError:
                if reading.is_given_up or not kept.broken:
                    raise
        return self._on(database, self._connect(database), read, args)

    def _on(self, database: str, connection: psycopg.Connection, read: Callable[..., T], args: Sequence[Any]) -> T:
        try:
            return read(connection, *args)
        finally:
            if not connection.closed:
                self._idle[database].append(connection)

    def _kept(self, database: str) -> psycopg.Connection | None:
        with suppress(IndexError):  # other threads take some as well
            return self._idle[database].pop()
        return None

    def _connect(self, database: str) -> psycopg.Connection:
        with ExitStack() as stack:
            connection = session(self._dsn(database), autocommit=True, connection_class=_Connection)
            stack.callback(connection.close)
            connection.execute(_READ_ONLY)
            stack.pop_all()
        return connection
