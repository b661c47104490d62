"""A variable that nothing reads is named at the start of every program, with the one that may be meant."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from contracts import start
from contracts.known import KNOWN, is_known, unknown
from contracts.variables import value

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SETTLE_", "OTEL_"))]:
        monkeypatch.delenv(name)


def test_all_that_is_told_of_is_known_and_nothing_of_the_settings_else():
    told = set(re.findall(r"^\| `(SETTLE_[A-Z_]+)`", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE))
    files = [ROOT / "docker-compose.yml", ROOT / ".env.example", *(ROOT / "deploy").rglob("*.*")]
    used = {
        name for file in files for name in re.findall(r"\bSETTLE_[A-Z_]*[A-Z]\b", file.read_text(errors="replace"))
    }
    in_tests = {"SETTLE_TEST_SECURE"}
    of_databases = {name for name in KNOWN if name.endswith(("_PASSWORD", "_HOST"))}

    assert {name for name in told | used if not is_known(name)} == set()
    assert KNOWN - told - used - in_tests <= of_databases


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SETTLE_KAFKA_SASL_USER", "SETTLE_KAFKA_SASL_USERNAME"),
        ("SETTLE_KAFKA_PASSWORD", "SETTLE_KAFKA_SASL_PASSWORD"),
        ("SETTLE_KAFKA_SSL_CA_FILE", "SETTLE_KAFKA_SSL_CA"),
        ("SETTLE_KAFKA_BOOTSTRAP_FILE", "SETTLE_KAFKA_BOOTSTRAP"),
        ("SETTLE_HTTP_PRT", "SETTLE_HTTP_PORT"),
    ],
)
def test_one_that_is_misspelt_is_named_with_the_nearest(name, meant):
    assert list(unknown({name: "/x"})) == [f"{name} is set, and nothing reads it: did you mean {meant}?"]


def test_one_that_is_like_no_other_is_named_alone():
    assert list(unknown({"SETTLE_XYZZY": "1"})) == ["SETTLE_XYZZY is set, and nothing reads it"]


@pytest.mark.parametrize(
    "variables",
    [
        # `settle env`
        {
            "SETTLE_ACCOUNT_PID": "1",
            "SETTLE_POSTGRES_SAGA_PID": "2",
            "SETTLE_UP_PID": "3",
            "SETTLE_RELAY_HTTP": "x",
        },
        {"SETTLE_SAGA_DSN_FILE": "/x", "SETTLE_KAFKA_CONFIG_FILE": "/x", "SETTLE_OWNER_PASSWORD": "x"},
        {"SETTLE_TYPO": ""},
        # what Kubernetes sets for a service named settle-account
        {
            "SETTLE_ACCOUNT_SERVICE_HOST": "10.0.0.1",
            "SETTLE_ACCOUNT_SERVICE_PORT_HTTP": "80",
            "SETTLE_ACCOUNT_PORT": "tcp://10.0.0.1:80",
            "SETTLE_ACCOUNT_PORT_80_TCP_ADDR": "10.0.0.1",
        },
        {"HOME": "/", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_what_others_set_is_not_named(variables):
    assert list(unknown(variables)) == []


PROGRAMS = {
    "settle": ["-m", "cli", "settings"],
    "outbox-relay": ["-m", "outbox_relay"],
    "faust": ["-m", "faust", "-A", "processors.saga.processor", "worker", "--help"],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_warns_once_and_shows_no_value(program):
    ended = subprocess.run(
        [sys.executable, *PROGRAMS[program]],
        env=os.environ | {"SETTLE_KAFKA_SASL_PASWORD": "hunter22"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    warnings = [line for line in ended.stderr.splitlines() if "warning" in line]
    assert warnings == [
        "settle: warning: SETTLE_KAFKA_SASL_PASWORD is set, and nothing reads it: "
        "did you mean SETTLE_KAFKA_SASL_PASSWORD?"
    ]
    assert "hunter22" not in ended.stdout + ended.stderr
    if program == "settle":
        assert ended.stdout == "SETTLE_KAFKA_SASL_PASWORD=***  (nothing reads it)\n"
        assert ended.returncode == 0


def settings(monkeypatch, **variables):
    monkeypatch.setattr(start, "_warned", set())
    for name, given in variables.items():
        monkeypatch.setenv(name, str(given))
    return CliRunner().invoke(app, ["settings"])


def test_white_space_that_counts_in_a_file_of_a_password_is_warned_of(monkeypatch, tmp_path):
    file = tmp_path / "password"
    file.write_text("hunter22 \n")
    file.chmod(0o600)
    said = settings(monkeypatch, SETTLE_OWNER_PASSWORD_FILE=file).stderr
    assert said.startswith(f"settle: warning: SETTLE_OWNER_PASSWORD_FILE={file} begins or ends with white space")
    assert "hunter22" not in said
    file.write_text("hunter22\n")
    assert settings(monkeypatch).stderr == ""


def test_the_mark_at_the_beginning_of_a_text_is_no_part_of_a_password(monkeypatch, tmp_path):
    file = tmp_path / "password"
    file.write_bytes(b"\xef\xbb\xbfhunter22\r\n")
    monkeypatch.setenv("SETTLE_OWNER_PASSWORD_FILE", str(file))
    assert value("SETTLE_OWNER_PASSWORD") == "hunter22"


def test_a_file_with_a_secret_that_everybody_may_read_is_warned_of_where_people_look(monkeypatch, tmp_path):
    password, config = tmp_path / "password", tmp_path / "kafka.properties"
    password.write_text("hunter22")
    config.write_text("client.rack=a\n")
    for file in (password, config):
        file.chmod(0o604)
    given = {"SETTLE_OWNER_PASSWORD_FILE": password, "SETTLE_KAFKA_CONFIG": config}
    assert settings(monkeypatch, **given).stderr.splitlines() == [
        f"settle: warning: {name}={file} can be read by every user of this machine: chmod o= {file}"
        for name, file in sorted(given.items())
    ]
    for file in (password, config):
        file.chmod(0o640)
    assert settings(monkeypatch).stderr == ""


def test_a_file_of_kafkas_properties_that_is_missing_is_named(monkeypatch, tmp_path):
    ended = settings(monkeypatch, SETTLE_KAFKA_CONFIG=tmp_path / "missing")
    assert ended.exit_code == 2
    assert f"SETTLE_KAFKA_CONFIG={tmp_path}/missing is wrong" in ended.stderr
