"""A secret comes from a variable or from a file, and is shown nowhere, whatever goes wrong."""

import json
import logging
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from urllib.parse import quote

import pytest
import structlog
from pydantic import ValidationError
from typer.testing import CliRunner

from cli import settings as cli_settings
from cli.main import app
from cli.text import complain
from contracts.redaction import hide, hide_line
from contracts.start import begin
from contracts.variables import EnvironmentRefusedError, complaint, is_secret, value, variable_of
from outbox_relay.settings import RelaySettings
from processors.runtime.settings import ServiceSettings
from producers.settings import ProducerSettings
from stack import state
from stack.postgres import _password
from stack.process import Home

CANARY = "canary-7f3a\"9'é"
"""With what JSON, Python and URLs each write in another way."""
URL = f"postgresql://saga:{quote(CANARY, safe='')}@127.0.0.1:1/saga"
WORDS = "host=127.0.0.1 port=1 dbname=saga password='canary-7f3a\"9\\'é'"
SECRETS = ("SETTLE_SAGA_DSN", "SETTLE_PROVIDER_DSN", "SETTLE_RELAY_SOURCES", "SETTLE_PROVIDER_URL")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SETTLE_", "OTEL_", "PG"))]:
        monkeypatch.delenv(name)


def no_canary(text):
    assert "canary-7f3a" not in text, text


def file_with(tmp_path, text, name="secret"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_every_secret_of_the_settings_can_be_given_as_a_file(monkeypatch, tmp_path, end):
    monkeypatch.setenv("SETTLE_SAGA_DSN_FILE", file_with(tmp_path, URL + end))
    monkeypatch.setenv("SETTLE_RELAY_SOURCES_FILE", file_with(tmp_path, f"{URL}\n{WORDS}{end}", "sources"))
    monkeypatch.setenv(
        "SETTLE_PROVIDER_URL_FILE", file_with(tmp_path, f"http://bank:{CANARY[:11]}@x/{end}", "url")
    )

    assert ServiceSettings().dsn("saga") == RelaySettings().saga_dsn == URL
    assert RelaySettings().sources == [URL, WORDS]
    assert str(ServiceSettings().provider_url) == f"http://bank:{CANARY[:11]}@x/"
    assert cli_settings.dsn("saga") == URL


def test_every_setting_that_may_hold_a_secret_is_one():
    fields = {name for kind in (ServiceSettings, RelaySettings, ProducerSettings) for name in kind.model_fields}
    known = {name for name in fields if is_secret(f"SETTLE_{name}".upper())}
    assert known == {
        f"{name}_dsn" for name in ("account", "payment", "notification", "saga", "api", "provider")
    } | {
        "relay_sources",
        "relay_http_token",
        "provider_url",
    }
    for name in ("SETTLE_KAFKA_SASL_PASSWORD", "SETTLE_KAFKA_SSL_KEY_PASSWORD", "SETTLE_KAFKA_CONFIG"):
        assert is_secret(name)
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "SETTLE_OWNER_PASSWORD", "POSTGRES_PASSWORD", "PGPASSWORD"):
        assert is_secret(name)


def test_a_variable_without_a_settings_class_is_read_from_its_file_as_well(monkeypatch, tmp_path):
    monkeypatch.setenv("SETTLE_KAFKA_SASL_PASSWORD_FILE", file_with(tmp_path, f" {CANARY} \n"))
    monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP_FILE", "/nowhere")  # no secret

    assert value("SETTLE_KAFKA_SASL_PASSWORD") == f" {CANARY} "
    assert value("SETTLE_KAFKA_BOOTSTRAP") is None
    assert value("SETTLE_OWNER_PASSWORD") is None


def test_the_variable_of_a_database_is_found_while_its_file_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("SETTLE_SAGA_DSN_FILE", file_with(tmp_path, f"{URL}\n"))
    monkeypatch.setenv("SETTLE_RELAY_SOURCES", f"{WORDS}\nservice=a")
    assert variable_of(URL) == "SETTLE_SAGA_DSN_FILE"
    assert variable_of("service=a") == "SETTLE_RELAY_SOURCES"
    assert variable_of("service=b") is None
    (tmp_path / "secret").unlink()
    assert variable_of(URL) is None


def test_headers_of_the_span_exporter_can_be_given_as_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "")  # so that it is taken back
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS_FILE", file_with(tmp_path, f"authorization={CANARY}\n"))
    begin()
    begin()
    assert os.environ["OTEL_EXPORTER_OTLP_HEADERS"] == f"authorization={CANARY}"


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is wrong: the file is empty"),
        (b"\n", "is wrong: the file is empty"),
        (b"\xff\xfe", "is wrong: the file is not UTF-8"),
        (b"x" * 1_000_001, "is wrong: the file is larger than"),
    ],
)
@pytest.mark.parametrize("name", [*SECRETS, "SETTLE_KAFKA_SASL_PASSWORD"])
def test_a_file_that_holds_no_secret_is_refused_in_one_line_that_names_the_variable(
    monkeypatch, tmp_path, name, contents, says
):
    path = str(tmp_path / "none") if contents is None else file_with(tmp_path, contents)
    monkeypatch.setenv(f"{name}_FILE", path)

    for command in (["settings"], ["run", "saga"], ["run", "relay"], ["status", "x"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2, result.exception
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"settle: {name}_FILE={path} {says}")


def test_a_secret_that_is_given_twice_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SETTLE_SAGA_DSN", URL)
    monkeypatch.setenv("SETTLE_SAGA_DSN_FILE", file_with(tmp_path, URL))

    for ask in (ServiceSettings, RelaySettings, lambda: value("SETTLE_SAGA_DSN"), begin):
        with pytest.raises(EnvironmentRefusedError, match="SETTLE_SAGA_DSN and SETTLE_SAGA_DSN_FILE are both set"):
            ask()


@pytest.mark.parametrize(
    "text",
    [
        URL,
        WORDS,
        f"postgresql://saga@127.0.0.1/saga?password={quote(CANARY, safe='')}&x=y",
        f"connection to {URL} failed",
        json.dumps({"sasl.password": CANARY, "client.secret": CANARY}, ensure_ascii=False),
        f"sasl.password={CANARY.split(chr(34))[0]}",
        f"sslpassword = {CANARY.split(chr(34))[0]}",
        "http://user:canary-7f3a@proxy.example and amqp://user:canary-7f3a@[::1]/x",
    ],
)
def test_what_looks_like_a_password_is_hidden(text):
    no_canary(hide(text))


def test_what_is_no_password_stays():
    for text in (
        "connection to server at 127.0.0.1, port 5432 failed: FATAL: password authentication failed for user saga",
        "postgresql://saga@127.0.0.1:5432/saga?sslmode=verify-full http://127.0.0.1:9092/x",
        "12:30:00 a@b",
    ):
        assert hide(text) == text


@pytest.mark.parametrize("dsn", [URL, WORDS])
def test_a_secret_of_the_environment_is_hidden_wherever_and_however_it_is_written(monkeypatch, dsn):
    monkeypatch.setenv("SETTLE_SAGA_DSN", dsn)
    begin()
    for text in (CANARY, json.dumps(CANARY), repr(CANARY), quote(CANARY, safe=""), f"missing = after {CANARY} x"):
        no_canary(hide(text))


def test_settings_and_their_errors_show_no_secret(monkeypatch):
    monkeypatch.setenv("SETTLE_SAGA_DSN", URL)
    monkeypatch.setenv("SETTLE_RELAY_SOURCES", f"{URL} {WORDS}")
    monkeypatch.setenv("SETTLE_PROVIDER_URL", "http://bank:canary-7f3a@127.0.0.1/")
    for kind in (ServiceSettings, RelaySettings, ProducerSettings):
        no_canary(f"{kind()!r} {kind()}")


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "wrong",
    [
        "saga:canary-7f3a",
        "postgresql://saga:canary-7f3a@x@127.0.0.1/saga",
        "postgresql://saga:canary-7f3a/saga",
        "postgresql://saga:canary-7f3a@127.0.0.1:port/saga",
        "postgresql//saga:canary-7f3a@127.0.0.1/saga",
        "host=127.0.0.1 password=canary-7f3a",
        "host=127.0.0.1 dbname=saga password=canary-7f3a colour=red",
        "dbname=saga sslmode=canary-7f3a",
        "dbname=saga password='canary-7f3a",
    ],
)
def test_a_wrong_url_is_reported_without_its_password(monkeypatch, name, wrong):
    monkeypatch.setenv(name, wrong)
    kind = RelaySettings if name == "SETTLE_RELAY_SOURCES" else ServiceSettings

    with pytest.raises(ValidationError) as refused:
        kind()
    line = complaint(refused.value)
    assert line.startswith(name)
    no_canary(f"{line} {refused.value} {refused.value!r}")
    result = CliRunner().invoke(app, ["settings"])
    assert result.exit_code == 2
    no_canary(result.output + result.stderr)


def test_the_settings_command_shows_no_secret(monkeypatch, tmp_path):
    for name in SECRETS[:3]:
        monkeypatch.setenv(name, URL)
    monkeypatch.setenv("SETTLE_PROVIDER_URL", "http://bank:canary-7f3a@127.0.0.1/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:canary-7f3a@127.0.0.1:4318")
    for name in ("SETTLE_KAFKA_SASL_PASSWORD", "OTEL_EXPORTER_OTLP_HEADERS"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("SETTLE_KAFKA_CONFIG", json.dumps({"client.rack": CANARY}))
    monkeypatch.setenv("SETTLE_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("SETTLE_KAFKA_SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("SETTLE_KAFKA_SASL_USERNAME", "saga")
    monkeypatch.setenv("SETTLE_SAGA_DSN", "")
    monkeypatch.setenv("SETTLE_SAGA_DSN_FILE", file_with(tmp_path, URL))

    result = CliRunner().invoke(app, ["settings"])

    assert result.exit_code == 0, result.stderr
    no_canary(result.output)
    assert "SETTLE_KAFKA_CONFIG=***" in result.output
    assert f"SETTLE_SAGA_DSN_FILE={tmp_path}/secret" in result.output
    assert "SETTLE_PROVIDER_DSN=postgresql://saga:***@127.0.0.1:1/saga" in result.output


def test_a_log_line_and_its_traceback_show_no_secret(monkeypatch):
    monkeypatch.setenv("SETTLE_SAGA_DSN", URL)
    begin()
    written = StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(written),
        processors=[
            structlog.processors.format_exc_info,
            hide_line,
            structlog.processors.JSONRenderer(),
            hide_line,
        ],
    )
    try:
        raise ValueError(f"cannot parse {CANARY!r}")
    except ValueError:
        log.error("it fails", error=CANARY, dsn=URL, exc_info=True)
    assert "it fails" in written.getvalue()
    no_canary(written.getvalue())


FAILING = """
import logging, os, sys, threading
from contracts.start import begin
begin()
dsn = os.environ["SETTLE_SAGA_DSN"]
logging.getLogger("a library").error("cannot connect to %s", dsn)
def fail(): raise RuntimeError(f"a bug with {dsn}")
thread = threading.Thread(target=fail); thread.start(); thread.join()
import psycopg
try:
    psycopg.connect(dsn)
except psycopg.OperationalError as error:
    raise RuntimeError(dsn) from error
"""

PROGRAMS = {
    "a bug": ["-c", FAILING],
    "faust": ["-m", "faust", "-A", "processors.saga.processor", "worker"],
    "settle": ["-m", "cli", "status", "01a20aeb-4358-716a-b291-9134760df1f7"],
    "migrate": ["-m", "cli", "migrate"],
    "outbox": ["-m", "cli", "outbox", "status"],
    "outbox-relay": ["-m", "outbox_relay"],
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("dsn", [URL, "postgresql://saga:canary-7f3a@x@127.0.0.1/saga", "saga:canary-7f3a"])
def test_no_program_shows_the_password_of_a_database_that_is_wrong_or_does_not_answer(program, dsn):
    names = [f"SETTLE_{name}_DSN" for name in ("ACCOUNT", "PAYMENT", "NOTIFICATION", "SAGA", "PROVIDER")]
    variables = os.environ | dict.fromkeys(names, dsn)
    if dsn == URL and program in ("faust", "outbox-relay"):
        variables["SETTLE_HTTP_HOST"] = "nowhere.invalid"  # else it would wait
        variables["SETTLE_HTTP_PORT"] = "1"
    command = [sys.executable, *PROGRAMS[program]]
    ended = subprocess.run(
        command, env=variables, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    assert ended.stderr
    no_canary(ended.stdout + ended.stderr)
    if dsn != URL and program != "a bug":
        # `settle outbox status` says first that Kafka does not answer either.
        *before, line = ended.stderr.splitlines()
        assert len(before) == (program == "outbox")
        assert "SETTLE_" in line
        assert "is wrong" in line


def test_in_production_the_relay_takes_no_password_from_its_command_line():
    for dsn in ("postgresql://saga:canary-7f3a@x/saga", "host=x dbname=saga password=canary-7f3a"):
        ended = subprocess.run(
            [sys.executable, "-m", "outbox_relay", "--source", dsn],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "SETTLE_ENV": "production", "SETTLE_TRUSTED_NETWORK": "kafka,postgres"},
        )
        assert ended.returncode == 2
        assert ended.stderr.startswith("outbox-relay: --source is wrong: it has a password")
        no_canary(ended.stderr)


def test_the_file_of_a_stack_is_for_its_owner_alone(tmp_path):
    written = state.State(str(tmp_path), 1, "127.0.0.1:1", {"saga": URL})
    state.write(written)
    assert (tmp_path / state.FILE_NAME).stat().st_mode & 0o077 == 0


def test_the_password_files_of_a_stack_are_for_their_owner_alone(tmp_path):
    (tmp_path / "pgpass").write_text("that of before, for everybody")
    password = _password(Home(tmp_path, 0))
    assert (tmp_path / "pgpass").read_text() == f"*:*:*:settle:{password}\n"
    assert {file.stat().st_mode & 0o077 for file in tmp_path.iterdir()} == {0}


def test_an_error_of_a_command_shows_no_secret(monkeypatch, capsys):
    monkeypatch.setenv("SETTLE_SAGA_DSN", URL)
    begin()
    complain(f"{CANARY} and {URL}")
    assert capsys.readouterr().err == "settle: *** and postgresql://saga:***@127.0.0.1:1/saga\n"


def test_logs_that_nobody_configured_show_no_secret(monkeypatch):
    monkeypatch.setenv("SETTLE_SAGA_DSN", URL)
    begin()
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "cannot connect to %s", (URL,), None)
    no_canary(logging.lastResort.format(record))
