"""The API's certificate and key: each mistake is refused in one line that names the variable and the file."""

import os
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from typer.testing import CliRunner

from api.service import expired_at
from cli.main import app

CERTIFICATE, KEY = "SETTLE_API_TLS_CERTIFICATE", "SETTLE_API_TLS_KEY"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SETTLE_", "OTEL_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    for name in ("api", "other"):
        issued = authority.issue_cert(name)
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
    old = authority.issue_cert("api", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    old.cert_chain_pems[0].write_to_path(folder / "old.crt")
    (folder / "text").write_text("no PEM\n")
    (folder / "rubbish").write_text("-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n")
    key = load_pem_private_key((folder / "api.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2"))
    (folder / "locked.key").write_bytes(locked)
    return folder


@pytest.mark.parametrize("command", [["settings"], ["run", "api"]])
@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("api.crt", None, f"{CERTIFICATE} and {KEY} belong together"),
        (None, "api.key", f"{CERTIFICATE} and {KEY} belong together"),
        ("none", "api.key", f"{CERTIFICATE}={{}}/none is wrong: No such file or directory"),
        ("api.crt", "none", f"{KEY}={{}}/none is wrong: No such file or directory"),
        ("api.crt", ".", f"{KEY}={{}} is wrong: Is a directory"),
        ("text", "api.key", f"{CERTIFICATE}={{}}/text is wrong: not a PEM file"),
        (
            "api.crt",
            "locked.key",
            f"{KEY}={{}}/locked.key is wrong: its private key is encrypted",
        ),
        (
            "api.crt",
            "other.key",
            f"{KEY}={{0}}/other.key is not the key of {CERTIFICATE}={{0}}/api.crt: KEY_",
        ),
        ("rubbish", "api.key", f"{KEY}={{0}}/api.key is not the key of {CERTIFICATE}={{0}}/rubbish"),
    ],
)
def test_files_with_which_nobody_could_speak_tls_are_refused_by_name(
    monkeypatch, pem, command, certificate, key, said
):
    monkeypatch.setattr("api.service.run_api", lambda *_: pytest.fail("it started"))
    for variable, name in ((CERTIFICATE, certificate), (KEY, key)):
        if name is not None:
            monkeypatch.setenv(variable, str(pem / name))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2, result.exception
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"settle: {said.format(pem)}")


def test_a_certificate_with_its_key_is_taken(monkeypatch, pem):
    monkeypatch.setenv(CERTIFICATE, str(pem / "api.crt"))
    monkeypatch.setenv(KEY, str(pem / "api.key"))
    result = CliRunner().invoke(app, ["settings"])
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_certificate_that_has_expired_is_told_from_one_that_has_not(pem):
    assert expired_at(pem / "api.crt") is None
    ended = expired_at(pem / "old.crt")
    assert ended is not None
    assert abs(ended - datetime(2020, 1, 1, tzinfo=UTC)) < timedelta(days=1)
