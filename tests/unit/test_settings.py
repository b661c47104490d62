"""Is every setting that makes no sense refused at the start, in one line with its name?"""

import logging
import os
import sys

import faust
import pytest
import structlog
from typer.testing import CliRunner

from cli.main import app
from processors.runtime.settings import ServiceSettings
from stack import state


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


def test_a_variable_that_is_empty_is_not_set(monkeypatch):
    for name in ("SETTLE_DATA", "SETTLE_KAFKA_BOOTSTRAP", "SETTLE_RETRY_BACKOFF_S", "SETTLE_MAILER"):
        monkeypatch.setenv(name, "")

    assert ServiceSettings() == ServiceSettings.model_construct()


def test_service_and_stack_look_for_data_in_the_same_folder(monkeypatch, tmp_path):
    assert ServiceSettings().data == state.default_data_folder()
    monkeypatch.setenv("SETTLE_DATA", str(tmp_path))
    assert ServiceSettings().data == state.default_data_folder() == tmp_path
