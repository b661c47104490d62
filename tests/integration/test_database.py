"""A transaction is all or nothing, whatever ends it, and the next one begins clean."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import postgres
from contracts.events import ContractError, MoneyDeducted, decode, encode
from processors.runtime import connection
from processors.runtime.database import MANY, Database, is_transient
from tests.unit.messages import after, request

KINDS = pytest.mark.parametrize("messages", [1, MANY], ids=["pipeline", "one by one"])
ADD = "INSERT INTO numbers VALUES (%s)"


@pytest.fixture
def dsn(settle):
    """A database with a table of numbers, each once."""
    with psycopg.connect(settle.dsns["account"], autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS numbers")
        connection.execute("CREATE TABLE numbers (number bigint PRIMARY KEY)")
    return settle.dsns["account"]


def numbers(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM numbers ORDER BY number")]


def run(dsn, work, limited=True):
    """Run it with a database, under a limit of time."""

    async def with_database():
        database = Database(dsn, "test")
        try:
            async with asyncio.timeout(30):
                if limited:  # also where the event loop is held up, and with it the limit above
                    await (await database.connect()).execute("SET statement_timeout = '10s'")
                return await work(database)
        finally:
            await database.close()

    return asyncio.run(with_database())


async def add(database, messages, *values):
    async with database.transaction(messages) as connection:
        for value in values:
            await connection.execute(ADD, (value,))


@KINDS
def test_a_statement_that_is_refused_undoes_the_others(dsn, messages):
    async def work(database):
        with pytest.raises(psycopg.errors.UniqueViolation):
            await add(database, messages, 1, 2, 2, 3)
        await add(database, messages, 4)

    run(dsn, work)
    assert numbers(dsn) == [4]


@KINDS
@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_what_is_raised_in_between_undoes_what_was_written(dsn, messages, error):
    async def work(database):
        with pytest.raises(error):
            async with database.transaction(messages) as connection:
                await connection.execute(ADD, (1,))
                raise error
        await add(database, messages, 2)

    run(dsn, work)
    assert numbers(dsn) == [2]


@KINDS
def test_who_is_cancelled_while_a_statement_waits_has_written_nothing(dsn, messages):
    async def work(database):
        with psycopg.connect(dsn) as other:
            other.execute(ADD, (2,))
            waiting = asyncio.create_task(add(database, messages, 1, 2))
            await _until_blocked(dsn)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            other.rollback()
        await add(database, messages, 3)

    run(dsn, work)
    assert numbers(dsn) == [3]


def test_an_error_that_is_kept_secret_is_no_commit(dsn):
    async def work(database):
        with pytest.raises(psycopg.InternalError, match="swallowed"):
            async with database.transaction(MANY) as connection:
                await connection.execute(ADD, (1,))
                with pytest.raises(psycopg.errors.UniqueViolation):
                    await connection.execute(ADD, (1,))
        await add(database, MANY, 2)

    run(dsn, work)
    assert numbers(dsn) == [2]


@KINDS
def test_a_connection_that_is_lost_is_an_error_and_comes_back(dsn, messages):
    async def work(database):
        with pytest.raises(psycopg.OperationalError):
            async with database.transaction(messages) as connection:
                await connection.execute(ADD, (1,))
                with psycopg.connect(dsn, autocommit=True) as other:
                    other.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
        await add(database, messages, 2)

    run(dsn, work)
    assert numbers(dsn) == [2]


@KINDS
def test_a_statement_that_waits_for_a_lock_holds_up_nothing_else(dsn, messages):
    """The lock is let go by a task of the same event loop: if the wait held that up, it would never end."""

    async def work(database):
        with psycopg.connect(dsn) as other:
            other.execute(ADD, (1,))
            waiting = asyncio.create_task(add(database, messages, 1))
            await _until_blocked(dsn)
            assert not waiting.done()
            other.rollback()
            await waiting

    run(dsn, work)
    assert numbers(dsn) == [1]


async def _until_blocked(dsn):
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while True:
            cursor = await connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'settle-test' "
                "AND wait_event_type = 'Lock'"
            )
            if (await cursor.fetchone())[0]:
                return
            await asyncio.sleep(0.01)


FROZEN = """
import asyncio, sys
from processors.runtime.database import Database, is_transient

async def main():
    async with Database(sys.argv[1], "frozen").transaction(1000) as open:
        await open.execute("INSERT INTO numbers VALUES (1)")
        await open.execute(sys.argv[2])
        print("written", flush=True)
        sys.stdin.readline()
        await open.execute("INSERT INTO numbers VALUES (2)")

try:
    asyncio.run(main())
except Exception as error:
    print(is_transient(error), flush=True)
"""


def test_an_instance_that_is_frozen_in_a_transaction_lets_go_of_its_rows(dsn):
    # Its limits are short once it has written; who waits for it has the usual ones.
    soon = re.sub(r"'\d+s'", "'1s'", connection._SESSION)
    frozen = subprocess.Popen(
        [sys.executable, "-c", FROZEN, dsn, soon],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert frozen.stdout.readline() == "written\n"
        frozen.send_signal(signal.SIGSTOP)

        async def work(database):
            await add(database, 1, 1)  # waits for the other, who wrote the same

        run(dsn, work, limited=False)
        frozen.send_signal(signal.SIGCONT)
        said, _ = frozen.communicate("go on\n", timeout=30)
    finally:
        frozen.kill()
    assert said == "True\n"
    assert numbers(dsn) == [1]


@asynccontextmanager
async def in_a_copy(session):
    await session.execute("BEGIN")
    await session.execute(ADD, (1,))
    session.pgconn.send_query(b"COPY numbers FROM STDIN")
    session.pgconn.flush()
    yield


@asynccontextmanager
async def between_two_statements_of_a_pipeline(session):
    with suppress(psycopg.OperationalError):  # it was ended
        async with session.pipeline():
            await session.command(b"BEGIN")
            await (await session.execute(f"{ADD} RETURNING number", (1,))).fetchone()
            yield


@pytest.mark.parametrize("freeze", [in_a_copy, between_two_statements_of_a_pipeline])
def test_an_instance_that_is_frozen_and_not_idle_lets_go_of_its_rows(dsn, monkeypatch, freeze):
    """To PostgreSQL it is active: only a limit of the whole transaction ends it, or who waits for its rows."""
    soon = re.sub(r"interval '\d+s'", "interval '1s'", connection._SESSION)
    monkeypatch.setattr(connection, "_SESSION", soon)

    async def work(database):
        frozen = Database(dsn, "frozen")
        try:
            # Who connects ends what is frozen: the one that is to wait is connected before.
            await (await database.connect()).execute("SET statement_timeout = '1s'")
            session = await frozen.connect()
            await session.execute("SET idle_in_transaction_session_timeout = '100ms'")
            failures = 0
            async with freeze(session):
                while not numbers(dsn):
                    try:
                        await add(database, 1, 1)
                    except psycopg.OperationalError as error:
                        assert is_transient(error)
                        failures += 1
            assert 0 < failures < 5
        finally:
            await frozen.close()

    run(dsn, work, limited=False)
    assert numbers(dsn) == [1]


def test_a_server_that_says_nothing_is_hung_up_on(dsn, monkeypatch):
    async def work(database):
        backend = (await database.connect()).info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        try:
            with monkeypatch.context() as soon, pytest.raises(psycopg.OperationalError):
                soon.setattr(connection.PromptConnection, "answer_s", 1)
                await add(database, 1, 1)
            await add(database, 1, 2)
        finally:
            os.kill(backend, signal.SIGCONT)

    run(dsn, work, limited=False)
    assert 2 in numbers(dsn)  # what was sent to the other may be written yet: whether it is committed is unknown


def test_a_session_has_limits_of_its_own(dsn):
    async def work(database):
        session = await database.connect()
        cursor = await session.execute(
            "SELECT name, setting::int / 1000 FROM pg_settings "
            "WHERE name LIKE '%\\_timeout' AND source = 'session'"
        )
        since_17 = {"transaction_timeout": connection.TRANSACTION_S}
        assert dict(await cursor.fetchall()) == (since_17 if session.info.server_version >= 170_000 else {}) | {
            "statement_timeout": connection.STATEMENT_S,
            "lock_timeout": connection.LOCK_S,
            "idle_in_transaction_session_timeout": connection.IDLE_IN_TRANSACTION_S,
        }

    run(f"{dsn}?options=-cstatement_timeout%3D7000", work, limited=False)


def test_the_statements_of_a_pipeline_leave_together(dsn):
    async def work(database):
        async with database.transaction() as connection:
            for number in range(3):
                await connection.execute(ADD, (number,))
            sent = "SELECT state, query FROM pg_stat_activity WHERE pid = %s"
            with psycopg.connect(dsn, autocommit=True) as other:
                state, query = other.execute(sent, (connection.info.backend_pid,)).fetchone()
            assert (state, ADD.partition(" VALUES")[0] in query) == ("idle", False)  # not even in a transaction

    run(dsn, work)
    assert numbers(dsn) == [0, 1, 2]


async def a_service(dsn):
    return await connection.connect(dsn, "settle-test")


async def a_command(dsn):
    return postgres.session(dsn)


async def the_relay(dsn):
    return postgres.relay_connection(dsn, replication=False)


async def its_stream(dsn):
    return postgres.relay_connection(dsn, replication=True)


ON_THE_SERVER = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")


def found(connect, dsn):
    """What a connection has become: its socket's options on both sides, and how it is called and encoded."""

    async def look():
        opened = await connect(dsn)
        with socket.socket(fileno=os.dup(opened.fileno())) as ours:
            limits = {
                "connect_timeout": int(opened.info.get_parameters()["connect_timeout"]),
                "keepalives": ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                "keepalives_idle": ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                "keepalives_interval": ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                "keepalives_count": ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
                "tcp_user_timeout": ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            }
        asked = ", ".join(f"current_setting('{name}')" for name in ON_THE_SERVER)
        answer = opened.pgconn.exec_(f"SELECT {asked}".encode())
        server = [answer.get_value(0, number).decode() for number in range(len(ON_THE_SERVER))]
        name, encoding = map(opened.info.parameter_status, ("application_name", "client_encoding"))
        opened.pgconn.finish()
        return limits, server, name, encoding

    return asyncio.run(look())


ALL = pytest.mark.parametrize("connect", [a_service, a_command, the_relay, its_stream])


@ALL
def test_every_connection_notices_on_both_sides_that_a_host_has_vanished_and_says_whose_it_is(dsn, connect):
    limits = {
        "connect_timeout": 5,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        # A server that reads through the log takes in nothing meanwhile: this would call it vanished.
        "tcp_user_timeout": 0 if connect is its_stream else 20_000,
    }
    # Its locks are to be free when others are; two hours later by default.
    server = ["10", "5", "3", "20000" if connect is the_relay else "0"]
    name = {a_service: "settle-test", a_command: "settle"}.get(connect, "settle-relay")
    assert found(connect, f"{dsn}?client_encoding=latin1") == (limits, server, name, "UTF8")


@ALL
def test_what_a_dsn_says_of_its_limits_counts(dsn, connect):
    said = {
        "connect_timeout": 9,
        "keepalives": 1,
        "keepalives_idle": 7,
        "keepalives_interval": 6,
        "keepalives_count": 4,
        "tcp_user_timeout": 11_000,
    }
    limits, server, *_ = found(connect, f"{dsn}?" + "&".join(f"{name}={value}" for name, value in said.items()))
    assert limits == said
    assert server == ["7", "6", "4", "11000" if connect is the_relay else "0"]


def test_a_command_may_take_its_time_and_be_called_otherwise(dsn):
    with postgres.session(f"{dsn}?application_name=audit") as session:
        limits = "SELECT name FROM pg_settings WHERE name LIKE '%\\_timeout' AND source IN ('client', 'session')"
        assert session.execute(limits).fetchall() == []
        assert session.info.parameter_status("application_name") == "audit"
        assert not session.autocommit


def test_a_session_that_was_read_only_is_not_kept(dsn):
    async def work(database):
        session = await database.connect()
        await session.execute("SET default_transaction_read_only = on")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await (await database.connect()).execute(ADD, (1,))
        await add(database, 1, 2)
        assert session.closed

    run(dsn, work, limited=False)
    assert numbers(dsn) == [2]


ESCAPES = ["\\u0000", "\\ud800", "\\udc00", "\\u00e4", "\\\\", '"a":', "true"]
PIECES = st.lists(st.sampled_from([*'"\\{}[],:0-19.eE+ \t\n', *"/ubnaü\u200b\x7f\x00\x1f", *ESCAPES]), max_size=12)


def test_whatever_the_contract_takes_the_event_store_can_keep_and_read_again(dsn):
    good = encode(after(request(), MoneyDeducted))[:-1]
    taken = 0
    with psycopg.connect(dsn, autocommit=True) as connection:

        @given(PIECES.map("".join), st.sampled_from(['"%s"', "%s", '{"%s": 1}', "[%s]"]))
        @settings(max_examples=1_500, database=None)
        def fuzz(pieces, around):
            nonlocal taken
            body = good + b', "unknown": ' + (around % pieces).encode() + b"}"
            try:
                event = decode("MoneyDeducted", body)
            except ContractError:
                return
            taken += 1
            query = "SELECT (j->>'payment_id')::uuid, j->>'unknown' FROM (SELECT %s::text::json) AS body (j)"
            assert connection.execute(query, (body.decode(),)).fetchone()[0] == event.payment_id

        fuzz()
    assert taken > 100
