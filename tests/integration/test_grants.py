"""Each role does its work, and nothing else, on a server that only `deploy/postgres/roles.sql` has set up."""

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from cli.audit import DATABASES
from stack.postgres import programs
from stack.supervisor import Stack

ROOT = Path(__file__).parents[2]
ROLES_SQL = ROOT / "deploy" / "postgres" / "roles.sql"
SERVICES = ("account", "payment", "notification", "saga")
RELAYED = SERVICES
A_ROW = "'018f0000-0000-7000-8000-000000000001', 'nobody', 'b', 'nothing', '1', NULL, NULL"
DENIED = psycopg.errors.InsufficientPrivilege


class Server:
    """A server with Settle's roles, and Kafka beside it."""

    def __init__(self, stack):
        self.bootstrap = stack.state.kafka_bootstrap
        self.superuser = stack.state.dsns["account"].rpartition("/")[0]
        self.address = self.superuser.rpartition("@")[2]

    def dsn(self, role, database):
        return f"postgresql://{role}:{role}-password@{self.address}/{database}"

    def dsns(self, role):
        return {f"SETTLE_{name.upper()}_DSN": self.dsn(role, name) for name in DATABASES}

    def set_up_roles(self, **passwords):
        """Run the script for each database, as each one's own server would."""
        server = urlsplit(self.superuser)
        command = [programs() / "psql", f"--username={server.username}", f"--host={server.hostname}"]
        command += [f"--port={server.port}", "--dbname=postgres", f"--file={ROLES_SQL}"]
        for database in DATABASES:
            names = {"service": database, "owner": "owner", "relay": "relay", "operator": "operator"}
            given = {
                f"SETTLE_{kind.upper()}_PASSWORD": passwords.get(name, f"{name}-password")
                for kind, name in names.items()
            }
            environment = os.environ | given | {"SETTLE_DATABASE": database, "PGPASSWORD": server.password}
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)

    def settle(self, role, *arguments):
        environment = clean_environment() | self.dsns(role) | {"SETTLE_KAFKA_BOOTSTRAP": self.bootstrap}
        command = [sys.executable, "-m", "cli", *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    @contextmanager
    def running(self, service, **variables):
        environment = clean_environment() | {"SETTLE_KAFKA_BOOTSTRAP": self.bootstrap} | variables
        process = subprocess.Popen([sys.executable, "-m", "cli", "run", service], env=environment)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def tries(self, role, database, statement):
        with psycopg.connect(self.dsn(role, database)) as connection:
            connection.execute(statement)


def clean_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("SETTLE_", "OTEL_"))}


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
