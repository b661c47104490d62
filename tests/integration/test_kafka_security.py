"""Against a Kafka that asks who comes: every way to connect, each failure in one line, and what mends it.

Nothing is restarted for it: neither for a password or a right that Kafka gets, nor for a file that changes.
"""

import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest
import structlog
from confluent_kafka import KafkaException
from typer.testing import CliRunner
from uuid_utils.compat import uuid7

from broker import access, provision, rotation, security
from broker.clients import admin, idempotent_producer, plain_producer
from broker.offsets import Offsets
from broker.provision import ensure_topics
from broker.scan import scan
from cli.main import app
from contracts.events import encode
from contracts.rights import kafka_users, relay_of
from contracts.services import READ_BY, all_topic_names
from contracts.topics import ACCOUNT_EVENTS, DEAD_LETTERS_HANDLED, WITHDRAWAL_REQUESTS, consumer_group
from operations.lag import consumer_lag, deleted_unread
from outbox_relay.published import _is_compacted
from processors.runtime.consumer import BatchConsumer
from producers.client import WithdrawalClient
from producers.errors import NotDeliveredError
from producers.requests import new_request
from stack.ports import choose
from tests.conftest import WAIT_S, wait_until
from tests.integration.secured import PASSWORD, PLAIN, PLAINTEXT, SCRAM, SSL, SecuredKafka, unanswered

TOPIC = WITHDRAWAL_REQUESTS.name
USER = "SETTLE_KAFKA_SASL_USERNAME"
LACKS = "the Kafka user lacks a right (ACL) to {}; look at " + USER


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    with SecuredKafka(tmp_path_factory.mktemp("secured")) as kafka:
        ensure_topics(kafka.admin)
        yield kafka


@pytest.fixture
def user(kafka):
    """A new user, with a password and no rights."""
    name = f"user-{uuid7()}"
    kafka.set_password(name)
    return name


@contextmanager
def being(address, variables):
    """What this process does at an address, it does as somebody."""
    security.assume(address, variables)
    try:
        yield address
    finally:
        security.assume(address, None)


@contextmanager
def member(kafka, address, variables, group):
    """A service's consumer, as somebody."""
    with being(address, variables):
        batches = BatchConsumer(address, group, [TOPIC], 100, 0.0)
        try:
            yield batches
        finally:
            # It takes long where it is not connected.
            threading.Thread(target=batches.close, daemon=True).start()


def waits(batches):
    """What it waits for, as ``/readyz`` says; None: nothing."""
    batches.take()
    return batches.waits_for(1.0)


def waits_no_more(batches):
    """Wait until it waits for nothing; Kafka has a second for each answer."""
    wait_until(lambda: waits(batches) is None, "it waits for nothing")


def write(kafka, value=b"{}"):
    producer = plain_producer(kafka.admin)
    producer.produce(TOPIC, value)
    assert producer.flush(WAIT_S) == 0


def read(batches, value):
    wait_until(lambda: [record for record in batches.take() if record.value == value], f"{value} is read")


def allow_all(kafka, user, group="*"):
    kafka.allow(user, "TOPIC", TOPIC, "READ", "WRITE")
    kafka.allow(user, "GROUP", group, "READ")


@pytest.mark.parametrize(
    ("listener", "others"),
    [
        (SSL, {}),
        (SCRAM, {}),
        (SCRAM, {"SASL_MECHANISM": "SCRAM-SHA-256"}),
        (PLAIN, {}),
    ],
)
def test_each_way_to_connect_reads_and_writes(kafka, listener, others):
    kafka.set_password("saga")
    allow_all(kafka, "saga")
    address, value = kafka.address[listener], str(uuid7()).encode()
    with member(kafka, address, kafka.identity(listener, **others), str(uuid7())) as batches:
        producer = idempotent_producer(address)
        producer.produce(TOPIC, value)
        assert producer.flush(WAIT_S) == 0
        read(batches, value)
        waits_no_more(batches)


def identity(kafka, case):
    """Where a mistaken client connects, with which variables."""
    if case == "plain text against TLS":
        return SCRAM, {}
    if case == "TLS against plain text":
        return PLAINTEXT, kafka.identity(SCRAM) | {"SETTLE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}
    if case == "no user":
        return PLAIN, {}
    if case == "a user where there are none":
        return PLAINTEXT, kafka.identity(PLAIN)
    if case == "wrong password":
        return SCRAM, kafka.identity(SCRAM, password="wrong")
    if case == "wrong mechanism":
        return SCRAM, kafka.identity(SCRAM, SASL_MECHANISM="PLAIN")
    if case == "unknown CA":
        return SCRAM, kafka.identity(SCRAM, SSL_CA=kafka.pem.unknown_ca)
    variables = kafka.identity(SSL, "mistaken")
    if case == "expired certificate":
        kafka.pem.issue("mistaken", expired=True)
        return SSL, variables
    assert case == "no certificate"
    return SSL, {name: value for name, value in variables.items() if "CERT" not in name and "KEY" not in name}


PASSWORD_IN = "SETTLE_KAFKA_SASL_PASSWORD"
PROTOCOL, CERTIFICATE = "SETTLE_KAFKA_SECURITY_PROTOCOL", "SETTLE_KAFKA_SSL_CERTIFICATE"
CASES = {
    "plain text against TLS": f"Kafka speaks TLS on this port; look at {PROTOCOL}, which is PLAINTEXT",
    "TLS against plain text": f"Kafka speaks no TLS on this port; look at {PROTOCOL}, which is SASL_SSL",
    "no user": f"somebody listens there and does not answer; if Kafka runs, look at {PROTOCOL}, which is PLAIN",
    "a user where there are none": f"Kafka takes no user on this port; look at {PROTOCOL}, which is SASL_PLAIN",
    "wrong password": f"Kafka refuses the user or its password; look at {USER} and {PASSWORD_IN} (SASL ",
    "wrong mechanism": "Kafka does not take SETTLE_KAFKA_SASL_MECHANISM=PLAIN: ",
    "unknown CA": "Kafka's certificate is not trusted: unable to get local issuer certificate; look at SETTLE",
    "expired certificate": f"Kafka refuses the certificate of this client: is it expired? Look at {CERTIFICATE}: ",
    "no certificate": f"Kafka refuses the certificate of this client: is it expired? Look at {CERTIFICATE}: ",
}


@pytest.mark.parametrize(("case", "line"), CASES.items())
def test_each_mistake_is_one_line_with_the_variable_for_commands_services_and_producers(
    kafka, monkeypatch, case, line
):
    monkeypatch.setattr(provision, "TIMEOUT_S", 2.0)
    kafka.set_password("saga")
    listener, variables = identity(kafka, case)
    address = kafka.address[listener]
    with being(address, variables):
        unanswered(address, line)

        for name, value in (variables | {"SETTLE_KAFKA_BOOTSTRAP": address}).items():
            monkeypatch.setenv(name, value)

        def command_says_it():
            result = CliRunner().invoke(app, ["topics"])
            (said,) = result.stderr.splitlines()
            assert said.startswith(f"settle: Kafka at {address} does not answer: ")
            assert PASSWORD not in said
            assert "***" not in said
            return said.partition(" does not answer: ")[2].startswith(line)

        wait_until(command_says_it, f"the command says: {line}")

    with structlog.testing.capture_logs() as logs, member(kafka, address, variables, "mistaken") as batches:
        wait_until(lambda: line in (waits(batches) or ""), "it says what it lacks")
        if case != "no user":  # which nothing can tell from a Kafka that is away
            # A new client may have heard it before its own did.
            wait_until(lambda: (waits(batches), told(logs))[1], "it is logged")
        for _ in range(2):
            waits(batches)
    assert len(told(logs)) <= 1
    if case != "no user":
        assert told(logs)[0].startswith(line)
        with being(address, variables), WithdrawalClient(address, delivery_timeout_s=2) as client:

            def producer_says_it():
                with pytest.raises(NotDeliveredError) as refused:
                    client.request("acc-1", "1.00")
                return line in str(refused.value)

            wait_until(producer_says_it, "a producer says it")


def told(logs):
    """The errors in a log that name a variable."""
    return [entry["error"] for entry in logs if "SETTLE_KAFKA_" in str(entry.get("error"))]


def test_a_broker_with_an_expired_certificate_is_named(kafka):
    certificate, key = kafka.pem.issue("expired", "127.0.0.1", expired=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with being(address, kafka.identity(SCRAM)):
            said = (
                "Kafka's certificate is not trusted: certificate has expired; look at the broker's certificate, "
                "and SETTLE_KAFKA_SSL_CA"
            )
            assert unanswered(address, said) == said
        server.shutdown(socket.SHUT_RDWR)


def test_a_wrong_password_is_waited_for_and_once_kafka_has_it_all_is_read(kafka, user):
    allow_all(kafka, user)
    value = str(uuid7()).encode()
    with member(kafka, kafka.address[SCRAM], kafka.identity(SCRAM, user, "new"), user) as batches:
        wait_until(lambda: USER in (waits(batches) or ""), "it says what it lacks")
        write(kafka, value)
        kafka.set_password(user, "new")
        read(batches, value)
        waits_no_more(batches)


def test_a_missing_right_is_waited_for_and_once_it_is_there_all_is_read(kafka, user):
    value = str(uuid7()).encode()
    write(kafka, value)
    me = kafka.identity(SCRAM, user)
    with structlog.testing.capture_logs() as logs, member(kafka, kafka.address[SCRAM], me, user) as batches:
        unseen = rf"topic {TOPIC} cannot be read: .*{USER}"
        wait_until(lambda: re.search(unseen, waits(batches) or ""), "it may not see the topic")
        kafka.allow(user, "TOPIC", TOPIC, "DESCRIBE")
        wait_until(lambda: LACKS.format("a consumer group") in (waits(batches) or ""), "it may not join")
        kafka.allow(user, "GROUP", user, "READ")
        wait_until(lambda: LACKS.format("a topic") in (waits(batches) or ""), "it may not read")
        kafka.allow(user, "TOPIC", TOPIC, "READ")
        read(batches, value)
        waits_no_more(batches)
    lines = told(logs)
    assert len(lines) == len(set(lines)) <= 4


def test_commands_name_a_missing_right(kafka, user, monkeypatch):
    address = kafka.address[SCRAM]
    for name, value in (kafka.identity(SCRAM, user) | {"SETTLE_KAFKA_BOOTSTRAP": address}).items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["topics"])
    assert result.exit_code == 1, result.exception
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"settle: Kafka at {address} refuses: ")
    assert f"the Kafka user lacks a right (ACL) to a topic; look at {USER}" in line


def test_a_relay_is_told_whether_the_topics_that_it_writes_are_compacted(kafka, user):
    with being(kafka.address[SCRAM], kafka.identity(SCRAM, user)) as address:
        assert _is_compacted(address, ACCOUNT_EVENTS.name) is None
        relay = replace(next(one for one in kafka_users() if one.name == relay_of("account")), name=user)
        access.ensure_rights(admin(kafka.admin), access.rights([relay]))
        wait_until(lambda: _is_compacted(address, ACCOUNT_EVENTS.name) is False, "it is told")


def test_acls_without_the_right_to_make_them_is_a_short_line(kafka, user, monkeypatch):
    address = kafka.address[SCRAM]
    for name, value in (kafka.identity(SCRAM, user) | {"SETTLE_KAFKA_BOOTSTRAP": address}).items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["topics", "--acls", "--apply"])
    assert result.exit_code == 1, result.exception
    lacks = LACKS.format("the cluster")
    assert result.stderr == f"settle: Kafka at {address} refuses: Broker: Cluster authorization failed: {lacks}\n"


def test_passwords_that_kafka_is_not_there_to_take_are_a_line_that_says_so(kafka, monkeypatch, tmp_path):
    monkeypatch.setattr(access, "TIMEOUT_S", 1.0)
    (tmp_path / "saga.password").write_text(PASSWORD)
    nowhere = f"127.0.0.1:{choose(taken=set())}"
    monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", nowhere)
    result = CliRunner().invoke(app, ["topics", "--acls", "--apply", "--passwords", str(tmp_path)])
    assert result.exit_code == 1, result.exception
    assert result.stderr.startswith(f"settle: Kafka at {nowhere} does not answer: ")


@pytest.mark.parametrize("unseen", [WITHDRAWAL_REQUESTS.dead_letters, DEAD_LETTERS_HANDLED])
@pytest.mark.parametrize("sees", [(), ("DESCRIBE",)], ids=["hidden", "not to be read"])
def test_a_topic_that_may_not_be_read_ends_a_command_and_is_never_empty(kafka, user, monkeypatch, unseen, sees):
    producer = plain_producer(kafka.admin)
    producer.produce(unseen, b"{}", "withdrawal.requests/0@7")
    assert producer.flush(WAIT_S) == 0
    for name in (*all_topic_names(), DEAD_LETTERS_HANDLED):
        for operation in sees if name == unseen else ("READ",):
            kafka.allow(user, "TOPIC", name, operation)
    address = kafka.address[SCRAM]
    for name, value in (kafka.identity(SCRAM, user) | {"SETTLE_KAFKA_BOOTSTRAP": address}).items():
        monkeypatch.setenv(name, value)
    for command in (["list"], ["show", "withdrawal.requests/0@7"]):
        result = CliRunner().invoke(app, ["dead-letters", *command])
        assert (result.exit_code, result.stdout) == (1, ""), result.exception
        (line,) = result.stderr.splitlines()
        assert line == (
            f"settle: Kafka at {address} refuses: {unseen}: Topic authorization failed: {LACKS.format('a topic')}"
        )


def test_who_may_only_read_is_told_in_one_line_and_by_nobody_else(kafka, user, monkeypatch, capfd):
    producer = plain_producer(kafka.admin)
    producer.produce(WITHDRAWAL_REQUESTS.dead_letters, b"{}")
    assert producer.flush(WAIT_S) == 0
    for name in (*all_topic_names(), DEAD_LETTERS_HANDLED):
        kafka.allow(user, "TOPIC", name, "READ")
    address = kafka.address[SCRAM]

    def run(*command):
        with monkeypatch.context() as patch:
            for name, value in (kafka.identity(SCRAM, user) | {"SETTLE_KAFKA_BOOTSTRAP": address}).items():
                patch.setenv(name, value)
            return CliRunner().invoke(app, command)

    for command in (
        ["dead-letters", "discard", "--all", "--yes"],
        ["request", "--account", "acc-1", "--amount", "1.00"],
    ):
        result = run(*command)
        assert result.exit_code == 1, (command, result.output, result.exception)
        (line,) = result.stderr.splitlines()
        assert LACKS.format("write to any topic") in line
    kafka.allow(user, "TOPIC", TOPIC, "WRITE")
    result = run("dead-letters", "discard", "--all", "--yes")
    lacks = f"{DEAD_LETTERS_HANDLED}: Topic authorization failed: {LACKS.format('a topic')}"
    assert (result.exit_code, result.stderr) == (1, f"settle: Kafka at {address} refuses: {lacks}\n")
    assert capfd.readouterr().err == ""


def test_a_topic_that_may_not_be_seen_is_neither_without_lag_nor_missing(kafka, user):
    for name in all_topic_names():
        if name != ACCOUNT_EVENTS.name:
            kafka.allow(user, "TOPIC", name, "READ")
    kafka.allow(user, "GROUP", "*", "READ")
    with being(kafka.address[SCRAM], kafka.identity(SCRAM, user)) as address:
        for ask in (consumer_lag, deleted_unread, provision.existing_topics):
            with pytest.raises(KafkaException, match=f"{ACCOUNT_EVENTS.name}: Topic authorization failed"):
                ask(address)


def test_a_producer_names_a_missing_right_and_writes_once_it_is_there(kafka, user):
    address = kafka.address[SCRAM]
    with being(address, kafka.identity(SCRAM, user)), WithdrawalClient(address, delivery_timeout_s=5) as client:

        def refused():
            with pytest.raises(NotDeliveredError) as refused:
                client.request("acc-1", "1.00")
            return LACKS.format("a topic") in str(refused.value)

        wait_until(refused, "it says which right it lacks")
        kafka.allow(user, "TOPIC", TOPIC, "WRITE")

        def written():
            try:
                return client.request("acc-1", "1.00")
            except NotDeliveredError:
                return None

        assert wait_until(written, "it writes").topic == TOPIC


def test_a_password_that_changes_in_a_file_is_taken_up_while_it_runs(kafka, user, tmp_path, monkeypatch):
    monkeypatch.setattr(rotation, "LOOK_EVERY_S", 0.1)
    allow_all(kafka, user)
    file = tmp_path / "client.properties"
    file.write_text(f"sasl.password={PASSWORD}\n")
    variables = kafka.identity(SCRAM, user, SASL_PASSWORD="", CONFIG=file)
    value, later = str(uuid7()).encode(), str(uuid7()).encode()
    with member(kafka, kafka.address[SCRAM], variables, user) as batches:
        write(kafka, value)
        read(batches, value)
        batches.store_offsets()
        kafka.set_password(user, "another")
        old = batches._consumer
        file.write_text("sasl.password=another\n")
        wait_until(lambda: batches.take() is not None and batches._consumer is not old, "it connects anew")
        write(kafka, later)
        read(batches, later)
        waits_no_more(batches)


def test_a_certificate_that_changes_on_disk_is_taken_up_once_it_fits_its_key(kafka, monkeypatch):
    monkeypatch.setattr(rotation, "LOOK_EVERY_S", 0.1)
    allow_all(kafka, "renewed")
    variables = kafka.identity(SSL, "before")
    certificate, key = kafka.pem.folder / "before.crt", kafka.pem.folder / "before.key"
    new_certificate, new_key = kafka.pem.issue("renewed")
    value = str(uuid7()).encode()
    write(kafka, value)
    with (
        structlog.testing.capture_logs() as logs,
        member(kafka, kafka.address[SSL], variables, "rotated") as batches,
    ):
        wait_until(lambda: "lacks a right" in (waits(batches) or ""), "who it was may do nothing")
        certificate.write_bytes(new_certificate.read_bytes())
        wait_until(lambda: batches.take() or said(logs, "it is not the key of"), "the half of it is not taken")
        key.write_bytes(new_key.read_bytes())
        read(batches, value)
        waits_no_more(batches)


def said(logs, text):
    return [entry for entry in logs if text in str(entry)]


def test_whole_topics_are_read_with_the_identity_and_no_right_to_a_group(kafka, user):
    kafka.allow(user, "TOPIC", TOPIC, "READ")
    write(kafka, user.encode())
    with being(kafka.address[SCRAM], kafka.identity(SCRAM, user)) as address:
        assert sum(Offsets(address).end([TOPIC]).values()) > 0
        assert user.encode() in [message.value() for message in scan(address, [TOPIC])]
    with (
        being(kafka.address[SCRAM], kafka.identity(SCRAM, user, "wrong")) as address,
        pytest.raises(KafkaException),
    ):
        Offsets(address, timeout_s=1).end([TOPIC])


def test_a_service_waits_and_says_so_and_goes_on_once_it_may(settle, kafka, user, tmp_path):
    port = choose(taken=set())
    dsn = settle.new_database("saga", "saga_at_a_secured_kafka")
    address = kafka.address[SCRAM]
    variables = kafka.identity(SCRAM, user, "new") | {
        "SETTLE_KAFKA_BOOTSTRAP": address,
        "SETTLE_SAGA_DSN": dsn,
        "SETTLE_HTTP_PORT": str(port),
    }
    request = new_request("acc-1", "1.00")
    log = tmp_path / "log"
    with log.open("w") as lines:
        command = [sys.executable, "-m", "cli", "run", "saga"]
        service = subprocess.Popen(command, env=os.environ | variables, stderr=lines, stdout=lines)
        try:
            wait_until(
                lambda: "waiting: Kafka does not answer: Kafka refuses the user or its password" in ready(port),
                "it says that its password is wrong",
            )
            lines = wait_until(
                lambda: [line for line in log.read_text().splitlines() if USER in line], "its log says so as well"
            )
            assert len(lines) == 1
            kafka.set_password(user, "new")
            wait_until(lambda: LACKS.format("a topic") in ready(port), "it says which right it lacks")
            for topic in READ_BY["saga"]:
                kafka.allow(user, "TOPIC", topic.name, "READ")
                kafka.allow(user, "TOPIC", topic.dead_letters, "WRITE")  # for what other tests wrote
            kafka.allow(user, "GROUP", consumer_group("saga"), "READ")
            wait_until(lambda: ready(port) == "ready\n", "it is ready")
            producer = plain_producer(kafka.admin)
            fields = [("id", str(uuid7())), ("eventType", "WithdrawalRequested")]
            producer.produce(TOPIC, encode(request), "acc-1", headers=fields)
            assert producer.flush(WAIT_S) == 0
            with psycopg.connect(dsn, autocommit=True) as database:
                stored = "SELECT 1 FROM event_store WHERE payment_id = %s"
                wait_until(lambda: database.execute(stored, [request.payment_id]).fetchone(), "it is handled")
        finally:
            service.terminate()
            assert service.wait(WAIT_S) == 0
    assert "Traceback" not in log.read_text()


def ready(port):
    """What ``/readyz`` says; nothing while nobody answers."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as page:
            return page.read().decode()
    except HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""
