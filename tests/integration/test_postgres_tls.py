"""Services, relay, migrations and commands connect as libpq does: with certificates, passfile and service."""

import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest
import trustme

from contracts.services import NAMES
from stack.jars import postgres_with_tls
from stack.ports import choose
from stack.supervisor import Stack
from tests.conftest import wait_until
from tests.integration.relay.outbox import answer
from tests.integration.roles import PEOPLE, Server, clean_environment, user

# Only the superuser, as whom stack and psql come, may do without TLS. The account service, and the relay in one
# database, have a certificate instead of a password.
HBA = """
host all settle 127.0.0.1/32 scram-sha-256
hostssl account account 127.0.0.1/32 cert
hostssl saga relay_saga 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256
local all all scram-sha-256
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Certificates, passwords and services, as an operator has them."""
    folder = tmp_path_factory.mktemp("files")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    ca, stranger = trustme.CA(), trustme.CA()
    past = datetime.now(UTC) - timedelta(days=1)
    issued = {
        "server": ca.issue_cert("localhost"),
        "account": ca.issue_cert(common_name="account"),
        "relay": ca.issue_cert(common_name="relay_saga"),
        "expired": ca.issue_cert(common_name="account", not_after=past, not_before=past - timedelta(days=1)),
    }
    for name, certificate in issued.items():
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
        (folder / f"{name}.key").chmod(0o600)
    ca.cert_pem.write_to_path(folder / "ca.crt")
    stranger.cert_pem.write_to_path(folder / "stranger.crt")
    passwords = folder / "pgpass"
    lines = [f"*:*:*:{role}:{role}-password\n" for role in ("owner", *PEOPLE, *NAMES, "provider")]
    lines += [f"*:*:*:{user('relay', name)}:relay-password\n" for name in NAMES]
    passwords.write_text("".join(lines))
    passwords.chmod(0o600)
    return folder


class Secured(Server):
    """The same, for whom TLS is required; each DSN is of another kind."""

    def __init__(self, stack, files):
        super().__init__(stack)
        self.files = files
        self.port = int(self.address.rpartition(":")[2])
        services = [
            f"[{name}]\nhost=localhost\nport={self.port}\ndbname={name}\n" for name in (*NAMES, "provider")
        ]
        options = f"sslmode=verify-full\nsslrootcert={files}/ca.crt\npassfile={files}/pgpass\n"
        (files / "pg_service.conf").write_text("".join(service + options for service in services))

    def url(self, role, database, **parameters):
        parameters = {"sslmode": "verify-full", "sslrootcert": self.files / "ca.crt", **parameters}
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"postgresql://{user(role, database)}@localhost:{self.port}/{database}?{query}"

    def certified(self, role, database, name=None, **parameters):
        name = name or role
        key = {"sslcert": self.files / f"{name}.crt", "sslkey": self.files / f"{name}.key"}
        return self.url(role, database, **key, **parameters)

    def dsn(self, role, database):
        return self.url(role, database, passfile=self.files / "pgpass")

    def variables(self):
        return {"SETTLE_KAFKA_BOOTSTRAP": self.bootstrap, "PGSERVICEFILE": str(self.files / "pg_service.conf")}

    def sources(self):
        return "\n".join(
            (
                "service=account user=relay_account",
                self.dsn("relay", "payment"),
                self.dsn("relay", "notification").replace(
                    f"passfile={self.files}/pgpass", "password=relay-password"
                ),
                self.certified("relay", "saga"),
            )
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("stack")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    (files / "pg_hba.conf").write_text(HBA)
    settings = {
        "fsync": "off",
        "ssl": "on",
        "ssl_cert_file": str(files / "server.crt"),
        "ssl_key_file": str(files / "server.key"),
        "ssl_ca_file": str(files / "ca.crt"),
        "hba_file": str(files / "pg_hba.conf"),
    }
    with pytest.MonkeyPatch.context() as patch:
        # That of the Python package is built without TLS.
        patch.setattr("stack.postgres.programs", lambda version: postgres_with_tls())
        patch.setenv("PGSERVICEFILE", str(files / "pg_service.conf"))
        with Stack(folder, services=(), databases=["account"], postgres_settings=settings) as stack:
            server = Secured(stack, files)
            with psycopg.connect(f"{server.superuser}/postgres", autocommit=True) as connection:
                connection.execute("DROP DATABASE account")
            server.set_up_roles()
            server.settle("owner", "migrate", "--grant")
            yield server


def test_everything_works_with_verify_full_certificates_passfile_service_and_secret_files(server, files, tmp_path):
    in_a_file = tmp_path / "saga"
    in_a_file.write_text(server.url("saga", "saga", password="saga-password") + "\n")
    sources = tmp_path / "sources"
    sources.write_text(server.sources())
    dsns = {
        "account": {"SETTLE_ACCOUNT_DSN": server.certified("account", "account")},
        "payment": {
            "SETTLE_PAYMENT_DSN": "service=payment user=payment",
            "SETTLE_PROVIDER_DSN": "postgresql://provider@/?service=provider",
        },
        "notification": {"SETTLE_NOTIFICATION_DSN": server.dsn("notification", "notification")},
        "saga": {"SETTLE_SAGA_DSN_FILE": str(in_a_file)},
    }
    with ExitStack() as running:
        for name in dsns:
            variables = {**server.variables(), **dsns[name], "SETTLE_DATA": str(tmp_path)}
            running.enter_context(server.running(name, **variables))
        relay = {**server.variables(), "SETTLE_RELAY_SOURCES_FILE": str(sources)}
        running.enter_context(server.running("relay", **relay))
        server.settle("operator", "accounts", "open")
        server.settle("operator", "load", "--count=40", "--declined=0.1", "--insufficient=0", "--duplicates=0")

        verdict = server.settle("operator", "audit", "--wait=100")  # for services that start all at once

        with psycopg.connect(f"{server.superuser}/postgres") as connection:
            plain = connection.execute(
                "SELECT usename, application_name FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
                " WHERE NOT ssl AND backend_type IN ('client backend', 'walsender') AND usename <> 'settle'"
            ).fetchall()
            senders = connection.execute(
                "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid) WHERE ssl"
            ).fetchone()
    assert "the audit holds: 40 withdrawals (4 compensated, 36 completed)" in " ".join(verdict.split())
    assert plain == []
    assert senders == (4,)


WRONG = {
    "an unknown CA": ({"sslrootcert": "stranger.crt"}, "certificate verify failed"),
    "another host": ({"host": "127.0.0.1"}, 'does not match host name "127.0.0.1"'),
    "plaintext": ({"sslmode": "disable"}, "no encryption"),
    "an expired certificate": ({"name": "expired"}, "certificate"),
    "no certificate": ({"name": None}, "certificate"),
}


def wrong_dsn(server, kind):
    changed = WRONG[kind][0]
    dsn = server.certified("account", "account", changed.get("name", "account"))
    if "name" in changed and changed["name"] is None:
        dsn = server.url("account", "account", sslcertmode="disable")
    if "host" in changed:
        dsn = dsn.replace("@localhost", "@127.0.0.1")
    if "sslrootcert" in changed:
        dsn = dsn.replace("ca.crt", changed["sslrootcert"])
    return dsn.replace("sslmode=verify-full", f"sslmode={changed.get('sslmode', 'verify-full')}")


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_connection_is_one_line_that_names_the_variable_and_the_service_waits(server, kind, tmp_path):
    port = choose()
    variables = {"SETTLE_ACCOUNT_DSN": wrong_dsn(server, kind), "SETTLE_HTTP_PORT": str(port)}
    ended = subprocess.run(
        [sys.executable, "-m", "cli", "accounts", "show", "acc-1"],
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert WRONG[kind][1] in line
    assert "look at SETTLE_ACCOUNT_DSN" in line

    with server.running("account", **variables, SETTLE_DATA=str(tmp_path)) as process:
        said = wait_until(partial(refusal, port, "SETTLE_ACCOUNT_DSN"), "it says so")
        assert process.poll() is None
    assert WRONG[kind][1] in said


def refusal(port, variable):
    page = answer(port, "/readyz")[1]
    return page if f"look at {variable}" in page else None


def test_a_wrong_password_is_one_line_without_it(server, tmp_path):
    dsn = server.url("saga", "saga", password="canary-7f3a")
    port = choose()
    log = tmp_path / "log"
    settings = {
        "SETTLE_SAGA_DSN": dsn,
        "SETTLE_RELAY_SOURCES": server.url("relay", "payment", password="canary-7f3a"),
    }
    for command in (["stuck"], ["migrate"]):
        ended = subprocess.run(
            [sys.executable, "-m", "cli", *command],
            env=clean_environment() | {f"SETTLE_{name.upper()}_DSN": dsn for name in (*NAMES, "provider")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        (line,) = ended.stderr.splitlines()
        assert 'password authentication failed for user "saga"' in line
        assert "look at SETTLE_" in line
        assert "canary-7f3a" not in ended.stderr
    for service, named in (("saga", "SETTLE_SAGA_DSN"), ("relay", "SETTLE_RELAY_SOURCES")):
        variables = {**settings, "SETTLE_HTTP_PORT": str(port), "SETTLE_KAFKA_BOOTSTRAP": server.bootstrap}
        with log.open("ab") as written:
            command = [sys.executable, "-m", "cli", "run", service]
            process = subprocess.Popen(command, env=clean_environment() | variables, stderr=written)
            try:
                said = wait_until(partial(refusal, port, named), f"{service} says so")
                assert "canary-7f3a" not in said + Path(f"/proc/{process.pid}/cmdline").read_text()
            finally:
                process.terminate()
                process.wait(30)
    assert "password authentication failed" in log.read_text()
    assert "database does not answer" not in log.read_text()
    assert "turns this service away" in log.read_text()
    assert "canary-7f3a" not in log.read_text()


def test_a_changed_password_in_a_passfile_is_used_without_a_restart(server, tmp_path):
    passfile = tmp_path / "pgpass"
    passfile.write_text("*:*:*:*:canary-7f3a\n")
    passfile.chmod(0o600)
    port = choose()
    variables = {"SETTLE_SAGA_DSN": server.url("saga", "saga", passfile=passfile), "SETTLE_HTTP_PORT": str(port)}
    with server.running("saga", **variables):
        wait_until(lambda: "authentication failed" in answer(port, "/readyz")[1], "it is turned away")
        passfile.write_text("*:*:*:*:saga-password\n")
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it is ready")
