"""The system on the package's other PostgreSQL, each program with the rights of its role."""

import asyncio
import os
import signal
from contextlib import ExitStack
from functools import partial

import psycopg
import pytest

from contracts import postgres
from contracts.services import NAMES
from processors.runtime import connection
from stack import postgres as stack_postgres
from stack.errors import StackError
from stack.supervisor import Stack
from tests.conftest import wait_until
from tests.integration.roles import Server

OTHER = min(stack_postgres.VERSIONS)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETTLE_POSTGRES_VERSION", str(OTHER))
        with Stack(folder, services=(), databases=["account"], postgres_settings={"fsync": "off"}) as stack:
            server = Server(stack)
            with psycopg.connect(f"{server.superuser}/postgres", autocommit=True) as superuser:
                assert superuser.info.server_version // 10_000 == OTHER
                superuser.execute("DROP DATABASE account")
            server.set_up_roles()
            server.settle("owner", "migrate", "--grant")
            yield server


def dead_rows(server):
    listed = server.settle("operator", "outbox", "dead", "list")
    return listed if "no/topic" in listed else None


def test_withdrawals_dead_rows_and_a_killed_relay(server, tmp_path):
    sources = " ".join(server.dsn("relay", name) for name in NAMES)
    with ExitStack() as running:
        for name in NAMES:
            own = {f"SETTLE_{name.upper()}_DSN": server.dsn(name, name), "SETTLE_DATA": str(tmp_path)}
            provider = {"SETTLE_PROVIDER_DSN": server.dsn("provider", "provider")} if name == "payment" else {}
            running.enter_context(server.running(name, **own, **provider))
        server.settle("operator", "accounts", "open")
        with server.running("relay", SETTLE_RELAY_SOURCES=sources) as relay:
            server.settle(
                "operator", "load", "--count=100", "--declined=0.1", "--insufficient=0.1", "--duplicates=0"
            )
            os.kill(relay.pid, signal.SIGKILL)
        running.enter_context(server.running("relay", SETTLE_RELAY_SOURCES=sources))
        server.tries(
            "account",
            "account",
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)"
            " VALUES (gen_random_uuid(), 'no/topic', 'a', 'Nothing', '{}')",
        )
        dead = wait_until(partial(dead_rows, server), "the relay quarantines what makes no topic")
        server.settle("operator", "outbox", "dead", "discard", "--all", "--yes")
        verdict = server.settle("operator", "audit", "--wait=60")
        status = server.settle("operator", "outbox", "status")
        republished = server.settle("operator", "republish", "--every-event", "--quiet=0", "--limit=1", "--yes")
    assert "the audit holds: 100 withdrawals (10 compensated, 80 completed, 10 rejected)" in " ".join(
        verdict.split()
    )
    assert "no/topic" in dead
    assert all(name in status for name in NAMES)
    assert "of 1 withdrawal handed to the relay" in republished


def test_a_version_that_is_too_old_is_refused_in_one_line(server, monkeypatch):
    monkeypatch.setattr(postgres, "VERSION_MIN", (OTHER + 1) * 10_000)
    monkeypatch.setenv("SETTLE_ACCOUNT_DSN", server.dsn("account", "account"))
    dsn = server.dsn("account", "account")
    for connect in (
        lambda: postgres.session(dsn),
        lambda: postgres.relay_connection(dsn, replication=False),
        lambda: asyncio.run(connection.connect(dsn, "settle-test")),
    ):
        with pytest.raises(psycopg.OperationalError) as refused:
            connect()
        needed = f"PostgreSQL {OTHER} is too old: {OTHER + 1} or newer is needed; look at SETTLE_ACCOUNT_DSN"
        assert str(refused.value) == needed


def test_a_version_that_the_package_does_not_have_is_refused(monkeypatch):
    monkeypatch.setenv("SETTLE_POSTGRES_VERSION", "13")
    with pytest.raises(StackError, match="SETTLE_POSTGRES_VERSION=13 is wrong: it is one of 16, 18"):
        stack_postgres.new_version()
