"""Whoever dies, whenever: after recovery all participants say the same. And what it costs until then."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from contracts.failpoints import EXIT_CODE, FAILPOINTS
from lab.approaches import recovery
from lab.approaches.connections import connect
from lab.approaches.two_phase_commit import ABORT, COMMIT, PARTICIPANTS, TwoPhaseCommit, decide
from lab.approaches.withdrawal import ACCEPTED, COMPLETED, TryAgainError
from lab.comparison.books import balances, payments
from lab.comparison.sites import Site, site
from tests.conftest import Settle, wait_until
from tests.integration.approaches import HUNDRED, OPENING_MINOR, account, request, settled, withdraw

POINTS = [name for name in FAILPOINTS if name.startswith("two-phase-commit.")]
COMMITTED = POINTS[3:]
HALFWAY = "two-phase-commit.prepared-notification"
FOUND = {
    "account": "SELECT count(*) FROM withdrawals WHERE account_id = %s",
    "payment": "SELECT count(*) FROM payments WHERE account_id = %s",
    "notification": "SELECT count(*) FROM notifications WHERE account_id = %s",
}


@pytest.fixture(scope="module")
def place(settle: Settle) -> Iterator[Site]:
    with site("two_phase_commit", settle.stack) as one:
        yield one


def found(place: Site, name: str) -> dict[str, int]:
    """How many rows each participant has for an account."""
    rows = {}
    for participant, query in FOUND.items():
        with psycopg.connect(place.addresses[participant]) as db:
            rows[participant] = db.execute(query, (name,)).fetchone()[0]
    return rows


def test_a_coordinator_killed_anywhere_leaves_the_same_outcome_everywhere_after_recovery(place: Site):
    names = {point: account(place) for point in POINTS}
    place.die({point: request(name) for point, name in names.items()})
    recovery.recover(place.addresses)
    assert recovery.in_doubt(place.addresses) == []
    for point, name in names.items():
        # Aborted before the decision, committed after it; never some of each.
        assert found(place, name) == dict.fromkeys(PARTICIPANTS, 1 if point in COMMITTED else 0), point
    assert recovery.recover(place.addresses).settled == []


def test_a_reader_in_the_middle_of_phase_two_sees_money_gone_and_not_paid(place: Site):
    name = account(place)
    place.die({"two-phase-commit.committed-account": request(name)})
    assert balances(place.books, [name]) == [(OPENING_MINOR, OPENING_MINOR - HUNDRED)]
    assert payments(place.books, [name]) == []
    (payment, notification) = recovery.in_doubt(place.addresses)
    assert (payment.participant, payment.decision) == ("payment", COMMIT)
    assert (notification.participant, notification.decision) == ("notification", COMMIT)
    recovery.recover(place.addresses)
    settled(place, name, HUNDRED)


def test_an_account_in_doubt_makes_everybody_wait_until_recovery(place: Site):
    name, other = account(place), account(place)
    place.die({HALFWAY: request(name)})
    (first, *_) = recovery.in_doubt(place.addresses)
    assert (first.participant, first.decision) == ("account", None)
    with closing(TwoPhaseCommit(place.addresses, timeout_s=0.2)) as hasty:
        with pytest.raises(TryAgainError, match="lock timeout"):
            hasty.withdraw(request(name))
        assert hasty.withdraw(request(other)).state == COMPLETED  # only what it touched is locked

    def patient(_: int) -> tuple[str, float]:
        started = time.monotonic()
        with closing(place.client()) as client:
            return withdraw(client, request(name)).state, time.monotonic() - started

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(patient, number) for number in range(3)]
        wait_until(lambda: recovery.in_doubt(place.addresses)[0].waiting == 3, "three wait for its lock")
        assert not any(one.done() for one in waiting)
        recovery.recover(place.addresses)
        assert [one.result()[0] for one in waiting] == [COMPLETED] * 3
    settled(place, name, 3 * HUNDRED)


def test_recovery_takes_the_decision_away_from_a_coordinator_that_lives(place: Site, monkeypatch):
    """Both want to decide; the first row in the log stands, for both."""
    name = account(place)
    monkeypatch.setattr(
        "contracts.failpoints.hit",
        lambda point: recovery.recover(place.addresses) if point == HALFWAY else None,
    )
    with closing(place.client()) as client, pytest.raises(TryAgainError, match="somebody recovered"):
        client.withdraw(request(name))
    assert found(place, name) == dict.fromkeys(PARTICIPANTS, 0)


def test_the_first_decision_stands(place: Site):
    wanted = request("acc-1")
    with connect(place.addresses["coordinator"]) as log:
        assert decide(log, wanted.payment_id, wanted.payment_id, COMMIT) == COMMIT
        assert decide(log, wanted.payment_id, None, ABORT) == COMMIT


def test_a_young_transaction_can_be_left_to_its_coordinator(place: Site):
    name = account(place)
    place.die({"two-phase-commit.committed-account": request(name)})
    assert recovery.recover(place.addresses, older_than_s=60).settled == []
    assert len(recovery.in_doubt(place.addresses)) == 2
    assert len(recovery.recover(place.addresses).settled) == 2
    settled(place, name, HUNDRED)


def test_a_participant_that_is_away_stops_every_withdrawal_and_leaves_nothing(place: Site):
    name = account(place)
    place.server.close(place.database("notification"))
    try:
        with closing(place.client()) as client, pytest.raises(TryAgainError, match="aborted"):
            client.withdraw(request(name))
    finally:
        place.server.open(place.database("notification"))
    assert found(place, name) == dict.fromkeys(PARTICIPANTS, 0)
    assert recovery.in_doubt(place.addresses) == []


def test_a_participant_that_goes_after_its_vote_is_in_doubt_until_it_is_back(place: Site, monkeypatch):
    name = account(place)
    wanted = request(name)
    monkeypatch.setattr(
        "contracts.failpoints.hit",
        lambda point: (
            place.server.close(place.database("payment")) if point == "two-phase-commit.decided" else None
        ),
    )
    with closing(place.client()) as client:
        try:
            assert client.withdraw(wanted) == (ACCEPTED, "decided, but in doubt at payment")
            assert client.finished(wanted.payment_id) is None
            assert recovery.recover(place.addresses).unreachable == ["payment"]
            assert client.finished(wanted.payment_id) is None
        finally:
            place.server.open(place.database("payment"))
        recovery.recover(place.addresses)
        assert client.finished(wanted.payment_id).state == COMPLETED
    settled(place, name, HUNDRED)


def test_a_log_that_does_not_answer_leaves_the_withdrawal_in_doubt_and_not_undone(place: Site, monkeypatch):
    name = account(place)
    wanted = request(name)
    monkeypatch.setattr(
        "contracts.failpoints.hit",
        lambda point: place.server.close(place.database("coordinator")) if point == HALFWAY else None,
    )
    with closing(place.client()) as client:
        try:
            with pytest.raises(TryAgainError, match="in doubt"):
                client.withdraw(wanted)
        finally:
            place.server.open(place.database("coordinator"))
    assert len(recovery.in_doubt(place.addresses)) == 3
    recovery.recover(place.addresses)
    monkeypatch.undo()
    with closing(place.client()) as client:
        assert withdraw(client, wanted).state == COMPLETED
    settled(place, name, HUNDRED)


def test_promises_and_their_locks_survive_the_death_of_the_server(place: Site):
    name = account(place)
    place.die({HALFWAY: request(name)})
    place.stack.kill("postgres-account")
    place.stack.wait_ready("postgres-account")
    assert {one.participant for one in recovery.in_doubt(place.addresses)} == set(PARTICIPANTS)
    with closing(TwoPhaseCommit(place.addresses, timeout_s=0.2)) as client:
        with pytest.raises(TryAgainError, match="lock timeout"):
            client.withdraw(request(name))
        recovery.recover(place.addresses)
        assert client.withdraw(request(name)).state == COMPLETED
    settled(place, name, HUNDRED)
    for status in place.stack.statuses():
        place.stack.wait_ready(status.name)


def test_the_command_leaves_in_doubt_lists_and_recovers(settle: Settle, monkeypatch):
    for name, value in settle.stack.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "80")

    def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "cli", "2pc", *arguments], capture_output=True, text=True)

    databases = "SELECT datname FROM pg_database WHERE datname ~ '^two_phase_(coordinator|account)$'"
    assert cli("in-doubt").stdout == "nothing is in doubt\n"
    assert cli("recover").stdout == "0 settled, 0 left\n"
    assert settle.query("account", databases) == []  # asking makes nothing
    ask = ("withdraw", "--account", "acc-1", "--amount", "100.00")
    assert cli(*ask).stdout.endswith(": completed\n")
    assert cli("in-doubt").stdout == "nothing is in doubt\n"
    assert cli(*ask, "--die-at", "prepared-notification").returncode == EXIT_CODE
    listed = cli("in-doubt").stdout
    assert [name in listed for name in PARTICIPANTS] == [True] * 3
    assert max(map(len, listed.splitlines())) <= 80
    assert len(json.loads(cli("in-doubt", "--json").stdout)) == 3
    blocked = cli(*ask)
    assert (blocked.returncode, len(blocked.stderr.splitlines())) == (1, 1)
    assert "lock timeout" in blocked.stderr
    assert cli("recover", "--older-than", "600").stdout == "0 settled, 3 left (younger than 600 s)\n"
    assert cli("recover", "--older-than", "0").stdout.endswith("3 settled, 0 left\n")
    assert cli(*ask).stdout.endswith(": completed\n")
