"""Few rows and many get into a table alike, and nobody writes over what another instance wrote."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psycopg
import pytest
from uuid_utils.compat import uuid7

from contracts.events import (
    EVENT_TYPES,
    BalanceChecked,
    MoneyDeducted,
    PaymentFailed,
    PaymentProcessed,
    WithdrawalRejected,
)
from processors.payment import store as payments
from processors.runtime.database import MANY, Database
from processors.runtime.rows import Rows, Write, write_rows
from processors.saga import status, store
from processors.saga.decide import BITS, decide
from processors.saga.status import find_status
from tests.conftest import wait_until
from tests.unit.messages import after, message, request

COLUMNS = {"id": "uuid", "body": "json", "note": "text", "at": "timestamptz", "size": "bigint", "few": "smallint"}
SMALL, LARGE = 1, MANY


@pytest.fixture(scope="module")
def dsn(settle):
    """A database of the saga service that no service runs on."""
    dsn = settle.new_database("saga", "rows")
    with psycopg.connect(dsn, autocommit=True) as connection:
        columns = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
        connection.execute(f"CREATE TABLE kinds ({columns}, PRIMARY KEY (id))")
    return dsn


def query(dsn, sql):
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(sql).fetchall()


def a_row(note="a\tb\\N\n“ü”"):
    return uuid7(), '{"n": [1, "ü\\n"]}', note, datetime.now(UTC), 2**40, 3


def run(dsn, messages, work):
    async def in_transaction():
        database = Database(dsn, "test")
        try:
            async with database.transaction(messages) as connection:
                return await work(connection)
        finally:
            await database.close()

    return asyncio.run(in_transaction())


@pytest.mark.parametrize("messages", [SMALL, LARGE], ids=["insert", "copy"])
def test_rows_arrive_as_they_were_given(dsn, messages):
    rows = [a_row(), a_row(note=None), a_row(note="")]
    run(dsn, messages, lambda connection: write_rows(connection, Rows("kinds", **COLUMNS).insert(rows)))
    found = query(dsn, "SELECT id, body::text, note, at, size, few FROM kinds ORDER BY id DESC LIMIT 3")
    assert found[::-1] == rows


@pytest.mark.parametrize("messages", [SMALL, LARGE], ids=["insert", "copy"])
def test_a_row_that_is_there_already_undoes_the_transaction(dsn, messages):
    one, other = a_row(), a_row()
    rows = Rows("kinds", **COLUMNS)
    run(dsn, messages, lambda connection: write_rows(connection, rows.insert([one])))
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(dsn, messages, lambda connection: write_rows(connection, rows.insert([other, one])))
    run(dsn, messages, lambda connection: write_rows(connection, rows.insert_missing([other, one])))
    assert query(dsn, "SELECT id FROM kinds ORDER BY id DESC LIMIT 2") == [(other[0],), (one[0],)]


@pytest.mark.parametrize("messages", [SMALL, LARGE], ids=["insert", "copy"])
def test_a_standing_that_moved_on_meanwhile_is_not_written_over(dsn, messages):
    first = request()
    now = datetime.now(UTC)

    def take(event, between=None):
        async def read_and_write(connection):
            known = await store.read(connection, [first.payment_id])
            if between:
                await asyncio.to_thread(between)
            await store.write(connection, decide([message(event)], known, now))

        run(dsn, messages, read_and_write)

    take(first)
    checked, deducted = after(first, BalanceChecked), after(first, MoneyDeducted)
    with pytest.raises(psycopg.errors.SerializationFailure, match="has changed since"):
        take(deducted, between=lambda: take(checked))
    assert [step.event for step in find_status(dsn, first.payment_id).steps] == [
        "WithdrawalRequested",
        "BalanceChecked",
    ]
    take(deducted)
    assert len(find_status(dsn, first.payment_id).steps) == 3


@pytest.mark.parametrize("messages", [SMALL, LARGE], ids=["insert", "copy"])
def test_standings_that_advance_in_different_ways_are_written_together(dsn, messages):
    requests = [request() for _ in range(4)]
    paid, failed, rejected, unread = requests
    now = datetime.now(UTC)

    async def take(connection, events):
        known = await store.read(connection, [event.payment_id for event in events])
        await store.write(connection, decide([message(event) for event in events], known, now))

    run(dsn, messages, lambda connection: take(connection, [paid, failed, rejected]))
    deducted = [after(one, MoneyDeducted) for one in (paid, failed)]
    run(dsn, messages, lambda connection: take(connection, deducted))
    then = [
        after(paid, PaymentProcessed),
        after(failed, PaymentFailed),
        after(rejected, WithdrawalRejected),
        after(unread, MoneyDeducted),
    ]
    run(dsn, messages, lambda connection: take(connection, then))
    run(dsn, messages, lambda connection: take(connection, [unread]))
    found = [find_status(dsn, one.payment_id) for one in requests]
    assert [one.state for one in found] == ["paid", "compensating", "rejected", "deducted"]
    assert [one.reason for one in found] == [None, then[1].reason, then[2].reason, None]
    assert [one.finished_at for one in found] == [None, None, then[2].occurred_at, None]
    # The time of a late request is part of the contents.
    requested = f"SELECT requested_at FROM withdrawals WHERE payment_id = '{unread.payment_id}'"
    assert query(dsn, requested) == [(unread.occurred_at,)]


@pytest.mark.parametrize("messages", [SMALL, LARGE], ids=["insert", "copy"])
def test_what_is_written_together_arrives_together(dsn, messages):
    rows = Rows("kinds", **COLUMNS)
    one, other, third = a_row(), a_row(), a_row(note="old")
    run(dsn, messages, lambda connection: write_rows(connection, rows.insert([third])))
    rename = Write(
        "UPDATE kinds k SET note = n.note FROM unnest(%b::uuid[], %b::text[]) AS n (id, note) WHERE k.id = n.id",
        [(third[0], "new")],
    )
    run(
        dsn,
        messages,
        lambda connection: write_rows(connection, rename, rows.insert([]), rows.insert([one, other])),
    )
    found = query(dsn, "SELECT id, note FROM kinds ORDER BY id DESC LIMIT 3")
    assert found == [(third[0], "new"), (other[0], other[2]), (one[0], one[2])]


@pytest.mark.parametrize("messages", [SMALL, LARGE], ids=["insert", "copy"])
def test_a_message_that_comes_twice_in_a_batch_is_one_event(dsn, messages):
    first = request()
    same = message(first)

    async def take_twice(connection):
        known = await store.read(connection, [first.payment_id])
        await store.write(connection, decide([same, same], known, datetime.now(UTC)))

    run(dsn, messages, take_twice)
    run(dsn, messages, take_twice)
    assert [step.event for step in find_status(dsn, first.payment_id).steps] == ["WithdrawalRequested"]


@pytest.mark.parametrize("messages", [SMALL, LARGE], ids=["insert", "copy"])
def test_an_event_that_two_instances_get_again_is_stored_once(dsn, messages):
    first = request()
    again = message(first)

    async def take(connection, one):
        known = await store.read(connection, [first.payment_id])
        await store.write(connection, decide([one], known, datetime.now(UTC)))

    run(dsn, messages, lambda connection: take(connection, message(first)))
    blocked = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as other_instance:

        async def take_before_another(connection):
            await take(connection, again)
            await (await connection.execute("SELECT 1")).fetchone()  # in pipeline mode nothing is sent before
            taken = other_instance.submit(run, dsn, messages, lambda connection: take(connection, again))
            await asyncio.to_thread(wait_until, lambda: query(dsn, blocked), "the other instance to wait", 20.0)
            return taken

        run(dsn, messages, take_before_another).result()
    stored = f"SELECT count(*) FROM event_store WHERE payment_id = '{first.payment_id}'"
    assert query(dsn, stored) == [(2,)]


def test_standings_that_go_on_stay_in_their_page_and_touch_no_index(dsn):
    first = [request() for _ in range(2 * MANY)]  # pages full of them
    now = datetime.now(UTC)

    async def go_on(connection, events):
        known = await store.read(connection, [event.payment_id for event in events])
        await store.write(connection, decide([message(event) for event in events], known, now))
        counted = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'withdrawals'"
        return await (await connection.execute(counted)).fetchone()

    run(dsn, LARGE, lambda connection: go_on(connection, first))
    updated, in_place = run(dsn, LARGE, lambda c: go_on(c, [after(event, MoneyDeducted) for event in first]))
    assert updated == in_place == len(first)


def test_rows_of_an_empty_table_are_found_by_key(dsn):
    async def explain(connection):
        cursor = await connection.execute(
            "EXPLAIN SELECT * FROM withdrawals WHERE payment_id = ANY(%s)", ([uuid7()],)
        )
        return (await cursor.fetchone())[0]

    assert "withdrawals_pkey" in run(dsn, SMALL, explain)


def test_a_claim_is_found_by_an_index_however_many_payments_there_are(settle):
    async def explain(connection):
        cursor = await connection.execute(f"EXPLAIN {payments._RELEASE}", (uuid7(),))
        return " ".join(line for (line,) in await cursor.fetchall())

    plan = run(settle.new_database("payment", "claims"), SMALL, explain)
    assert "payments_due" in plan
    assert "Seq Scan" not in plan


def test_a_status_is_of_one_moment_however_often_the_database_is_read_for_it(dsn, monkeypatch):
    first = request()
    to_come = iter([first, after(first, MoneyDeducted), after(first, PaymentProcessed)])
    cursor = status.utc.cursor

    async def go_on(connection, event):
        known = await store.read(connection, [first.payment_id])
        await store.write(connection, decide([message(event)], known, datetime.now(UTC)))

    def go_on_and_read(connection):
        run(dsn, SMALL, lambda other: go_on(other, next(to_come)))
        return cursor(connection)

    monkeypatch.setattr(status.utc, "cursor", go_on_and_read)
    for _ in range(2):
        found = find_status(dsn, first.payment_id)
        assert sum({BITS[EVENT_TYPES[step.event]] for step in found.steps}) == found.seen
