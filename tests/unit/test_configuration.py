"""docs/configuration.md tells every setting, with its true default, and none that is not there."""

import json
import os
import re
from pathlib import Path

import pytest

from api.settings import ApiSettings
from broker.security import KafkaSettings
from contracts.variables import PREFIX
from operations.traces import DEFAULT_URL
from outbox_relay.settings import RelaySettings
from processors.runtime.settings import DATA_FOLDER, ServiceSettings
from producers.settings import ProducerSettings
from tracing.setup import TracingSettings

ROOT = Path(__file__).parents[2]
CLASSES = (KafkaSettings, ServiceSettings, ApiSettings, ProducerSettings, RelaySettings, TracingSettings)

# Read by themselves, without a settings class.
OTHERS = {
    "SETTLE_ENV": "development",
    "SETTLE_TRUSTED_NETWORK": "",
    "SETTLE_TREASURER_DSN": "that of the account service's database",
    "SETTLE_POSTGRES_VERSION": "18",
    "SETTLE_CACHE": "a folder in your cache directory",
    "SETTLE_FAILPOINT": "",
    "SETTLE_API_URL": "",
    "SETTLE_API_KEY": "",
    "SETTLE_API_CA": "",
    "SETTLE_JAEGER_URL": DEFAULT_URL,
    "SETTLE_JAEGER_LINK": "the same",
}


def told():
    """Name and default of each variable in the table of docs/configuration.md."""
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `((?:SETTLE|OTEL)_[A-Z_]+)` \| (.*?) ?\|", text, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a variable is told twice"
    base = dict(rows)["SETTLE_ACCOUNT_DSN"].strip("`").removesuffix("/account")
    return {name: default.strip("`").replace("…", base) for name, default in rows}


def in_words(default):
    if default == DATA_FOLDER:
        return "a folder in your data directory"
    if isinstance(default, tuple):
        return json.dumps([int(value) if value == int(value) else value for value in default]) if default else ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default if default is not None else "")


def settings():
    """Name and default of each variable of the settings classes; where several read one, all its defaults."""
    found = {}
    for kind in CLASSES:
        for field, info in kind.model_fields.items():
            name = f"{kind.model_config.get('env_prefix', PREFIX)}{field}".upper()
            found.setdefault(name, set()).add(in_words(info.get_default(call_default_factory=True)))
    return found


@pytest.mark.parametrize(("name", "defaults"), settings().items())
def test_a_setting_is_told_with_its_default(name, defaults):
    # The relay takes only the databases that it is told of; docs/configuration.md says so.
    assert defaults - {""} <= {told().get(name, "nothing")}
    assert name in told()


def test_nothing_is_told_that_is_not_read():
    assert {name: default for name, default in told().items() if name not in settings()} == OTHERS


def test_no_variable_is_read_on_the_side():
    read = set()
    for folder in (path for path in ROOT.iterdir() if (path / "__init__.py").exists() and path.name != "tests"):
        for file in folder.rglob("*.py"):
            read |= set(re.findall(r"environ(?:\.get\(|\[)\"(SETTLE_[A-Z_]+)\"", file.read_text()))
    assert read <= set(told())


def test_every_default_is_one_that_the_settings_accept(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SETTLE_", "OTEL_"))]:
        monkeypatch.delenv(name)
    for name, default in told().items():
        if default and " " not in default.replace(", ", ","):
            monkeypatch.setenv(name, default)
    for kind in (ServiceSettings, ProducerSettings, TracingSettings):
        assert kind() == kind.model_construct()
