"""Each role does its work, and nothing else, on a server that only `deploy/postgres/roles.sql` has set up."""

from contextlib import ExitStack

import psycopg
import pytest

from contracts.services import DATABASES
from stack.supervisor import Stack
from tests.integration.roles import Server

SERVICES = ("account", "payment", "notification", "saga")
RELAYED = SERVICES
A_ROW = "'018f0000-0000-7000-8000-000000000001', 'nobody', 'b', 'nothing', '1', NULL, NULL"
DENIED = psycopg.errors.InsufficientPrivilege


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    # PostgreSQL gives up its rights as root and must still reach its folder.
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    with Stack(folder, services=(), databases=["account"], postgres_settings={"fsync": "off"}) as stack:
        server = Server(stack)
        with psycopg.connect(f"{server.superuser}/postgres", autocommit=True) as connection:
            connection.execute("DROP DATABASE account")
        server.set_up_roles()
        server.settle("owner", "migrate", "--grant")
        yield server


def test_every_service_does_its_work_with_its_own_role(server, tmp_path):
    sources = " ".join(server.dsn("relay", name) for name in RELAYED)
    with ExitStack() as running:
        for name in SERVICES:
            own = {f"SETTLE_{name.upper()}_DSN": server.dsn(name, name), "SETTLE_DATA": str(tmp_path)}
            provider = {"SETTLE_PROVIDER_DSN": server.dsn("provider", "provider")} if name == "payment" else {}
            running.enter_context(server.running(name, **own, **provider))
        running.enter_context(server.running("relay", SETTLE_RELAY_SOURCES=sources))
        server.settle("operator", "accounts", "open")
        server.settle(
            "operator", "load", "--count=400", "--declined=0.1", "--insufficient=0.1", "--duplicates=0.1"
        )

        verdict = server.settle("operator", "audit", "--wait=60")
        handed = server.settle("operator", "republish", "--every-event", "--quiet=0", "--limit=1", "--yes")
        assert "of 1 withdrawal handed to the relay" in handed

    assert "the audit holds: 400 withdrawals (40 compensated, 320 completed, 40 rejected)" in " ".join(
        verdict.split()
    )


@pytest.mark.parametrize("role", [*SERVICES, "provider"])
def test_a_service_connects_to_no_database_but_its_own(server, role):
    for database in {*DATABASES, "postgres"} - {role}:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            server.tries(role, database, "SELECT 1")


@pytest.mark.parametrize(
    ("role", "database", "statement"),
    [
        ("account", "account", "UPDATE ledger SET amount_minor = 1"),
        ("account", "account", "DELETE FROM ledger"),
        ("account", "account", "INSERT INTO accounts VALUES ('acc-x', 'USD', 1, 1)"),
        ("account", "account", "CREATE TABLE mine ()"),
        ("account", "account", "ALTER TABLE ledger DISABLE TRIGGER ALL"),
        ("account", "account", "DELETE FROM outbox"),
        ("payment", "payment", "DELETE FROM payments"),
        ("provider", "provider", "DELETE FROM charges"),
        ("saga", "saga", "UPDATE event_store SET type = 'x'"),
        ("saga", "saga", "DELETE FROM withdrawals"),
        (
            "relay",
            "account",
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('a','b','c','1')",
        ),
        ("relay", "account", "UPDATE outbox SET payload = '1'"),
        ("relay", "account", "SELECT FROM accounts"),
        ("relay", "saga", "SELECT FROM event_store"),
        ("operator", "account", "UPDATE accounts SET balance_minor = 1"),
        ("operator", "payment", "DELETE FROM payments"),
        ("operator", "saga", "UPDATE outbox SET payload = '1'"),
    ],
)
def test_a_role_may_not(server, role, database, statement):
    with pytest.raises(DENIED):
        server.tries(role, database, statement)


def test_roles_and_grants_may_be_made_again_and_a_password_changes(server):
    try:
        server.set_up_roles(saga="another")
        server.settle("owner", "migrate", "--grant")

        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            server.tries("saga", "saga", "SELECT 1")
    finally:
        server.set_up_roles()
    server.tries("saga", "saga", "SELECT 1")


def test_a_row_that_can_never_be_published_is_put_aside_by_the_relay_and_put_back_by_the_operator(server):
    server.tries("relay", "saga", f"INSERT INTO outbox_dead VALUES ({A_ROW}, '0/1', 'too large')")
    server.tries("operator", "saga", "DELETE FROM outbox_dead")
    server.tries("operator", "saga", f"INSERT INTO outbox VALUES ({A_ROW})")
    server.tries("relay", "saga", "DELETE FROM outbox WHERE type = 'nothing'")
    for role, statement in (
        ("saga", "SELECT FROM outbox_dead"),
        ("operator", "UPDATE outbox_dead SET reason = ''"),
    ):
        with pytest.raises(DENIED):
            server.tries(role, "saga", statement)
