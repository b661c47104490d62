"""A service behind PgBouncer, where that is installed: sessions are pooled, or it says why it waits."""

import asyncio
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import psycopg
import pytest

from processors.runtime.connection import SharedSessionError, connect
from stack.ports import choose
from tests.conftest import Settle, wait_until
from tests.integration.relay.outbox import answer

pytestmark = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed")


@contextmanager
def pgbouncer(folder, dsn, mode):
    """The URL of the same database through PgBouncer."""
    server, port = urlsplit(dsn), choose()
    folder.joinpath("users").write_text(f'"{server.username}" "{server.password}"\n')
    folder.joinpath("pgbouncer.ini").write_text(
        f"[databases]\n* = host={server.hostname} port={server.port}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\npool_mode = {mode}\n"
        f"auth_type = scram-sha-256\nauth_file = {folder}/users\nignore_startup_parameters = extra_float_digits\n"
        "user = nobody\n"
    )
    folder.joinpath("users").chmod(0o644)
    process = subprocess.Popen(["pgbouncer", "--quiet", folder / "pgbouncer.ini"])
    through = dsn.replace(f":{server.port}/", f":{port}/")

    def answers():
        with suppress(psycopg.OperationalError), psycopg.connect(through):
            return True

    try:
        wait_until(answers, "PgBouncer answers")
        yield through
    finally:
        process.terminate()
        process.wait(30)


async def opens(dsn):
    connection = await connect(dsn, "settle-test")
    row = await (await connection.execute("SHOW lock_timeout")).fetchone()
    await connection.close()
    return row[0]


def test_a_service_works_where_sessions_are_pooled(settle: Settle, tmp_path):
    with pgbouncer(tmp_path, settle.dsns["account"], "session") as dsn:
        assert asyncio.run(opens(dsn)) == "10s"


def test_a_service_says_why_it_waits_where_transactions_are_pooled(settle: Settle, tmp_path):
    port = choose()
    with pgbouncer(tmp_path, settle.dsns["account"], "transaction") as dsn:
        for _ in range(5):
            with pytest.raises(SharedSessionError):
                asyncio.run(opens(dsn))
        variables = {**settle.stack.environment(), "SETTLE_ACCOUNT_DSN": dsn, "SETTLE_HTTP_PORT": str(port)}
        process = subprocess.Popen([sys.executable, "-m", "cli", "run", "account"], env=variables)
        try:
            wait_until(lambda: "pool_mode=session" in answer(port, "/readyz")[1], "it says so")
            assert process.poll() is None
        finally:
            process.terminate()
            process.wait(30)
