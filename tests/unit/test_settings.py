"""Every setting that makes no sense is refused at the start, in one line with its name."""

import logging
import os
import signal
import sys

import faust
import pytest
import structlog
import typer
from typer.testing import CliRunner

from cli.main import app
from outbox_relay.__main__ import relay
from outbox_relay.settings import RelaySettings
from outbox_relay.source import Source
from processors.runtime.settings import ServiceSettings
from producers.settings import ProducerSettings
from stack import state
from tracing.setup import TracingSettings


@pytest.fixture
def no_trace_of_a_service(monkeypatch):
    """A service that is run here is loaded anew, and the logs that it sets up are taken down again."""
    monkeypatch.delitem(sys.modules, "processors.notification.processor", raising=False)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    level = root.level
    yield
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SETTLE_", "OTEL_"))]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_trace_of_a_service")
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("SETTLE_RETRY_BACKOFF_S", "[]", "at least 1 item"),
        ("SETTLE_RETRY_BACKOFF_S", "[1, -1]", "greater than or equal to 0"),
        ("SETTLE_RETRY_BACKOFF_S", "[NaN]", "finite number"),
        ("SETTLE_RETRY_BACKOFF_S", "[1e300]", "less than or equal to 86400"),
        ("SETTLE_RETRY_BACKOFF_S", "[Infinity]", "finite number"),
        ("SETTLE_RETRY_BACKOFF_S", "soon", "not a JSON list such as [1, 2, 4]"),
        ("SETTLE_RETRY_BACKOFF_S", "1", "valid tuple"),
        ("SETTLE_SMTP_TIMEOUT_S", "nan", "finite number"),
        ("SETTLE_SMTP_TIMEOUT_S", "inf", "finite number"),
        ("SETTLE_MAIL_LIFETIME_H", "0", "greater than 0"),
        ("SETTLE_MAIL_LIFETIME_H", "nan", "less than or equal to 720"),
        ("SETTLE_MAIL_LIFETIME_H", "721", "less than or equal to 720"),
        ("SETTLE_PROVIDER_LATENCY_MS", "nan", "finite number"),
        ("SETTLE_PROVIDER_DECLINE_SHARE", "nan", "less than or equal to 1"),
        ("SETTLE_MAIL_TO", "{customer}@bank.example", "the only placeholder is {account_id}"),
        ("SETTLE_MAIL_TO", "{}@bank.example", "the only placeholder is {account_id}"),
        ("SETTLE_MAIL_TO", "{account_id.nobody}@bank.example", "the only placeholder is {account_id}"),
        ("SETTLE_MAIL_TO", "{account_id@bank.example", "not an address such as {account_id}@bank.example"),
        ("SETTLE_MAIL_TO", "{account_id}", "not an address such as {account_id}@bank.example"),
        ("SETTLE_MAIL_TO", "{account_id}@", "not an address such as {account_id}@bank.example"),
        ("SETTLE_MAIL_FROM", "nobody", "not an address such as settle@bank.example"),
        ("SETTLE_MAIL_FROM", "a@b, c@d", "not an address such as settle@bank.example"),
        ("SETTLE_BATCH_MAX", "0", "greater than or equal to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "5", "less than or equal to 1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "not a URL such as http://127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector", "not a URL such as http://127.0.0.1:4318"),
    ],
)
def test_a_service_with_a_wrong_setting_does_not_start_and_says_which(monkeypatch, name, value, reason):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(faust.Worker, "execute_from_commandline", lambda worker: pytest.fail("it started"))

    result = CliRunner().invoke(app, ["run", "notification"])

    assert result.exit_code == 2, result.exception
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"settle: {name}=")
    assert reason in line


@pytest.mark.usefixtures("no_trace_of_a_service")
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SETTLE_RELAY_READER", "eyes", "SETTLE_RELAY_READER=eyes is wrong: Input should be 'wal' or 'polling'"),
        ("SETTLE_HTTP_PORT", "x", "SETTLE_HTTP_PORT=x is wrong: Input should be a valid integer"),
        ("SETTLE_RELAY_SOURCES", "host=a password=b nonsense", "SETTLE_RELAY_SOURCES is wrong: not a list of"),
        ("SETTLE_SAGA_DSN", "saga:password", "SETTLE_SAGA_DSN is wrong: not a database such as postgresql://"),
        ("SETTLE_HTTP_HOST", "nowhere.invalid", "nothing can listen on SETTLE_HTTP_HOST=nowhere.invalid, SETTLE_"),
        ("OTEL_SDK_DISABLED", "x", "OTEL_SDK_DISABLED=x is wrong: Input should be a valid boolean"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "x", "OTEL_EXPORTER_OTLP_ENDPOINT=x is wrong: not a URL such as"),
    ],
)
def test_a_relay_with_a_wrong_setting_does_not_start_and_says_which(monkeypatch, name, value, said):
    monkeypatch.setenv("SETTLE_ACCOUNT_DSN", "host=127.0.0.1 dbname=account")
    monkeypatch.setenv("SETTLE_HTTP_PORT", "1")
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(Source, "start", lambda source: pytest.fail("it started"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    alone = typer.Typer()
    alone.command()(relay)

    for program, command, arguments in (("outbox-relay", alone, []), ("settle", app, ["run", "relay"])):
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code in (1, 2), result.exception
        (line,) = [line for line in result.stderr.splitlines() if line.startswith(program)]
        assert line.startswith(f"{program}: {said}")
        assert "password" not in line


def test_a_source_that_is_none_is_refused():
    alone = typer.Typer()
    alone.command()(relay)

    result = CliRunner().invoke(alone, ["--source", "host=a dbname=x", "--source", "b"])

    assert (result.exit_code, result.stderr.partition(": not")[0]) == (2, "outbox-relay: --source is wrong")


@pytest.mark.parametrize(
    ("backoff_s", "of_mails_s"),
    [
        ((1.0, 2.0, 4.0, 8.0, 16.0), (1, 2, 4, 8, 16, 32, 64, 128, 256, 300)),
        ((0.0,), (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300)),
        ((3_600.0,), (3_600,)),
    ],
)
def test_pauses_between_attempts_to_send_a_mail_go_on_growing_to_five_minutes(backoff_s, of_mails_s):
    settings = ServiceSettings(retry_backoff_s=backoff_s)
    assert tuple(settings.mail_retry_policy().backoff_s) == of_mails_s
    assert settings.retry_policy().backoff_s == backoff_s


@pytest.mark.parametrize("kind", [ServiceSettings, ProducerSettings, RelaySettings, TracingSettings])
def test_a_variable_that_is_empty_is_not_set(monkeypatch, kind):
    for field in kind.model_fields:
        monkeypatch.setenv(f"{kind.model_config['env_prefix']}{field}".upper(), "")

    assert kind() == kind.model_construct()


def test_service_and_stack_look_for_data_in_the_same_folder(monkeypatch, tmp_path):
    assert ServiceSettings().data == state.default_data_folder()
    monkeypatch.setenv("SETTLE_DATA", str(tmp_path))
    assert ServiceSettings().data == state.default_data_folder() == tmp_path
