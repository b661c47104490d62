"""Is a transaction all or nothing, whatever ends it, and does the next one begin clean?"""

import asyncio

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import ContractError, MoneyDeducted, decode, encode
from processors.runtime.database import MANY, Database
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


def run(dsn, work):
    """Run it with a database, under a limit of time."""

    async def with_database():
        database = Database(dsn, "test")
        try:
            async with asyncio.timeout(30):
                # Also where the event loop is held up, and with it the limit above.
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
        with pytest.raises(psycopg.InternalError, match="ROLLBACK"):
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


ESCAPES = ["\\u0000", "\\ud800", "\\udc00", "\\u00e4", "\\\\", '"a":', "true"]
PIECES = st.lists(st.sampled_from([*'"\\{}[],:0-19.eE+ \t\n', *"/ubnaü\u200b\x7f\x00\x1f", *ESCAPES]), max_size=12)


def test_whatever_the_contract_takes_the_event_store_can_keep_and_read_again(dsn):
    good = encode(after(request(), MoneyDeducted))[:-1]
    taken = 0
    with psycopg.connect(dsn, autocommit=True) as connection:

        @given(PIECES.map("".join), st.sampled_from(['"%s"', "%s", '{"%s": 1}', "[%s]"]))
        @settings(max_examples=1_500, deadline=None, database=None)
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
