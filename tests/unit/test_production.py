"""What production refuses: one line that names the variable, from whichever program starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from cli.main import app
from contracts.production import DEVELOPMENT_DEFAULT, is_local, refuse_unsafe
from contracts.variables import EnvironmentRefusedError
from processors.payment.provider import gateway_for
from processors.payment.provider.service import run_provider
from processors.runtime.settings import ServiceSettings

FAR = "postgresql://saga:a-password-of-ours@db.example/saga"
PROGRAMS = {
    "settle": ["-m", "cli", "settings"],
    "outbox-relay": ["-m", "outbox_relay"],
    "faust": ["-m", "faust", "-A", "processors.saga.processor", "worker"],
}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("SETTLE_", "OTEL_", "PG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SETTLE_ENV", "production")
    monkeypatch.setenv("HOME", str(tmp_path))


def refusal():
    with pytest.raises(EnvironmentRefusedError) as refused:
        refuse_unsafe()
    line = str(refused.value)
    assert "\n" not in line
    assert "a-password-of-ours" not in line
    return line


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"SETTLE_SAGA_DSN": FAR}, "SETTLE_SAGA_DSN: the connection to db.example may be without TLS"),
        ({"SETTLE_SAGA_DSN": f"{FAR}?sslmode=prefer"}, "as its sslmode is prefer: sslmode=verify-full"),
        (
            {"SETTLE_SAGA_DSN": "host=127.0.0.1,10.0.0.7 dbname=saga"},
            "SETTLE_SAGA_DSN: the connection to 10.0.0.7",
        ),
        ({"SETTLE_SAGA_DSN": "host=localhost hostaddr=10.0.0.7 dbname=saga"}, "the connection to 10.0.0.7"),
        ({"SETTLE_SAGA_DSN": "dbname=saga", "PGHOST": "db.example"}, "the connection to db.example"),
        ({"SETTLE_SAGA_DSN": FAR, "PGSSLMODE": "allow"}, "as its sslmode is allow"),
        ({"SETTLE_RELAY_SOURCES": f"postgresql:///x {FAR}"}, "SETTLE_RELAY_SOURCES: the connection to db.example"),
        (
            {"SETTLE_KAFKA_BOOTSTRAP": "kafka:9092"},
            "Kafka at kafka:9092 without TLS: SETTLE_KAFKA_SECURITY_PROTOCOL",
        ),
        ({"SETTLE_KAFKA_BOOTSTRAP": "127.0.0.1:1,k2:9092"}, "Kafka at k2:9092"),
        (
            {"SETTLE_KAFKA_BOOTSTRAP": "kafka:9092", "SETTLE_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"},
            "Kafka at kafka:9092 without TLS",
        ),
        (
            {"SETTLE_KAFKA_BOOTSTRAP": "k:1", "SETTLE_KAFKA_CONFIG": '{"security.protocol": "plaintext"}'},
            "Kafka at k:1 without TLS",
        ),
        (
            {"SETTLE_HTTP_HOST": "0.0.0.0", "SETTLE_HTTP_PORT": "8080"},
            "SETTLE_HTTP_HOST=0.0.0.0: whoever reaches it",
        ),
        ({"SETTLE_HTTP_HOST": "::", "SETTLE_HTTP_PORT": "8080"}, "SETTLE_HTTP_HOST=::"),
        ({"SETTLE_API_LISTEN": "0.0.0.0:8000"}, "SETTLE_API_LISTEN=0.0.0.0:8000: without TLS"),
        ({"SETTLE_API_LISTEN": "[::]:8000"}, "SETTLE_API_LISTEN="),
        ({"SETTLE_TRUSTED_NETWORK": "http,wifi"}, "SETTLE_TRUSTED_NETWORK=http,wifi is wrong"),
        ({"POSTGRES_PASSWORD": DEVELOPMENT_DEFAULT}, "the development defaults of POSTGRES_PASSWORD"),
        ({"PGPASSWORD": DEVELOPMENT_DEFAULT}, "the development defaults of PGPASSWORD"),
        ({"SETTLE_KAFKA_SASL_PASSWORD": DEVELOPMENT_DEFAULT}, "defaults of SETTLE_KAFKA_SASL_PASSWORD"),
        (
            {"SETTLE_SAGA_DSN": "postgresql://saga:only%2dfor%2ddevelopment@127.0.0.1/saga"},
            "the development defaults of SETTLE_SAGA_DSN",
        ),
    ],
)
def test_production_refuses(monkeypatch, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    line = refusal()
    assert says in line
    monkeypatch.setenv("SETTLE_ENV", "development")
    if "SETTLE_TRUSTED_NETWORK" not in variables:
        refuse_unsafe()


def test_production_looks_into_files_services_and_passfiles(monkeypatch, tmp_path):
    secret = tmp_path / "dsn"
    secret.write_text(f"{FAR}\n")
    monkeypatch.setenv("SETTLE_SAGA_DSN_FILE", str(secret))
    assert "SETTLE_SAGA_DSN_FILE: the connection to db.example" in refusal()
    secret.write_text(f"postgresql://saga:{DEVELOPMENT_DEFAULT}@127.0.0.1/saga")
    assert "the development defaults of SETTLE_SAGA_DSN_FILE; everybody" in refusal()

    services = tmp_path / "services"
    services.write_text("[saga]\nhost=db.example\ndbname=saga\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    secret.write_text("service=saga")
    assert "the connection to db.example" in refusal()
    services.write_text("[saga]\nhost=db.example\ndbname=saga\nsslmode=verify-full\n")
    refuse_unsafe()

    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:*:{DEVELOPMENT_DEFAULT}\n")
    passfile.chmod(0o600)
    secret.write_text(f"service=saga passfile={passfile}")
    assert "the development defaults of SETTLE_SAGA_DSN (its passfile or service)" in refusal()


def test_production_looks_into_the_file_of_kafkas_properties(monkeypatch, tmp_path):
    properties = tmp_path / "kafka.properties"
    monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", "kafka:9092")
    monkeypatch.setenv("SETTLE_KAFKA_CONFIG", str(properties))
    properties.write_text("# of ours\nsecurity.protocol=SASL_PLAINTEXT\n")
    assert "Kafka at kafka:9092 without TLS" in refusal()
    properties.write_text("security.protocol=SASL_SSL\n")
    refuse_unsafe()


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [
        ("enable.ssl.certificate.verification", (False, "False", "0"), (True, "true")),
        ("ssl.endpoint.identification.algorithm", ("none",), ("https",)),
    ],
)
def test_production_checks_who_a_far_broker_is(monkeypatch, name, off, on):
    monkeypatch.setenv("SETTLE_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    for value in off:
        monkeypatch.setenv("SETTLE_KAFKA_CONFIG", json.dumps({name: value}))
        monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", "127.0.0.1:9093,kafka:9093")
        assert f"Kafka at kafka:9093 that anybody could be: {name} in SETTLE_KAFKA_CONFIG" in refusal()
        monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", "127.0.0.1:9093")
        refuse_unsafe()
    monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", "kafka:9093")
    for value in on:
        monkeypatch.setenv("SETTLE_KAFKA_CONFIG", json.dumps({name: value}))
        refuse_unsafe()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SETTLE_SAGA_DSN": f"{FAR}?sslmode=verify-full"},
        {"SETTLE_SAGA_DSN": f"{FAR}?sslmode=require"},
        {"SETTLE_SAGA_DSN": FAR, "PGSSLMODE": "verify-ca"},
        {"SETTLE_SAGA_DSN": "postgresql://saga@[::1]:5432/saga"},
        {"SETTLE_SAGA_DSN": "host=/var/run/postgresql dbname=saga"},
        {"SETTLE_SAGA_DSN": "dbname=saga"},
        {"SETTLE_SAGA_DSN": FAR, "SETTLE_TRUSTED_NETWORK": "postgres"},
        {"SETTLE_KAFKA_BOOTSTRAP": "kafka:9093", "SETTLE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
        {"SETTLE_KAFKA_BOOTSTRAP": "kafka:9093", "SETTLE_KAFKA_CONFIG": "security.protocol = ssl\n"},
        {"SETTLE_KAFKA_BOOTSTRAP": "localhost:9092,[::1]:9093,127.0.0.2:1"},
        {"SETTLE_KAFKA_BOOTSTRAP": "kafka:9092", "SETTLE_TRUSTED_NETWORK": "http, kafka"},
        {"SETTLE_HTTP_HOST": "0.0.0.0"},
        {"SETTLE_API_LISTEN": "127.0.0.1:8000"},
        {"SETTLE_API_LISTEN": "0.0.0.0:8000", "SETTLE_API_TLS_CERTIFICATE": "/run/secrets/settle/api.crt"},
        {"SETTLE_HTTP_HOST": "127.0.0.1", "SETTLE_HTTP_PORT": "8080"},
        {"SETTLE_HTTP_HOST": "0.0.0.0", "SETTLE_HTTP_PORT": "8080", "SETTLE_TRUSTED_NETWORK": "http"},
    ],
)
def test_production_takes(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refuse_unsafe()


def test_what_is_local():
    for host in ("localhost", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1", "/tmp", "@abstract"):
        assert is_local(host), host
    for host in ("", "kafka", "10.0.0.1", "0.0.0.0", "::", "localhost.example", "::ffff:10.0.0.1"):
        assert not is_local(host), host


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"SETTLE_SAGA_DSN": FAR}, "SETTLE_SAGA_DSN"),
        ({"SETTLE_KAFKA_BOOTSTRAP": "kafka:9092"}, "SETTLE_KAFKA_SECURITY_PROTOCOL"),
        ({"SETTLE_HTTP_HOST": "0.0.0.0", "SETTLE_HTTP_PORT": "8080"}, "SETTLE_HTTP_HOST"),
    ],
)
def test_every_program_looks_before_it_starts(program, variables, named):
    ended = subprocess.run(
        [sys.executable, *PROGRAMS[program]],
        env=os.environ | variables,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode != 0
    (line,) = ended.stderr.splitlines()
    assert "SETTLE_ENV=production refuses" in line
    assert named in line
    assert "a-password-of-ours" not in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--source", "postgresql://relay@db.example/saga"], "--source: the connection to db.example"),
        (["--source", "host=/tmp dbname=saga", "--bootstrap", "kafka:9092"], "Kafka at kafka:9092"),
    ],
)
def test_what_the_relay_is_given_on_its_command_line_is_looked_at_too(arguments, named):
    ended = subprocess.run(
        [sys.executable, "-m", "outbox_relay", *arguments], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert named in ended.stderr


def test_the_simulated_bank_whose_faults_anybody_can_set_does_not_run_in_production():
    with pytest.raises(EnvironmentRefusedError, match="SETTLE_ENV=production refuses"):
        run_provider(ServiceSettings())
    result = CliRunner().invoke(app, ["run", "provider"])
    assert result.exit_code == 2
    assert "/faults" in result.stderr


@pytest.mark.parametrize(("environment", "warned"), [("production", True), ("development", False)])
def test_simulated_payments_are_warned_of_in_production(monkeypatch, environment, warned):
    monkeypatch.setenv("SETTLE_ENV", environment)
    with capture_logs() as logged:
        gateway_for(ServiceSettings())
    assert any("payments are simulated" in line["event"] for line in logged) == warned
    with capture_logs() as logged:
        gateway_for(ServiceSettings(provider_url="https://bank.example"))
    assert logged == []
