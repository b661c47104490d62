"""Lists of withdrawals, accounts and bookings: each page is exact, and reads no more as more is stored."""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from operations import ledger, withdrawals
from operations.errors import CursorError
from operations.withdrawals import Wanted, page
from processors.account.accounts import accounts_after, accounts_by_name, open_accounts
from processors.saga.decide import COMPENSATED, COMPLETED, DEDUCTED, FINISHED, PAID, REJECTED, REQUESTED
from tests.conftest import OPENING_MINOR

COUNT = 3_000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
STATES = (REQUESTED, DEDUCTED, PAID, COMPLETED, COMPLETED, COMPLETED, REJECTED, COMPENSATED)


@pytest.fixture(scope="module")
def stored(settle):
    """A database of the saga service with withdrawals of every state, many of them recorded in one moment."""
    dsn = settle.new_database("saga", "lists")
    chance = random.Random(7)
    rows = []
    for number in range(COUNT):
        state = chance.choice(STATES)
        at = BEGIN + timedelta(seconds=number // 40)
        ended = at if state in FINISHED else None
        reason = "declined" if state == COMPENSATED else "rare" if number == 5 else None
        payment_id, account = UUID(int=chance.getrandbits(128)), f"acc-{chance.randrange(20)}"
        finished_by = "WithdrawalCompleted" if ended else None
        rows.append((payment_id, account, 100, "USD", state, 7, reason, at, at, ended, finished_by))
    with psycopg.connect(dsn, autocommit=True) as connection:
        columns = "payment_id, account_id, amount_minor, currency, state, seen, reason, created_at, updated_at"
        with connection.cursor().copy(
            f"COPY withdrawals ({columns}, finished_at, finished_by) FROM STDIN"
        ) as copy:
            for row in chance.sample(rows, len(rows)):
                copy.write_row(row)
        connection.execute("ANALYZE withdrawals")
        yield connection, sorted(rows, key=lambda row: (row[7], row[0]), reverse=True)


def matching(rows, wanted):
    return [
        row[0]
        for row in rows
        if (not wanted.states or row[4] in wanted.states)
        and wanted.account_id in (None, row[1])
        and wanted.reason in (None, row[6])
        and (wanted.since is None or row[7] >= wanted.since)
        and (wanted.until is None or row[7] < wanted.until)
        and not ((wanted.in_flight or wanted.silent_s is not None) and row[9])
    ]


FILTERS = {
    "all": Wanted(),
    "of a state": Wanted(states=frozenset({REJECTED})),
    "of open states": Wanted(states=frozenset({REQUESTED, PAID})),
    "of any states": Wanted(states=frozenset({DEDUCTED, COMPLETED})),
    "of an account": Wanted(account_id="acc-7"),
    "of nobody": Wanted(account_id="nobody"),
    "with a reason": Wanted(reason="declined"),
    "of a time": Wanted(since=BEGIN + timedelta(seconds=10), until=BEGIN + timedelta(seconds=12)),
    "in flight": Wanted(in_flight=True),
    "stuck": Wanted(silent_s=60.0),
    "everything at once": Wanted(
        frozenset({COMPENSATED}), "acc-3", BEGIN, BEGIN + timedelta(seconds=60), "declined"
    ),
    "that cannot be": Wanted(states=frozenset({COMPLETED}), in_flight=True),
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("examined", [withdrawals.EXAMINED_MAX, 50])
def test_pages_show_each_withdrawal_that_matches_once_the_newest_first(stored, monkeypatch, name, examined):
    monkeypatch.setattr(withdrawals, "EXAMINED_MAX", examined)
    connection, rows = stored
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        one = page(connection, FILTERS[name], 37, cursor)
        assert len(one.withdrawals) <= 37
        found += [listed.payment_id for listed in one.withdrawals]
        cursor, pages = one.cursor, pages + 1
        assert pages <= COUNT
    assert found == matching(rows, FILTERS[name])


def test_a_page_looks_at_a_bounded_number_and_the_cursor_goes_on(stored, monkeypatch):
    monkeypatch.setattr(withdrawals, "EXAMINED_MAX", 100)
    connection, _ = stored
    first = page(connection, Wanted(reason="rare"), 10)
    assert (first.withdrawals, first.cursor is None) == ([], False)


@pytest.mark.parametrize("name", [name for name, wanted in FILTERS.items() if wanted.parts])
def test_a_page_can_be_read_from_indices_alone(stored, name):
    """A small table is read as a whole, which is faster; no part of a page needs that."""
    connection, _ = stored
    connection.execute("SET enable_seqscan = off")
    for cursor in (None, page(connection, Wanted(), 10).cursor):
        query, _ = withdrawals.statement(FILTERS[name], 10, cursor)
        values = withdrawals.values(FILTERS[name], cursor)
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {query}", values))
        assert plan.count("Index Scan") >= len(FILTERS[name].parts), plan
        assert "Seq Scan" not in plan, plan
    connection.execute("RESET enable_seqscan")


def test_a_withdrawal_that_ends_between_two_pages_is_shown_once(settle):
    dsn = settle.new_database("saga", "lists_moving")
    ids = [UUID(int=number) for number in range(20)]
    with psycopg.connect(dsn, autocommit=True) as connection:
        for number, payment_id in enumerate(ids):
            connection.execute(
                "INSERT INTO withdrawals (payment_id, created_at, account_id, amount_minor, currency, state, "
                "seen) VALUES (%s, %s, 'acc-1', 1, 'USD', 'paid', 7)",
                (payment_id, BEGIN + timedelta(seconds=number)),
            )
        first = page(connection, Wanted(), 10)
        connection.execute("UPDATE withdrawals SET state = 'completed', finished_at = now(), finished_by = 'x'")
        second = page(connection, Wanted(), 10, first.cursor)
        assert [one.payment_id for one in first.withdrawals + second.withdrawals] == ids[::-1]


def test_the_silent_are_found_behind_any_number_that_move(settle, monkeypatch):
    monkeypatch.setattr(withdrawals, "EXAMINED_MAX", 10)
    dsn = settle.new_database("saga", "lists_silent")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO withdrawals (payment_id, created_at, updated_at, account_id, amount_minor, currency, "
            "state, seen) SELECT gen_random_uuid(), at, at, 'acc-1', 1, 'USD', 'paid', 7 "
            "FROM unnest(array_fill(now(), ARRAY[100]) || (now() - interval '1 hour')) AS at"
        )
        (found,) = page(connection, Wanted(silent_s=60.0), 50).withdrawals
        assert datetime.now(UTC) - found.updated_at > timedelta(minutes=59)


def test_a_trace_is_found_however_old_it_is(stored, monkeypatch):
    monkeypatch.setattr(withdrawals, "TRACED_MAX", 10)
    connection, rows = stored
    oldest, newest = rows[-1][0], rows[0][0]
    for payment_id, trace_id in ((oldest, "a" * 32), (newest, "b" * 32)):
        connection.execute("UPDATE withdrawals SET trace_id = %s WHERE payment_id = %s", (trace_id, payment_id))
    assert withdrawals.of_trace(connection, "a" * 32) == [oldest]
    assert withdrawals.of_trace(connection, "b" * 32) == [newest]
    assert withdrawals.of_trace(connection, "c" * 32) == []


@pytest.mark.parametrize("cursor", ["", "1", "x.y", f"{10**30}.{UUID(int=1)}", f"1.{UUID(int=1)}x", "\x00.\x00"])
def test_a_cursor_of_something_else_is_refused(stored, cursor):
    with pytest.raises(CursorError):
        page(stored[0], Wanted(), 10, cursor)


def test_accounts_are_listed_by_id_a_page_at_a_time(settle):
    dsn = settle.new_database("account", "lists_accounts")
    names = [f"acc-{number}" for number in range(12)]
    open_accounts(dsn, names, 500, "USD")
    with psycopg.connect(dsn, autocommit=True) as connection:
        found, after = [], ""
        while rows := accounts_after(connection, after, 5):
            found += [row.account_id for row in rows]
            after = found[-1]
        assert found == sorted(names)
        by_name, after = [], None
        while rows := accounts_by_name(connection, after, 5):
            by_name += [row.account_id for row in rows]
            after = by_name[-1]
        assert by_name == names


def test_bookings_and_opening_balance_make_the_balance(settle):
    account = settle.open_account()
    ids = [settle.client.request(account, amount).payment_id for amount in ("1.00", "2.05", "99999.00", "3.00")]
    states = [settle.finished(payment_id).state for payment_id in ids]
    assert states == [COMPLETED, COMPENSATED, REJECTED, COMPLETED]
    with psycopg.connect(settle.dsns["account"]) as own, psycopg.connect(settle.dsns["saga"]) as saga:
        proof = ledger.prove(own, account)
        assert proof is not None
        assert (proof.opening_balance_minor, proof.ledger_minor, proof.bookings) == (OPENING_MINOR, -400, 4)
        assert (proof.balance_minor, proof.holds) == (OPENING_MINOR - 400, True)
        assert ledger.prove(own, "nobody") is None
        found, cursor = [], None
        while True:
            one = ledger.page(saga, own, account, 1, cursor)
            found.append([(booking.payment_id, booking.kind, booking.amount_minor) for booking in one.bookings])
            if (cursor := one.cursor) is None:
                break
        expected = {
            ids[0]: [(ids[0], "deduction", -100)],
            ids[1]: [(ids[1], "deduction", -205), (ids[1], "refund", 205)],
            ids[2]: [],
            ids[3]: [(ids[3], "deduction", -300)],
        }
        newest_first = [one.payment_id for one in page(saga, Wanted(account_id=account), 10).withdrawals]
        assert set(newest_first) == set(ids)
        assert found == [expected[payment_id] for payment_id in newest_first]
