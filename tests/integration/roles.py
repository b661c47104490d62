"""A PostgreSQL server that only ``deploy/postgres/roles.sql`` and ``settle migrate --grant`` have set up."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from contracts.services import DATABASES
from stack.postgres import programs

ROLES_SQL = Path(__file__).parents[2] / "deploy" / "postgres" / "roles.sql"
PSQL = programs() / "psql"


PEOPLE = ("viewer", "operator", "treasurer")


def user(role, database):
    """The name of a role; each database has a relay's of its own."""
    return f"relay_{database}" if role == "relay" else role


class Server:
    """A server with Settle's roles, and Kafka beside it."""

    def __init__(self, stack):
        self.bootstrap = stack.state.kafka_bootstrap
        self.superuser = stack.state.dsns["account"].rpartition("/")[0]
        self.address = self.superuser.rpartition("@")[2]

    def dsn(self, role, database):
        return f"postgresql://{user(role, database)}:{role}-password@{self.address}/{database}"

    def dsns(self, role):
        """What a role's commands are given; the operator's also the treasurer's, as in the compose stack."""
        treasurer = {"SETTLE_TREASURER_DSN": self.dsn("treasurer", "account")} if role == "operator" else {}
        return {f"SETTLE_{name.upper()}_DSN": self.dsn(role, name) for name in DATABASES} | treasurer

    def set_up_roles(self, **passwords):
        """Run the script for each database, as each one's own server would."""
        server = urlsplit(self.superuser)
        command = [PSQL, f"--username={server.username}", f"--host={server.hostname}"]
        command += [f"--port={server.port}", "--dbname=postgres", f"--file={ROLES_SQL}"]
        for database in DATABASES:
            names = {"service": database} | {name: name for name in ("owner", "relay", *PEOPLE)}
            given = {
                f"SETTLE_{kind.upper()}_PASSWORD": passwords.get(name, f"{name}-password")
                for kind, name in names.items()
            }
            environment = os.environ | given | {"SETTLE_DATABASE": database, "PGPASSWORD": server.password}
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)

    def settle(self, role, *arguments):
        environment = clean_environment() | self.dsns(role) | {"SETTLE_KAFKA_BOOTSTRAP": self.bootstrap}
        command = [sys.executable, "-m", "cli", *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
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

    def asks(self, role, database, query):
        with psycopg.connect(self.dsn(role, database)) as connection:
            return connection.execute(query).fetchall()


def clean_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("SETTLE_", "OTEL_"))}
