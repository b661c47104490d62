"""A service that cannot go on says so and recovers by itself, or ends so that it is started anew."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg

from stack.ports import choose
from tests.conftest import WAIT_S, Settle, wait_until

RUN = "from processors.runtime.worker import run_service; run_service('account')"
ACCOUNTS = 8
"""Enough that each of two instances has some of their partitions."""


def not_ready(port: int) -> str:
    """What ``/readyz`` says is waited for; empty while all is well."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return ""
    except HTTPError as error:
        assert error.code == 503
        return error.read().decode()


@contextmanager
def account_service(
    settle: Settle, log: Path, changes: str, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """One more instance of the account service, with changes to its code."""
    environment = {**os.environ, **settle.stack.environment(), "SETTLE_HTTP_PORT": "0", **variables}
    command = [sys.executable, "-c", f"{changes}; {RUN}"]
    with log.open("w") as lines:
        instance = subprocess.Popen(command, env=environment, stderr=lines)
    try:
        wait_until(lambda: "partitions assigned" in log.read_text(), "it has partitions")
        yield instance
    finally:
        instance.terminate()
        instance.wait(30)


def test_an_exception_that_leaves_the_pipeline_ends_the_process_and_others_go_on(settle: Settle, tmp_path: Path):
    bug = "import processors.runtime.pipeline as p; p.Pipeline._read = lambda *_: 1 / 0"
    accounts = [settle.open_account() for _ in range(ACCOUNTS)]
    with account_service(settle, tmp_path / "log", bug) as instance:
        receipts = [settle.client.request(account, "1.00") for account in accounts]
        assert instance.wait(WAIT_S) == 1
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()
    assert {settle.finished(receipt.payment_id).state for receipt in receipts} == {"completed"}


def test_a_batch_that_stands_is_reported_with_what_it_waits_for(settle: Settle, tmp_path: Path):
    port = choose(taken=set())
    impatient = "import processors.runtime.app as app; app.STANDS_S = 0.5"
    accounts = [settle.open_account() for _ in range(ACCOUNTS)]
    with account_service(settle, tmp_path / "log", impatient, SETTLE_HTTP_PORT=str(port)):
        with psycopg.connect(settle.dsns["account"]) as other:
            other.execute("LOCK TABLE accounts")
            receipts = [settle.client.request(account, "1.00") for account in accounts]
            said = re.compile(r"a batch has stood for \d+ s: it waits for its transaction")
            wait_until(lambda: said.search(not_ready(port)), "it says so")
        wait_until(lambda: not not_ready(port), "it is ready again")
    assert {settle.finished(receipt.payment_id).state for receipt in receipts} == {"completed"}


def test_a_database_that_turns_read_only_is_reported_and_recovered_from(settle: Settle):
    """As after a failover: the sessions are there, and refuse every write, also once the database takes them."""
    account, port = settle.open_account(), settle.stack.state.http["account"]
    with psycopg.connect(settle.dsns["saga"], autocommit=True) as server:
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
    assert settle.finished(receipt.payment_id, 15).state == "completed"
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
