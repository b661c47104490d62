"""A service's database connection: all waits are bounded, and short ones bypass the event loop.

A service has one batch under way, and an answer comes within a millisecond or few: for so short a wait the event
loop's bookkeeping is costly. For a transaction of two withdrawals it was a fifth of the CPU (280 of 1,350 µs).
A database that is slow, or waits for a lock, blocks nothing else: after :data:`PROMPT_MS` the event loop waits.
The statements of a pipeline leave together, at its end or when an answer is asked for, and not each by itself.

No wait is unbounded: the server ends what takes too long, or is left open by a frozen client; the kernel detects a
vanished host; the connection to a server that is reachable but silent is closed.
"""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncPipeline, BaseConnection
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

from contracts.postgres import service_connection

PROMPT_MS = 20
"""How long waiting for one answer may block the event loop, milliseconds."""

STATEMENT_S = 30
"""For one statement. The largest, a COPY of a full batch, takes a hundredth of it."""

LOCK_S = 10
"""For a lock: rows that another instance holds, or a table that a migration alters. Then the batch is retried."""

IDLE_IN_TRANSACTION_S = 10
"""Between two statements of a transaction, where a service only decides: releases a frozen service's rows.

In pipeline mode PostgreSQL begins to count only where the pipeline ends: there :data:`TRANSACTION_S` does, or who
waits for the rows.
"""

TRANSACTION_S = 60
"""For a transaction as a whole: it also ends one whose client reads no answers any more. Since PostgreSQL 17."""

ANSWER_S = STATEMENT_S + 15
"""Longer than any of the server's limits: a server that has not answered by then will not."""

PROBES = 3
"""How often a pooler is asked for another session: with other clients busy, one answer may be chance."""

PROBE_S = 5.0

# Rows are found by key: for a table that is still empty PostgreSQL would choose a sequential scan, and keep that
# plan while the table grows. The last statement ends what the server's limits do not, or later: a session whose
# client froze in the middle of a COPY or of a pipeline. A service that timed out waiting for its rows reconnects,
# and so runs this. A mail may not take longer: its row stays locked meanwhile, in a pipeline.
_SESSION = f"""
SET statement_timeout = '{STATEMENT_S}s';
SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_S}s';
SET enable_seqscan = off;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND application_name LIKE 'settle-%'
AND state = 'active' AND wait_event = 'ClientRead' AND query_start < now() - interval '{STATEMENT_S}s'
"""  # noqa: S608 made of constants

_SESSION_SINCE_17 = f"SET transaction_timeout = '{TRANSACTION_S}s'"
_VERSION_17 = 170_000

Result = TypeVar("Result")

_EVENTS = {Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT}


async def connect(
    dsn: str, name: str, connection_class: "type[PromptConnection] | None" = None
) -> "PromptConnection":
    """A new connection with all limits.

    Args:
        dsn: ``postgresql://user@host:port/database``.
        name: shown in ``pg_stat_activity``.
        connection_class: how it waits for answers; :class:`PromptConnection` unless given.

    Raises:
        SharedSessionError: a pooler gives each transaction a session of its choice.
        psycopg.OperationalError: the database does not answer, or turns it away.
    """
    connection = await service_connection(dsn, name, connection_class or PromptConnection)
    try:
        await _refuse_shared_session(connection, lambda: service_connection(dsn, name, PromptConnection))
        await connection.execute(_SESSION)
        await connection.execute(f"SET lock_timeout = '{connection.lock_s:g}s'".encode())
        if connection.info.server_version >= _VERSION_17:
            await connection.execute(_SESSION_SINCE_17)
    except BaseException:
        await connection.close()
        raise
    return connection


class SharedSessionError(psycopg.OperationalError):
    """A pooler such as PgBouncer pools transactions: a session's settings would hold for others, and not here."""


async def _refuse_shared_session(
    connection: AsyncConnection, connect_another: Callable[[], Awaitable[AsyncConnection]]
) -> None:
    """Refuse a pooler that pools transactions; one that pools sessions is as good as the server itself.

    A pooler announces another process ID than the server's. With a session for each connection, another connection
    that is in a transaction has another session, and this one keeps its own.

    Raises:
        SharedSessionError: it does not.
        psycopg.OperationalError: the pooler has no session left to find out.
    """
    kept = await _backend_pid(connection)
    if kept == connection.info.backend_pid:
        return
    for _ in range(PROBES):
        another = await connect_another()
        try:
            async with asyncio.timeout(PROBE_S):
                await another.execute("BEGIN")
                taken = await _backend_pid(another)
                if taken == kept or await _backend_pid(connection) != kept:
                    raise SharedSessionError(
                        "a pooler (PgBouncer?) shares sessions between transactions, and a service needs one of "
                        "its own: pool_mode=session, or the server's own address"
                    )
        except TimeoutError:
            raise psycopg.OperationalError(
                f"the pooler (PgBouncer?) gave no second session within {PROBE_S:g} s; a service needs three"
            ) from None
        finally:
            await another.close()


async def _backend_pid(connection: AsyncConnection) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    return int(row[0]) if row else 0


class _GatheringPipeline(AsyncPipeline):
    """A pipeline that sends nothing before an answer is asked for.

    psycopg's own sends each statement as it comes, and looks for answers after each: two polls, a packet, and a
    process of PostgreSQL that is woken. For a batch of one withdrawal that is a tenth of its CPU on both sides.
    """

    def _communicate_gen(self) -> PQGen[None]:
        while self.command_queue:
            self.command_queue.popleft()()  # into libpq's buffer, which the answers' reader flushes
        return
        yield


class PromptConnection(AsyncConnection):
    """A psycopg connection that first waits for an answer on the socket, then on the event loop.

    Attributes:
        prompt_ms: how long waiting for one answer may block the event loop, milliseconds.
        lock_s: how long a statement waits for a lock, seconds.
        answer_s: how long an answer is waited for, seconds, if the server says nothing of its time limits itself.
        fit: False once the database has refused something for another reason than the values or a lost race. The
            session may be the reason (a server that has become read-only, a plan or a right that has changed),
            which no retry within it would fix.
    """

    prompt_ms = PROMPT_MS
    lock_s: float = LOCK_S
    answer_s: float = ANSWER_S
    fit = True

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[AsyncPipeline]:
        """Enter pipeline mode; like the base class, but its statements leave together."""
        if self._pipeline is None:
            self._pipeline = _GatheringPipeline(self)
        async with super().pipeline() as pipeline:
            yield pipeline

    async def command(self, text: bytes) -> None:
        """Run a statement that has neither parameters nor rows; in a pipeline, with none of a cursor's cost.

        Raises:
            psycopg.Error: it fails; in a pipeline only when an answer is asked for.
        """
        await self.wait(self._exec_command(text))

    async def wait(self, gen: PQGen[Result], *args: Any, **limits: Any) -> Result:
        """Run a psycopg operation to its end; like the base class but for the way of waiting."""
        try:
            poll, fd = select.poll(), self.pgconn.socket
            try:
                state = next(gen)
                while True:
                    poll.register(fd, _EVENTS[state])
                    events = poll.poll(self.prompt_ms)
                    if not events:
                        break
                    state = gen.send(_ready(events[0][1]))
            except StopIteration as done:
                result: Result = done.value
                return result
            silent = asyncio.get_running_loop().call_later(self.answer_s, hang_up, self)
            try:
                return await super().wait(_from(state, gen), *args, **limits)
            finally:
                silent.cancel()
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.SerializationFailure):
            raise
        except psycopg.Error:
            self.fit = False
            raise


class SharingConnection(PromptConnection):
    """The same for an event loop that serves others meanwhile: no wait blocks it, and each of them is brief."""

    prompt_ms = 0
    lock_s = 0.2
    answer_s = 5.0


def hang_up(connection: BaseConnection[Any]) -> None:
    """Shut a connection down under its waiter, as if the server had closed it; from any thread."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as ours:
        ours.shutdown(socket.SHUT_RDWR)


def _ready(events: int) -> int:
    """The readiness of a socket in psycopg's terms. A socket error is raised by the next read."""
    readable = Ready.R if events & ~select.POLLOUT else 0
    return readable | (Ready.W if events & select.POLLOUT else 0)


def _from(state: Wait, gen: PQGen[Result]) -> PQGen[Result]:
    """The remainder of a started operation that waits for ``state``."""
    try:
        while True:
            ready = yield state
            state = gen.send(ready)
    except StopIteration as done:
        result: Result = done.value
        return result
