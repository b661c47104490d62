"""Reads of databases on threads: who leaves, and what is cut, leaves neither threads nor connections behind."""

import asyncio
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from weakref import ref

import psycopg
import pytest

from api import readers as readers_module
from api.accounts import ledger_of
from api.problems import Problem
from api.readers import CONNECTIONS_MAX, Readers
from contracts.postgres import session
from tests.conftest import wait_until
from tests.integration.api.front import BUSY_S, Front

LEFT_S = 0.05
"""How long somebody waits who leaves."""


def parameter(name: bytes, value: bytes) -> bytes:
    body = name + b"\0" + value + b"\0"
    return b"S" + (len(body) + 4).to_bytes(4) + body


WELCOME = (
    b"R" + (8).to_bytes(4) + (0).to_bytes(4)  # AuthenticationOk
    + parameter(b"server_version", b"18.0")
    + parameter(b"client_encoding", b"UTF8")
    + b"K" + (12).to_bytes(4) + (1).to_bytes(4) + (1).to_bytes(4)  # BackendKeyData
    + b"Z" + (5).to_bytes(4) + b"I"
)  # fmt: skip


@contextmanager
def mute() -> Iterator[str]:
    """The DSN of a pooler that lets everybody in and has no session for anybody's first statement."""
    clients: list[socket.socket] = []

    def welcome(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(WELCOME)

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            clients.append(client)
            threading.Thread(target=welcome, args=[client], daemon=True).start()

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"postgresql://settle@127.0.0.1:{server.getsockname()[1]}/x?sslmode=disable&gssencmode=disable"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for client in clients:
                client.shutdown(socket.SHUT_RDWR)
                client.close()


@contextmanager
def reading(dsn: Callable[[str], str]) -> Iterator[Readers]:
    with closing(Readers(dsn)) as readers:
        yield readers


def one(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT 1").fetchone()
    assert row is not None
    return int(row[0])


def pid(connection: psycopg.Connection[Any]) -> int:
    return connection.info.backend_pid


def test_who_leaves_a_database_that_is_mute_takes_no_thread_from_others(front: Front):
    limit_s = 1.0

    async def many_leave() -> None:
        threads = ThreadPoolExecutor(CONNECTIONS_MAX + 1)
        asyncio.get_running_loop().set_default_executor(threads)
        with mute() as dsn, reading(lambda name: dsn if name == "mute" else front.dsns[name]) as readers:
            for _ in range(3 * CONNECTIONS_MAX):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(LEFT_S):
                        await readers.run("mute", one, limit_s=limit_s)
            assert await readers.run("saga", one, limit_s=BUSY_S) == 1
            # Nor does anybody stay whose time was up.
            for _ in range(2 * CONNECTIONS_MAX):
                with pytest.raises(Problem):
                    await readers.run("mute", one, limit_s=limit_s / 10)
            await asyncio.wait_for(asyncio.gather(*readers._under_way, return_exceptions=True), BUSY_S)
            assert await readers.run("saga", one, limit_s=BUSY_S) == 1

    asyncio.run(many_leave())


def test_ledgers_that_wait_for_accounts_take_no_place_from_who_reads_withdrawals(front: Front):
    async def wait_for_accounts() -> None:
        with mute() as dsn, reading(lambda name: dsn if name == "account" else front.dsns[name]) as readers:
            patient = SimpleNamespace(readers=SimpleNamespace(run=partial(readers.run, limit_s=10 * BUSY_S)))
            ledgers = [
                asyncio.create_task(ledger_of(patient, "acc-1", 10, None)) for _ in range(2 * CONNECTIONS_MAX)
            ]
            for _ in range(100):  # turns of the loop, of which each needs a few
                await asyncio.sleep(0)
            assert readers._room["account"].locked()
            assert await readers.run("saga", one, limit_s=BUSY_S) == 1
            readers.close()
            assert {type(error) for error in await asyncio.gather(*ledgers, return_exceptions=True)} == {Problem}

    asyncio.run(wait_for_accounts())


def test_a_connection_that_was_cut_is_gone_at_once_and_not_when_somebody_looks_for_cycles(front: Front):
    used: list[ref[psycopg.Connection[Any]]] = []

    def noted(connection: psycopg.Connection[Any]) -> int:
        used.append(ref(connection))
        one(connection)
        return pid(connection)

    async def cut_again_and_again() -> None:
        gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)"
        with reading(lambda name: front.dsns[name]) as readers:
            for _ in range(CONNECTIONS_MAX):
                found = await readers.run("account", noted)
                front.query("account", "SELECT pg_terminate_backend(%s)", found)
                wait_until(lambda: front.query("account", gone, found)[0][0], "it is cut")  # noqa: B023

    gc.collect()
    gc.disable()
    try:
        asyncio.run(cut_again_and_again())
        assert len(used) > CONNECTIONS_MAX
        assert not [there for there in used if there() is not None]
    finally:
        gc.enable()


def test_a_connection_whose_first_statement_fails_is_closed(front: Front, monkeypatch: pytest.MonkeyPatch):
    made: list[psycopg.Connection[Any]] = []

    def noted(*args: Any, **options: Any) -> psycopg.Connection[Any]:
        made.append(session(*args, **options))
        return made[-1]

    async def fail() -> None:
        with reading(lambda name: front.dsns[name]) as readers, pytest.raises(psycopg.errors.UndefinedTable):
            await readers.run("saga", one)

    monkeypatch.setattr(readers_module, "session", noted)
    monkeypatch.setattr(readers_module, "_READ_ONLY", "SELECT FROM nothing")
    asyncio.run(fail())
    assert [connection.closed for connection in made] == [True]
