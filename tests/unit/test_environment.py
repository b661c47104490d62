"""Production refuses the passwords that everybody knows, and nobody sees the others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from contracts.production import DEVELOPMENT_DEFAULT

ROOT = Path(__file__).parents[2]
EVERYBODY_KNOWS = f"postgresql://saga:{DEVELOPMENT_DEFAULT}@postgres/saga"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SETTLE_", "OTEL_"))]:
        monkeypatch.delenv(name)


def settle(*arguments):
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("command", [["settings"], ["run", "saga"], ["run", "relay"], ["migrate"], ["audit"]])
def test_production_refuses_development_defaults(monkeypatch, command):
    monkeypatch.setenv("SETTLE_ENV", "production")
    monkeypatch.setenv("SETTLE_SAGA_DSN", EVERYBODY_KNOWS)
    monkeypatch.setenv("POSTGRES_PASSWORD", DEVELOPMENT_DEFAULT)

    result = settle(*command)

    assert result.exit_code == 2, result.exception
    (line,) = result.stderr.splitlines()
    assert "SETTLE_ENV=production refuses the development defaults of POSTGRES_PASSWORD, SETTLE_SAGA_DSN" in line
    assert line.endswith("; everybody knows the password there, so give one of your own")


def test_no_word_of_the_refusal_is_taken_for_a_password(monkeypatch):
    monkeypatch.setenv("SETTLE_ENV", "production")
    monkeypatch.setenv("SETTLE_TREASURER_PASSWORD", DEVELOPMENT_DEFAULT)
    (line,) = settle("settings").stderr.splitlines()
    assert "SETTLE_TREASURER_PASSWORD; everybody knows" in line


@pytest.mark.parametrize(
    "command", [["-m", "outbox_relay"], ["-m", "faust", "-A", "processors.saga.processor", "worker"]]
)
def test_so_does_whoever_starts_without_settle(command):
    variables = {"SETTLE_ENV": "production", "SETTLE_SAGA_DSN": EVERYBODY_KNOWS}
    result = subprocess.run(
        [sys.executable, *command], env=os.environ | variables, capture_output=True, text=True, timeout=60
    )
    assert result.returncode != 0
    assert "SETTLE_ENV=production refuses the development defaults of SETTLE_SAGA_DSN" in result.stderr


def test_an_environment_that_is_misspelt_is_not_taken_for_development(monkeypatch):
    monkeypatch.setenv("SETTLE_ENV", "prod")

    result = settle("settings")

    assert result.exit_code == 2
    assert "SETTLE_ENV=prod is wrong" in result.stderr


@pytest.mark.parametrize("environment", ["development", "", None])
def test_development_takes_them(monkeypatch, environment):
    monkeypatch.setenv("SETTLE_SAGA_DSN", EVERYBODY_KNOWS)
    if environment is not None:
        monkeypatch.setenv("SETTLE_ENV", environment)

    assert settle("settings").exit_code == 0


def test_a_production_with_passwords_of_its_own_is_fine_and_they_are_not_shown(monkeypatch):
    monkeypatch.setenv("SETTLE_ENV", "production")
    monkeypatch.setenv("SETTLE_SAGA_DSN", "postgresql://saga:hunter2@postgres/saga?sslmode=require")
    monkeypatch.setenv("SETTLE_RELAY_SOURCES", "postgresql://a:hunter2@localhost/a,postgresql://b:hunter2@[::1]/b")
    monkeypatch.setenv("SETTLE_ACCOUNT_DSN_OF_OLD", "postgresql://a:some@hunter2@x/a")
    monkeypatch.setenv("SETTLE_OWNER_PASSWORD", "hunter2")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2")

    result = settle("settings")

    assert result.exit_code == 0
    assert "SETTLE_SAGA_DSN=postgresql://saga:***@postgres/saga?sslmode=require" in result.stdout
    assert "hunter2" not in result.stdout


def test_a_wrong_setting_is_found_before_anything_starts(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "5")

    result = settle("settings")

    assert result.exit_code == 2
    assert "OTEL_TRACES_SAMPLER_ARG=5 is wrong" in result.stderr


def test_every_secret_of_the_compose_file_says_that_it_is_for_development_only():
    compose = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text()

    used = re.findall(r"\$\{([A-Z_]*PASSWORD):-([^}]*)\}", compose)
    assert {default for _, default in used} == {DEVELOPMENT_DEFAULT}
    assert len(used) == len(re.findall(r"PASSWORD[^:\n]*:-|PASSWORD\}", compose))
    shown = dict(re.findall(r"^([A-Z_]*PASSWORD)=(.*)$", example, re.MULTILINE))
    assert shown == dict(used)


def test_whatever_compose_reads_is_explained_with_its_default():
    compose = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text()

    read = dict(re.findall(r"(?<!\$)\$\{([A-Z_]+):-([^}]*)\}", compose))
    assert read == dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE))


def test_what_the_docs_change_in_env_is_there_to_be_changed():
    example = (ROOT / ".env.example").read_text()
    changed = re.findall(r"s/\^([A-Z_]+)=", (ROOT / "docs" / "operations.md").read_text())

    assert changed
    assert [name for name in changed if not re.search(rf"^{name}=", example, re.MULTILINE)] == []


def test_the_first_look_sees_every_secret():
    compose = (ROOT / "docker-compose.yml").read_text()
    preflight = compose.partition("\n  preflight:\n")[2].partition("\n\n")[0]

    assert set(re.findall(r"\$\{([A-Z_]*PASSWORD)", preflight)) == set(
        re.findall(r"\$\{([A-Z_]*PASSWORD)", compose)
    )
