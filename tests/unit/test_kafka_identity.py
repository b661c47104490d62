"""The Kafka identity: what variables make of every client, and each mistake refused in one line with its name."""

import json
import os
from functools import partial

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from typer.testing import CliRunner

from broker import clients, security
from broker.lifeline import why_unanswered
from broker.security import CONFIG, NAMES, KafkaSettingsError
from cli.main import app

SASL_SSL = {"SECURITY_PROTOCOL": "SASL_SSL"}
SCRAM = SASL_SSL | {"SASL_MECHANISM": "SCRAM-SHA-512", "SASL_USERNAME": "saga", "SASL_PASSWORD": "hunter2"}
OIDC = SCRAM | {"SASL_MECHANISM": "OAUTHBEARER"}
ENDPOINT = "sasl.oauthbearer.token.endpoint.url"
MECHANISM = "SETTLE_KAFKA_SASL_MECHANISM"
NOWHERE = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SETTLE_", "OTEL_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def given(monkeypatch):
    """Set variables of the identity."""

    def give(variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"SETTLE_KAFKA_{name}", str(value))

    return give


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """The paths of certificates and keys: two clients of one authority, and what is none."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca")
    for name in ("saga", "other"):
        issued = authority.issue_cert(common_name=name)
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / name)
    (folder / "text").write_text("no PEM\n")
    (folder / "rubbish").write_text("-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n")
    key = load_pem_private_key((folder / "saga.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2"))
    (folder / "locked.key").write_bytes(locked)
    return folder


def refusal():
    with pytest.raises(KafkaSettingsError) as refused:
        security.check()
    (line,) = str(refused.value).splitlines()
    assert "hunter2" not in line
    return line


def test_without_variables_nothing_is_set():
    security.check()
    assert security.properties() == {}


def test_empty_variables_are_not_set(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")
    assert security.properties() == {}


def test_each_variable_is_a_property(given, pem):
    files = {"SSL_CA": pem / "ca", "SSL_CERTIFICATE": pem / "saga", "SSL_KEY": pem / "locked.key"}
    given(SCRAM | files | {"SSL_KEY_PASSWORD": "hunter2"})
    security.check()
    assert security.properties() == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "saga",
        "sasl.password": "hunter2",
        "ssl.ca.location": str(pem / "ca"),
        "ssl.certificate.location": str(pem / "saga"),
        "ssl.key.location": str(pem / "locked.key"),
        "ssl.key.password": "hunter2",
    }


def test_names_of_protocols_may_be_written_small(given):
    given(SCRAM | {"SECURITY_PROTOCOL": "sasl_ssl", "SASL_MECHANISM": "scram-sha-512"})
    assert security.properties()["security.protocol"] == "SASL_SSL"
    assert security.properties()["sasl.mechanism"] == "SCRAM-SHA-512"


def test_with_oauthbearer_user_and_password_are_those_of_the_client(given):
    given(OIDC | {"CONFIG": json.dumps({ENDPOINT: "http://127.0.0.1:9/token"})})
    security.check()
    assert security.properties() == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": "saga",
        "sasl.oauthbearer.client.secret": "hunter2",
        ENDPOINT: "http://127.0.0.1:9/token",
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"client.rack": "a", "socket.keepalive.enable": true}',
        "# comment\n! another\n\nclient.rack = a\nsocket.keepalive.enable=true\n",
    ],
)
def test_further_properties_are_given_as_json_or_in_a_file_of_either_kind(given, tmp_path, text):
    wanted = {"client.rack": "a", "socket.keepalive.enable": "true"}
    file = tmp_path / "client.properties"
    file.write_text(text)
    given({"CONFIG": file})
    security.check()
    assert security.properties() == wanted
    if text.startswith("{"):
        given({"CONFIG": text})
        assert security.properties() == wanted


def test_a_variable_comes_before_the_same_property_in_the_file(given):
    given(SCRAM | {"CONFIG": '{"sasl.username": "other", "sasl.password": "other"}'})
    assert security.properties()["sasl.username"] == "saga"


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"SECURITY_PROTOCOL": "TLS"}, "SETTLE_KAFKA_SECURITY_PROTOCOL=TLS is wrong: Input should be "),
        (SASL_SSL, "SETTLE_KAFKA_SECURITY_PROTOCOL=SASL_SSL needs SETTLE_KAFKA_SASL_MECHANISM"),
        (SCRAM | {"SASL_MECHANISM": "MD5"}, "SETTLE_KAFKA_SASL_MECHANISM=MD5 is wrong: Input should be "),
        (SCRAM | {"SASL_USERNAME": ""}, f"{MECHANISM}=SCRAM-SHA-512 needs SETTLE_KAFKA_SASL_USERNAME"),
        (SCRAM | {"SASL_PASSWORD": ""}, f"{MECHANISM}=SCRAM-SHA-512 needs SETTLE_KAFKA_SASL_PASSWORD"),
        (OIDC, f"SETTLE_KAFKA_SASL_MECHANISM=OAUTHBEARER needs {ENDPOINT} in SETTLE_KAFKA_CONFIG"),
        (SCRAM | {"SECURITY_PROTOCOL": ""}, f"{MECHANISM} is set, but SETTLE_KAFKA_SECURITY_PROTOCOL="),
        ({"SSL_CA": "/ca"}, "SETTLE_KAFKA_SSL_CA is set, but SETTLE_KAFKA_SECURITY_PROTOCOL=PLAINTEXT makes no"),
        ({"CONFIG": '{"no.such": 1}'}, 'SETTLE_KAFKA_CONFIG is wrong: No such configuration property'),
        ({"CONFIG": '{"socket.timeout.ms": "x"}'}, "SETTLE_KAFKA_CONFIG is wrong: Invalid value for"),
        ({"CONFIG": '{"client.id": []}'}, "SETTLE_KAFKA_CONFIG is wrong: the value of client.id is neither text"),
        ({"CONFIG": '{"acks": 1}'}, "SETTLE_KAFKA_CONFIG may not set acks: what Settle promises rests on it"),
        ({"CONFIG": '{"bootstrap.servers": "x"}'}, "SETTLE_KAFKA_CONFIG may not set bootstrap.servers: it is"),
        ({"CONFIG": '{"x'}, "SETTLE_KAFKA_CONFIG is wrong: not a JSON object: "),
        ({"CONFIG": "/no/such"}, "SETTLE_KAFKA_CONFIG=/no/such is wrong: neither a JSON object nor"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_its_name(given, variables, line):
    given(variables)
    assert refusal().startswith(line)


def test_a_line_that_is_no_property_is_named_by_its_number(given, tmp_path):
    (tmp_path / "file").write_text("client.rack=a\nhunter2\n")
    given({"CONFIG": tmp_path / "file"})
    assert refusal() == "SETTLE_KAFKA_CONFIG is wrong: line 2 is not name=value"


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"SSL_CA": "none"}, "SETTLE_KAFKA_SSL_CA={}/none is wrong: No such file or directory"),
        ({"SSL_CA": "text"}, "SETTLE_KAFKA_SSL_CA={}/text is wrong: not a PEM file"),
        ({"SSL_CA": "rubbish"}, "SETTLE_KAFKA_SSL_CA={}/rubbish is wrong: no certificate: "),
        ({"SSL_CERTIFICATE": "saga"}, "SETTLE_KAFKA_SSL_CERTIFICATE needs SETTLE_KAFKA_SSL_KEY as well"),
        ({"SSL_KEY": "saga.key"}, "SETTLE_KAFKA_SSL_KEY needs SETTLE_KAFKA_SSL_CERTIFICATE as well"),
        (
            {"SSL_CERTIFICATE": "saga", "SSL_KEY": "other.key"},
            "SETTLE_KAFKA_SSL_KEY={0}/other.key is wrong: it is not the key of SETTLE_KAFKA_SSL_CERTIFICATE=",
        ),
        (
            {"SSL_CERTIFICATE": "saga", "SSL_KEY": "locked.key"},
            "SETTLE_KAFKA_SSL_KEY_PASSWORD is needed for SETTLE_KAFKA_SSL_KEY={}/locked.key",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_name(given, pem, variables, line):
    given({"SECURITY_PROTOCOL": "SSL"} | {name: pem / file for name, file in variables.items()})
    assert refusal().startswith(line.format(pem))


def test_a_wrong_password_of_the_key_is_named_and_not_shown(given, pem):
    given({"SECURITY_PROTOCOL": "SSL", "SSL_CERTIFICATE": pem / "saga", "SSL_KEY": pem / "locked.key"})
    given({"SSL_KEY_PASSWORD": "nothunter2"})
    assert refusal().startswith("SETTLE_KAFKA_SSL_KEY_PASSWORD is wrong: it does not open SETTLE_KAFKA_SSL_KEY=")


def test_every_client_has_it(given, monkeypatch):
    made = []
    for kind in ("Producer", "Consumer", "AdminClient"):
        monkeypatch.setattr(clients, kind, lambda found, **_: made.append(found))
    given(SCRAM)
    clients.idempotent_producer(NOWHERE)
    clients.plain_producer(NOWHERE)
    clients.group_consumer(NOWHERE, "group")
    clients.reader(NOWHERE, "reader")
    clients.admin(NOWHERE)
    assert [found["sasl.username"] for found in made] == ["saga"] * 5


def test_a_client_may_be_somebody_else_and_so_may_all_of_one_address(given):
    given(SCRAM)
    other = {f"SETTLE_KAFKA_{name}": value for name, value in {**SCRAM, "SASL_USERNAME": "other"}.items()}
    found = clients._with(NOWHERE, {}, None, security.properties(variables=other))
    assert found["sasl.username"] == "other"
    security.assume(NOWHERE, other)
    try:
        assert clients._with(NOWHERE, {}, None, None)["sasl.username"] == "other"
        assert clients._with("127.0.0.1:10", {}, None, None)["sasl.username"] == "saga"
    finally:
        security.assume(NOWHERE, None)
    assert clients._with(NOWHERE, {}, None, None)["sasl.username"] == "saga"


@pytest.mark.parametrize("command", [["settings"], ["run", "saga"], ["run", "relay"], ["topics"], ["audit"]])
def test_every_command_refuses_it_before_it_starts(monkeypatch, given, command):
    given({"SECURITY_PROTOCOL": "SSL", "SSL_CA": "/no/such"})
    monkeypatch.setenv("SETTLE_SAGA_DSN", "postgresql://127.0.0.1:9/saga")

    result = CliRunner().invoke(app, command)

    assert (result.exit_code, result.stdout) == (2, ""), result.exception
    (line,) = result.stderr.splitlines()
    assert line == "settle: SETTLE_KAFKA_SSL_CA=/no/such is wrong: No such file or directory"


def test_settings_shows_no_secret_of_it(given):
    given(SCRAM | {"CONFIG": '{"ssl.key.password": "hunter2"}', "SSL_KEY_PASSWORD": "hunter2"})
    result = CliRunner().invoke(app, ["settings"])
    assert "SETTLE_KAFKA_SASL_USERNAME=saga" in result.stdout
    assert f"{CONFIG}=***" in result.stdout
    assert "hunter2" not in result.output


def test_a_client_that_librdkafka_does_not_make_is_a_fault_of_the_identity(pem):
    half_written = {"security.protocol": "SSL", "ssl.ca.location": str(pem / "rubbish")}
    for make in (
        clients.idempotent_producer,
        clients.plain_producer,
        partial(clients.group_consumer, group="group"),
        partial(clients.reader, name="reader"),
        clients.admin,
    ):
        with pytest.raises(
            KafkaSettingsError, match=r"^no client of Kafka can be made: ssl\.ca\.location failed: "
        ):
            make(NOWHERE, identity=half_written)


def test_who_asks_why_kafka_does_not_answer_is_told_of_a_file_that_is_half_written(given, pem):
    given({"SECURITY_PROTOCOL": "SSL", "SSL_CA": pem / "rubbish"})
    assert why_unanswered(NOWHERE).startswith("no client of Kafka can be made: ssl.ca.location failed: ")
