"""A secured stack: everything works with least rights, and nobody can do what another may."""

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psutil
import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException
from psycopg.conninfo import make_conninfo

from api.credentials import create_key, offer_sign_in
from broker import security
from broker.clients import admin, group_consumer, plain_producer
from contracts.events import encode
from contracts.rights import OPERATOR, PRODUCER, RELAY, VIEWER, relay_of
from contracts.services import NAMES, PROCESSORS, SERVICES
from contracts.topics import consumer_group
from operations.audit.run import run as run_audit
from operations.dead_letters.letters import read_letters
from processors.account.accounts import open_accounts
from processors.saga.status import find_status
from producers.client import WithdrawalClient
from producers.load import run_load
from producers.plan import LoadPlan, plan_load
from stack import secured
from stack import state as stack_json
from stack.ports import choose
from stack.provision import migrate
from stack.supervisor import Stack
from tests.conftest import WAIT_S, wait_until
from tests.integration.test_withdrawals import request

COUNT = 300
BALANCE_MINOR = 1_000_000
REFUSED_S = WAIT_S


class Secured:
    """A running secured stack, and who comes to its Kafka."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.bootstrap = stack.state.kafka_bootstrap

    def identity(self, user: str) -> security.Properties:
        return security.properties(variables=secured.user_variables(self.stack.data, user))

    def writes(self, user: str, topic: str, value: bytes = b"{}", **headers: str) -> KafkaError | None:
        """The error of a user's write, None if it is done."""
        producer = plain_producer(
            self.bootstrap, {"delivery.timeout.ms": int(REFUSED_S * 1_000)}, identity=self.identity(user)
        )
        found: list[KafkaError | None] = []
        try:
            producer.produce(
                topic, value, "acc-1", headers=headers, on_delivery=lambda error, _: found.append(error)
            )
        except KafkaException as error:
            return error.args[0]
        producer.flush(REFUSED_S + 10)  # by then it is timed out at the latest
        return found[0]

    def reads(self, user: str, group: str, topic: str) -> KafkaError | None:
        """The error of a user that joins a group to read a topic; None once it has partitions."""
        consumer = group_consumer(self.bootstrap, group, {"group.protocol": "consumer"}, self.identity(user))
        try:
            consumer.subscribe([topic])

            def answer() -> list[KafkaError | None]:
                message = consumer.poll(0.1)
                if message is not None and message.error() is not None:
                    return [message.error()]
                return [None] if consumer.assignment() else []

            return wait_until(answer, f"{user} is answered", REFUSED_S)[0]
        finally:
            consumer.close()

    def settle(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command on the data folder, as a person gives it: nothing else says who it is."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SETTLE_KAFKA")}
        command = [sys.executable, "-m", "cli", *arguments, "--data", str(self.stack.data)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def safe(tmp_path_factory):
    data = tmp_path_factory.mktemp("secured")
    data.chmod(0o755)
    with Stack(data, secure=True) as stack:
        open_accounts(
            stack.state.dsns["account"], [f"acc-{number}" for number in range(1, 11)], BALANCE_MINOR, "USD"
        )
        yield Secured(stack)


def test_other_users_of_the_machine_read_no_data(safe: Secured):
    assert stat.S_IMODE(safe.stack.data.stat().st_mode) == 0o700


def test_withdrawals_end_and_the_audit_holds(safe: Secured):
    plan = LoadPlan(COUNT, accounts=10, declined=0.1, insufficient=0.1, duplicates=0.1)
    with WithdrawalClient(safe.bootstrap, delivery_timeout_s=WAIT_S) as client:
        run_load(client, plan_load(plan))
    audit = run_audit(safe.stack.state.dsns, safe.bootstrap, WAIT_S)
    assert audit.ok, [check for check in audit.checks if not check.ok]
    assert audit.outcomes == {"completed": 240, "compensated": 30, "rejected": 30}


def test_the_api_speaks_tls_alone_and_what_it_takes_is_carried_out(safe: Secured):
    state = safe.stack.state
    key = create_key(state.dsns["api"], "shop", "client")
    asked = {"account_id": "acc-1", "amount": "1.00", "currency": "USD"}
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "secured"}
    ca = ssl.create_default_context(cafile=safe.stack.data / "secrets" / "ca.crt")
    answer = httpx.post(f"{state.api_url}/v1/withdrawals", json=asked, headers=headers, verify=ca, timeout=WAIT_S)
    assert answer.status_code == 202, answer.text
    assert answer.headers["strict-transport-security"]
    payment_id = UUID(answer.json()["payment_id"])

    def is_finished() -> bool:
        status = find_status(state.dsns["saga"], payment_id)
        return status is not None and status.finished

    wait_until(is_finished, "it is carried out")
    token = offer_sign_in(state.dsns["api"], "alice", "viewer")
    with httpx.Client(base_url=state.api_url, verify=ca, timeout=WAIT_S) as browser:
        cookie = browser.get("/v1/sign-in", params={"token": token}, headers={"Sec-Fetch-Site": "none"}).headers[
            "set-cookie"
        ]
        # What a browser keeps by such a name: only with these, and without a Domain.
        assert cookie.startswith("__Host-settle_session=")
        assert {"Secure", "Path=/", "HttpOnly", "SameSite=strict"} <= {*cookie.split("; ")}
        assert "domain" not in cookie.lower()
        secret = cookie.partition(";")[0].partition("=")[2]
        browser.cookies.clear()
        for name, status in (("__Host-settle_session", 200), ("settle_session", 401)):
            headers = {"Cookie": f"{name}={secret}"}
            assert browser.get("/v1/flow", headers=headers).status_code == status
    for url, verify in ((state.api_url.replace("https", "http"), True), (state.api_url, True)):
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/v1/docs", verify=verify)


def test_what_the_api_may_not_do_it_refuses_with_who_lacks_what_and_that_is_on_record(safe: Secured):
    state = safe.stack.state
    key = create_key(state.dsns["api"], "ops", "operator")
    mark = uuid4().hex
    claims = {"dlq.topic": "account.events", "dlq.partition": "0", "dlq.offset": "7000000", "dlq.reason": mark}
    assert safe.writes("payment", "account.events.dlq", b"{}", **claims) is None
    (letter,) = wait_until(
        lambda: [one for one in read_letters(safe.bootstrap) if one.refusals[0].reason == mark], "it is there"
    )
    safe.stack.stop_service("account")
    try:
        with WithdrawalClient(safe.bootstrap, delivery_timeout_s=WAIT_S) as client:
            payment_id = client.request("acc-1", "1.00").payment_id
        wait_until(lambda: find_status(state.dsns["saga"], payment_id), "its request is known")
        ca = ssl.create_default_context(cafile=safe.stack.data / "secrets" / "ca.crt")
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=state.api_url, headers=headers, verify=ca, timeout=WAIT_S) as http:
            nowhere, requests = "to write to any topic", "what was for withdrawal.requests: "
            forged = {"ids": [letter.id], "unverified": True}
            for action, path, asked, lacks in (
                ("redrive dead letters, also unverified", "/v1/dead-letters/redrive", forged, nowhere),
                ("discard dead letters", "/v1/dead-letters/discard", {"ids": [letter.id]}, nowhere),
                ("nudge", f"/v1/withdrawals/{payment_id}/nudge", {}, requests),
                ("republish", "/v1/republish", {"payment_ids": [str(payment_id)]}, requests),
            ):
                refused = http.post(path, json={**asked, "reason": mark})
                assert (refused.status_code, refused.json()["type"]) == (403, "urn:settle:problem:forbidden")
                detail = refused.json()["detail"]
                assert "the API's own Kafka user, api, may not do that" in detail
                assert "the Kafka user lacks a right (ACL) to " in detail
                assert lacks in detail
                done, begun = http.get("/v1/operator-log", params={"limit": 2}).json()["entries"]
                assert (begun["action"], begun["result"], done["action"]) == (action, None, action)
                assert done["result"] == {"problem": "forbidden", "detail": detail}
            assert http.get(f"/v1/dead-letters/{letter.id}").json()["state"] == "open"
    finally:
        safe.stack.start_service("account")
    done = safe.settle("dead-letters", "discard", letter.id)
    assert done.returncode == 0, done.stderr


def test_a_relay_that_is_killed_goes_on_where_it_was(safe: Secured):
    """Its user may also read what it has published: else it would publish some twice."""
    safe.stack.kill("relay")
    safe.stack.wait_ready("relay")
    with WithdrawalClient(safe.bootstrap, delivery_timeout_s=WAIT_S) as client:
        run_load(client, plan_load(LoadPlan(20, accounts=10)))
    audit = run_audit(safe.stack.state.dsns, safe.bootstrap, WAIT_S)
    assert audit.ok, [check for check in audit.checks if not check.ok]


def test_commands_on_the_data_folder_find_who_they_are(safe: Secured):
    asked = safe.settle("request", "--account", "acc-1", "--amount", "1.00", "--wait", "--timeout", "90", "--json")
    assert asked.returncode == 0, asked.stderr
    payment_id = json.loads(asked.stdout)["payment_id"]
    for command in (["status", payment_id], ["stuck"], ["audit", "--wait", "60"], ["dead-letters", "list"]):
        done = safe.settle(*command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)


def test_a_command_trusts_the_api_by_the_authority_that_settle_env_names(safe: Secured):
    state = safe.stack.state
    exported = stack_json.environment(state)
    key = create_key(state.dsns["api"], "ops", "viewer")

    def stuck(url: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli", "stuck", "--api", url]
        environment = {**os.environ, "SETTLE_API_KEY": key, **variables}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    found = stuck(exported["SETTLE_API_URL"], SETTLE_API_CA=exported["SETTLE_API_CA"])
    assert found.returncode == 0, found.stderr
    not_trusted = stuck(exported["SETTLE_API_URL"])
    assert not_trusted.returncode == 1
    assert "is not trusted: unable to get local issuer certificate; SETTLE_API_CA names" in not_trusted.stderr
    plain = stuck(exported["SETTLE_API_URL"].replace("https", "http"))
    assert plain.returncode == 1
    assert "does not speak HTTP; is it https://?" in plain.stderr


@pytest.mark.parametrize("user", [*NAMES, PRODUCER, VIEWER, *map(relay_of, NAMES)])
def test_nobody_writes_an_event_that_it_does_not_emit(safe: Secured, user: str):
    own = {relay_of(service.name): service.emits for service in SERVICES}.get(user, ())
    for topic in {topic for service in PROCESSORS for topic in service.emits} - {*own}:
        error = safe.writes(user, topic.name)
        assert error is not None, topic.name
        assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_a_relay_of_events_writes_no_request_and_a_producer_nothing_else(safe: Secured):
    for user, topic in (
        (relay_of("account"), "withdrawal.requests"),
        (relay_of("saga"), "payment.requests"),
        ("api", "withdrawal.requests"),
        (PRODUCER, "payment.requests"),
        (PRODUCER, "withdrawal.requests.dlq"),
        ("payment", "withdrawal.requests.dlq"),
        (VIEWER, "dead-letters.handled"),
        (OPERATOR, "account.events.dlq"),
    ):
        error = safe.writes(user, topic)
        assert error is not None, (user, topic)
        assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


@pytest.mark.parametrize(
    ("user", "transactions", "is_allowed"),
    [
        (RELAY, "settle-outbox-1f0c9a3e", True),
        (relay_of("payment"), "settle-outbox-1f0c9a3e-2of4", True),
        (relay_of("payment"), "another", False),
        ("payment", "settle-outbox-1f0c9a3e", False),
        (OPERATOR, "settle-outbox-1f0c9a3e", False),
    ],
)
def test_only_a_relay_sends_in_transactions_of_outboxes(safe: Secured, user: str, transactions: str, is_allowed):
    producer = plain_producer(safe.bootstrap, {"transactional.id": transactions}, identity=safe.identity(user))
    if is_allowed:
        producer.init_transactions(WAIT_S)
        return
    with pytest.raises(KafkaException) as refused:
        producer.init_transactions(WAIT_S)
    assert refused.value.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


@pytest.mark.parametrize(
    ("user", "group", "topic"),
    [
        ("payment", consumer_group("account"), "account.events"),
        ("payment", "settle-other", "account.events"),
        ("payment", consumer_group("payment"), "withdrawal.requests"),
        (VIEWER, consumer_group("payment"), "account.events"),
        (PRODUCER, consumer_group("account"), "withdrawal.requests"),
    ],
)
def test_nobody_reads_with_a_foreign_group_or_what_is_not_for_it(safe: Secured, user: str, group: str, topic: str):
    error = safe.reads(user, group, topic)
    assert error is not None
    assert "authorization failed" in error.str().lower()


def test_a_service_dead_letters_and_an_operator_redrives(safe: Secured):
    wanted = request("acc-1", currency="nonsense")
    body = encode(wanted)
    assert (
        safe.writes(PRODUCER, "withdrawal.requests", body, id=str(uuid4()), eventType="WithdrawalRequested")
        is None
    )
    found = wait_until(
        lambda: [one for one in read_letters(safe.bootstrap) if one.payment_id == str(wanted.payment_id)],
        "it is a dead letter",
    )
    done = safe.settle("dead-letters", "redrive", found[0].id)
    assert (done.returncode, done.stdout) == (0, "1 dead letter redriven\n"), done.stderr


def test_a_forged_dead_letter_steers_no_redrive_to_another_topic(safe: Secured):
    mark = uuid4().hex
    claims = {"dlq.topic": "payment.requests", "dlq.partition": "0", "dlq.offset": "0", "dlq.reason": mark}
    before = length(safe, "payment.requests")
    # The payment service may write dead letters of what it reads, which says where an original is.
    assert safe.writes("payment", "account.events.dlq", b"forged", **claims) is None
    (letter,) = wait_until(
        lambda: [one for one in read_letters(safe.bootstrap) if one.refusals[0].reason == mark], "it is there"
    )
    refused = safe.settle("dead-letters", "redrive", letter.id)
    assert (refused.returncode, refused.stdout) == (2, "0 dead letters redriven\n")
    assert "unverified: " in refused.stderr
    done = safe.settle("dead-letters", "redrive", letter.id, "--unverified", "--yes")
    assert done.returncode == 0, done.stderr
    assert length(safe, "payment.requests") == before
    assert letter.record.topic == "account.events"
    wait_until(lambda: len(read_letters(safe.bootstrap)) > 1, "it is refused again")


def test_a_relay_of_one_outbox_publishes_nothing_for_another_service_and_says_so(safe: Secured):
    name, port = "outbox_of_payment", choose()
    with psycopg.connect(safe.stack.state.dsns["payment"], autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
    dsn = make_conninfo(safe.stack.state.dsns["payment"], dbname=name)
    migrate("payment", dsn)
    before = length(safe, "account.events")
    identity = secured.user_variables(safe.stack.data, relay_of("payment"))
    environment = {**os.environ, **safe.stack.environment(), **identity}
    environment |= {"SETTLE_RELAY_SOURCES": dsn, "SETTLE_HTTP_PORT": str(port)}
    with subprocess.Popen([sys.executable, "-m", "cli", "run", "relay"], env=environment) as relay:
        try:
            wait_until(lambda: readiness(port) == (200, "ready\n"), "it reads the outbox")
            with psycopg.connect(dsn) as connection:
                connection.execute(
                    "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)"
                    " VALUES (%s, 'account', 'acc-1', 'MoneyDeducted', '{}')",
                    (uuid4(),),
                )
            wait_until(
                lambda: readiness(port)[0] == 503 and "uthorization failed" in readiness(port)[1],
                "it says that it may not",
            )
        finally:
            relay.terminate()
            relay.wait(WAIT_S)
    assert length(safe, "account.events") == before


def readiness(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def length(safe: Secured, topic: str) -> int:
    from broker.offsets import Offsets

    return sum(Offsets(safe.bootstrap).end([topic]).values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"sasl.password": "wrong"},
        {"ssl.ca.location": None},
        {"security.protocol": "sasl_plaintext", "ssl.ca.location": None},
    ],
    ids=["password", "unknown CA", "plaintext"],
)
def test_nobody_comes_in_without_the_right_password_over_tls(safe: Secured, wrong: dict[str, str | None]):
    identity = {**safe.identity("payment"), **wrong}
    identity = {name: value for name, value in identity.items() if value is not None}
    with pytest.raises(KafkaException):
        admin(safe.bootstrap, identity=identity).list_topics(timeout=3)


@pytest.mark.parametrize("listener", ["INTERNAL", "CONTROLLER"])
def test_where_certificates_are_asked_for_nobody_comes_in_without_one(safe: Secured, listener: str):
    """Neither with a password, nor as nobody: not even the controller answers, though it is on loopback."""
    properties = dict(
        line.partition("=")[::2]
        for line in (safe.stack.data / "kafka" / "server.properties").read_text().splitlines()
    )
    places = dict(one.split("://") for one in properties["listeners"].split(","))
    port = int(places[listener].rpartition(":")[2])
    assert answers(safe, port, "admin")
    assert not answers(safe, port, None)
    with pytest.raises(KafkaException):
        admin(places[listener], identity=safe.identity(OPERATOR)).list_topics(timeout=3)


def answers(safe: Secured, port: int, certificate: str | None) -> bool:
    """Whether a request for the API versions is answered."""
    folder = safe.stack.data / "secrets"
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    if certificate is not None:
        context.load_cert_chain(folder / f"{certificate}.crt", folder / f"{certificate}.key")
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(b"\0\0\0\x0a\0\x12\0\0\0\0\0\1\xff\xff")
            return len(connection.recv(8)) > 0
    except (ssl.SSLError, ConnectionError):
        return False


def test_a_database_takes_no_connection_without_tls(safe: Secured):
    dsn = safe.stack.state.dsns["account"]
    with psycopg.connect(dsn) as connection:
        assert connection.info.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(dsn, sslmode="disable")
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(dsn, sslrootcert="system")


def test_secrets_are_readable_by_the_owner_alone_and_shown_nowhere(safe: Secured):
    folder = safe.stack.data / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    passwords = secured.passwords(safe.stack.data).values()
    shown = [" ".join(psutil.Process(pid).cmdline()) for pid in safe.stack.state.pids.values()]
    shown += [file.read_text(errors="replace") for file in (safe.stack.data / "logs").iterdir()]
    shown += [(safe.stack.data / "stack.json").read_text()]
    shown += [Path(safe.stack.data, "kafka", "server.properties").read_text()]
    assert not [text for text in shown if any(password in text for password in passwords)]


def test_it_stays_secured_and_its_users_work_after_a_restart(safe: Secured):
    """The last test: it stops the stack."""
    safe.stack.stop()
    command = [sys.executable, "-m", "cli", "up", "--data", str(safe.stack.data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
        try:
            assert up.stdout is not None
            assert any(line.startswith("ready, secured;") for line in up.stdout)
            done = safe.settle(
                "request", "--account", "acc-1", "--amount", "1.00", "--wait", "--timeout", "90", "--json"
            )
            assert done.returncode == 0, done.stderr
        finally:
            up.send_signal(signal.SIGINT)
            up.communicate(timeout=3 * WAIT_S)
    assert up.returncode == 0
