"""A service that cannot go on says so and recovers by itself, or ends so that it is started anew."""

import re
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from stack.ports import choose
from tests.conftest import WAIT_S, Settle, wait_until
from tests.instance import another_instance

ACCOUNTS = 24
"""Enough that each of two instances has some of them: each is on the partition that its name happens to have."""


@pytest.fixture(autouse=True)
def nothing_is_left(settle: Settle) -> None:
    """What another instance takes first is this test's."""
    settle.all_read()


def page(port: int, path: str) -> tuple[int, str]:
    """What one of a service's pages answers."""
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def not_ready(port: int) -> str:
    """What ``/readyz`` says is waited for; empty while all is well."""
    status, text = page(port, "/readyz")
    assert status in (200, 503)
    return text if status == 503 else ""


def test_an_exception_that_leaves_the_pipeline_ends_the_process_and_others_go_on(settle: Settle, tmp_path: Path):
    bug = "import processors.runtime.pipeline as p; p.Pipeline._read = lambda *_: 1 / 0"
    accounts = [settle.open_account() for _ in range(ACCOUNTS)]
    with another_instance(settle.stack, "account", bug, tmp_path / "log", may_die=True) as instance:
        receipts = [settle.client.request(account, "1.00") for account in accounts]
        assert instance.wait(WAIT_S) == 1
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()
    assert {settle.finished(receipt.payment_id).state for receipt in receipts} == {"completed"}


def test_a_batch_that_stands_is_reported_with_what_it_waits_for(settle: Settle, tmp_path: Path):
    port = choose(taken=set())
    impatient = "import processors.runtime.app as app; app.STANDS_S = 0.5"
    accounts = [settle.open_account() for _ in range(ACCOUNTS)]
    with another_instance(
        settle.stack, "account", impatient, tmp_path / "log", may_die=True, SETTLE_HTTP_PORT=str(port)
    ):
        with psycopg.connect(settle.dsns["account"]) as other:
            other.execute("LOCK TABLE accounts")
            receipts = [settle.client.request(account, "1.00") for account in accounts]
            said = re.compile(r"a batch has stood for \d+ s: it waits for its transaction")
            wait_until(lambda: said.search(not_ready(port)), "it says so")
        wait_until(lambda: not not_ready(port), "it is ready again")
    assert {settle.finished(receipt.payment_id).state for receipt in receipts} == {"completed"}


def test_an_event_loop_that_hangs_is_reported_by_every_page_and_with_the_batch_that_it_hangs_in(
    settle: Settle, tmp_path: Path
):
    port, go_on = choose(taken=set()), tmp_path / "go on"
    hangs = f"""
import pathlib, time, processors.runtime.app as app, processors.runtime.readiness as readiness
app.STANDS_S, readiness.HANGS_S, readiness.BEAT_S = 0.5, 1.0, 0.05
read = app.Pipeline._read
def read_late(*batch):
    while not pathlib.Path({str(go_on)!r}).exists():
        time.sleep(0.02)
    return read(*batch)
app.Pipeline._read = read_late
"""
    accounts = [settle.open_account() for _ in range(ACCOUNTS)]
    with another_instance(
        settle.stack, "account", hangs, tmp_path / "log", may_die=True, SETTLE_HTTP_PORT=str(port)
    ):
        wait_until(lambda: not not_ready(port), "it is ready")
        wait_until(lambda: page(port, "/healthz") == (200, "ok\n"), "its event loop runs")
        receipts = [settle.client.request(account, "1.00") for account in accounts]
        said = re.compile(
            r"waiting: its event loop has stood for \d+ s\n(waiting: .*\n)*?"  # what it last knew of Kafka stays
            r"waiting: a batch has stood for \d+ s: it "
        )
        wait_until(lambda: said.match(not_ready(port)), "it says so")
        status, text = page(port, "/healthz")
        assert (status, text.partition(" for ")[0]) == (503, "its event loop has stood")
        assert "\nsettle_ready 0.0\n" in page(port, "/metrics")[1]
        go_on.touch()
        wait_until(lambda: not not_ready(port), "it is ready again")
        wait_until(lambda: page(port, "/healthz") == (200, "ok\n"), "its event loop runs again")
        wait_until(lambda: "\nsettle_ready 1.0\n" in page(port, "/metrics")[1], "it counts as ready")
    assert {settle.finished(receipt.payment_id).state for receipt in receipts} == {"completed"}


def test_a_database_that_turns_read_only_is_reported_and_recovered_from(settle: Settle):
    """As after a failover: the sessions are there, and refuse every write, also once the database takes them."""
    account, port = settle.open_account(), settle.stack.state.http["account"]
    beside = make_conninfo(settle.dsns["account"], dbname="postgres")
    with psycopg.connect(beside, autocommit=True) as server:
        name = psycopg.conninfo.conninfo_to_dict(settle.dsns["account"])["dbname"]
        server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            server.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE application_name LIKE 'settle-account%'"
            )
            wait_until(lambda: "the database is read-only" in not_ready(port), "it says so")
            receipt = settle.client.request(account, "1.00")
            wait_until(lambda: "the database refuses: cannot execute" in not_ready(port), "its batch says so too")
        finally:
            server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert settle.finished(receipt.payment_id).state == "completed"
    wait_until(lambda: not not_ready(port), "it is ready again")


def test_a_table_that_is_missing_is_reported_until_it_is_there(settle: Settle):
    account, port = settle.open_account(), settle.stack.state.http["account"]
    settle.execute("account", "ALTER TABLE ledger RENAME TO ledger_away")
    try:
        receipt = settle.client.request(account, "1.00")
        wait_until(lambda: 'refuses: relation "ledger" does not exist' in not_ready(port), "it says so")
    finally:
        settle.execute("account", "ALTER TABLE ledger_away RENAME TO ledger")
    assert settle.finished(receipt.payment_id).state == "completed"
    wait_until(lambda: not not_ready(port), "it is ready again")
