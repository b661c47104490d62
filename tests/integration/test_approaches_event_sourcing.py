"""The events are the truth: balances, projections and the past all follow from them."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import psycopg
import pytest

from lab.approaches import event_sourcing
from lab.approaches.connections import Connection, connect
from lab.approaches.event_sourcing import SNAPSHOT_EVERY, EventSourced, balance, balance_at, rebuild
from lab.approaches.withdrawal import ACCEPTED, COMPLETED
from lab.comparison.books import balances
from lab.comparison.sites import Site, site
from tests.conftest import WAIT_S, Settle, wait_until
from tests.integration.approaches import HUNDRED, OPENING_MINOR, REFUSED, account, request, settled, withdraw

PROJECTIONS = (
    "SELECT account_id, opening_minor, balance_minor FROM accounts ORDER BY 1",
    "SELECT payment_id, account_id, amount_minor, status, reason FROM withdrawals ORDER BY 1",
)


@pytest.fixture(scope="module")
def place(settle: Settle) -> Iterator[Site]:
    with site("event_sourcing", settle.stack) as one:
        yield one


@pytest.fixture
def db(place: Site) -> Iterator[Connection]:
    with connect(place.addresses["account"]) as connection:
        yield connection


def events_of(db: Connection, payment_id) -> list[str]:
    query = "SELECT type FROM events WHERE payment_id = %s ORDER BY version"
    return [kind for (kind,) in db.execute(query, (payment_id,))]


def test_a_withdrawal_is_five_events(place: Site, db: Connection):
    name = account(place)
    wanted = request(name)
    with closing(place.client()) as client:
        withdraw(client, wanted)
    assert events_of(db, wanted.payment_id) == [
        "WithdrawalRequested",
        "BalanceChecked",
        "MoneyDeducted",
        "PaymentProcessed",
        "WithdrawalCompleted",
    ]


@pytest.mark.parametrize("change", ["UPDATE events SET type = 'Other'", "DELETE FROM events", "TRUNCATE events"])
def test_the_past_cannot_be_changed(db: Connection, place: Site, change: str):
    account(place)
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        db.execute(change)


def test_a_projection_rebuilt_equals_the_live_one(place: Site, db: Connection):
    with closing(place.client()) as client:
        for amount in (HUNDRED, REFUSED, 10 * OPENING_MINOR):
            withdraw(client, request(account(place), amount))
        withdraw(client, request("acc-nobody"))
    live = [db.execute(query).fetchall() for query in PROJECTIONS]
    db.execute("DELETE FROM withdrawals")
    db.execute("UPDATE accounts SET balance_minor = 0")
    assert rebuild(place.addresses["account"]) == db.execute("SELECT count(*) FROM events").fetchone()[0]
    assert [db.execute(query).fetchall() for query in PROJECTIONS] == live


def test_a_projection_rebuilt_under_load_misses_nothing(place: Site, db: Connection):
    names = [account(place) for _ in range(3)]
    done = threading.Event()

    def ask(name: str) -> int:
        number = 0
        with closing(place.client()) as client:
            while not done.is_set() and number < 9:
                withdraw(client, request(name, 100))
                number += 1
        return number

    def rebuilt() -> int | None:
        with suppress(psycopg.errors.LockNotAvailable):  # an append took longer than it waits for one
            return rebuild(place.addresses["account"])
        return None

    with ThreadPoolExecutor(3) as pool:
        counts = [pool.submit(ask, name) for name in names]
        try:
            for _ in range(5):
                wait_until(rebuilt, "the projections are rebuilt")
        finally:
            done.set()
    for name, count in zip(names, counts, strict=True):
        assert balances(place.books, [name]) == [(OPENING_MINOR, OPENING_MINOR - 100 * count.result())]
        assert balance(db, name).balance_minor == OPENING_MINOR - 100 * count.result()


def test_the_balance_as_of_a_time_is_the_balance_seen_at_that_time(place: Site, db: Connection):
    before = db.execute("SELECT clock_timestamp()").fetchone()[0]
    name = account(place)
    seen = []
    with closing(place.client()) as client:
        for amount in (HUNDRED, REFUSED, 300):
            seen.append(
                db.execute(
                    "SELECT clock_timestamp(), balance_minor FROM accounts WHERE account_id = %s", (name,)
                ).fetchone()
            )
            withdraw(client, request(name, amount))
    seen.append(
        db.execute(
            "SELECT clock_timestamp(), balance_minor FROM accounts WHERE account_id = %s", (name,)
        ).fetchone()
    )
    assert [minor for _, minor in seen] == [100_000, 90_000, 90_000, 89_700]
    assert [balance_at(db, name, at) for at, _ in seen] == [minor for _, minor in seen]
    assert balance_at(db, name, before) is None


def test_a_snapshot_saves_reading_and_changes_no_balance(place: Site, db: Connection, monkeypatch):
    name = account(place)
    with closing(place.client()) as client:
        for _ in range(SNAPSHOT_EVERY // 5 + 1):
            withdraw(client, request(name, 100))
    ((version, minor),) = db.execute("SELECT version, balance_minor FROM snapshots WHERE account_id = %s", (name,))
    assert version >= SNAPSHOT_EVERY
    folded = balance(db, name)
    db.execute("DELETE FROM snapshots")
    assert balance(db, name) == folded
    assert minor >= folded.balance_minor


def test_two_who_decided_on_the_same_version_cannot_both_append(place: Site, monkeypatch):
    """One account, money for one of two, both having read the same balance."""
    name = account(place, HUNDRED)
    both = threading.Barrier(2)
    read = event_sourcing.balance
    first = {}

    def read_together(db: Connection, account_id: str) -> event_sourcing.Account:
        found = read(db, account_id)
        if first.setdefault(threading.get_ident(), True):
            first[threading.get_ident()] = False
            both.wait(WAIT_S)
        return found

    monkeypatch.setattr(event_sourcing, "balance", read_together)

    def ask(_: int) -> tuple[str, int]:
        with closing(EventSourced(place.addresses["account"], place.addresses["payment"])) as client:
            # The second waits for the first to commit, however long that takes.
            client._db.execute("SET lock_timeout = 0")
            return client.withdraw(request(name)).state, client.conflicts

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(ask, range(2)))
    assert {state for state, _ in answers} == {"completed", "rejected"}
    assert sum(conflicts for _, conflicts in answers) >= 1
    settled(place, name, HUNDRED)


def test_a_payment_service_away_leaves_it_stored_and_it_is_resumed(place: Site):
    name = account(place)
    wanted = request(name)
    with closing(place.client()) as client:
        place.server.close(place.database("payment"))
        try:
            assert client.withdraw(wanted).state == ACCEPTED
            assert client.finished(wanted.payment_id) is None
        finally:
            place.server.open(place.database("payment"))
        place.recover()
        assert wait_until(lambda: client.finished(wanted.payment_id), "resumed").state == COMPLETED
    settled(place, name, HUNDRED)
