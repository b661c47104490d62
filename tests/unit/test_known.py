"""A variable that nothing reads is named at the start of every program, with the one that may be meant."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.known import KNOWN, is_known, unknown

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
