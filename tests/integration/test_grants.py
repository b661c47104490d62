"""Each role does its work, and nothing else, on a server that only `deploy/postgres/roles.sql` has set up."""

import json
from contextlib import ExitStack, suppress

import httpx
import psycopg
import pytest

from api.access import ADMIN
from api.credentials import create_key
from contracts.services import DATABASES
from stack import ports
from stack.supervisor import Stack
from tests.conftest import wait_until
from tests.integration.roles import Server

SERVICES = ("account", "payment", "notification", "saga", "api")
RELAYED = SERVICES
A_ROW = "'018f0000-0000-7000-8000-000000000001', 'nobody', 'b', 'nothing', '1', NULL, NULL"
ANOTHER_ROW = A_ROW.replace("0001", "0002")
MAKE_UP = "SELECT settle_republish(gen_random_uuid(), 'MoneyDeducted', '{}', NULL, NULL)"
DENIED = psycopg.errors.InsufficientPrivilege


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    # PostgreSQL gives up its rights as root and must still reach its folder.
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    with Stack(folder, services=(), databases=["account"], postgres_settings={"fsync": "off"}) as stack:
        server = Server(stack)
        with psycopg.connect(f"{server.superuser}/postgres", autocommit=True) as connection:
            connection.execute("DROP DATABASE account")
        server.set_up_roles()
        server.settle("owner", "migrate", "--grant")
        yield server


def test_every_service_does_its_work_with_its_own_role(server, tmp_path):
    sources = " ".join(server.dsn("relay", name) for name in RELAYED)
    with ExitStack() as running:
        for name in SERVICES:
            own = {f"SETTLE_{name.upper()}_DSN": server.dsn(name, name), "SETTLE_DATA": str(tmp_path)}
            provider = {"SETTLE_PROVIDER_DSN": server.dsn("provider", "provider")} if name == "payment" else {}
            running.enter_context(server.running(name, **own, **provider))
        running.enter_context(server.running("relay", SETTLE_RELAY_SOURCES=sources))
        server.settle("operator", "accounts", "open")
        server.settle(
            "operator", "load", "--count=400", "--declined=0.1", "--insufficient=0.1", "--duplicates=0.1"
        )

        verdict = server.settle("operator", "audit", "--wait=100")  # for services that start all at once
        handed = server.settle("operator", "republish", "--every-event", "--quiet=0", "--limit=1", "--yes")
        assert "of 1 withdrawal handed to the relay" in handed

    assert "the audit holds: 400 withdrawals (40 compensated, 320 completed, 40 rejected)" in " ".join(
        verdict.split()
    )


LISTS = (
    "stuck",
    "dead-letters",
    "outboxes",
    "outboxes/dead-rows",
    "steps",
    "flow",
    "audits",
    "operator-log",
    "api-keys",
    "withdrawals",
    "accounts",
)


def test_the_api_shows_everything_with_a_viewers_rights_and_acts_as_far_as_they_go(server, tmp_path):
    columns = "id, aggregatetype, aggregateid, type, payload, position, reason"
    server.tries(
        "relay", "account", f"INSERT INTO outbox_dead ({columns}) VALUES ('x', 'a', 'b', 'T', 'x', '0/1', 'y')"
    )
    ((number,),) = server.asks("viewer", "account", "SELECT number FROM outbox_dead WHERE id = 'x'")
    place = f"127.0.0.1:{ports.choose()}"
    own = {"SETTLE_API_DSN": server.dsn("api", "api"), "SETTLE_API_LISTEN": place, "SETTLE_DATA": str(tmp_path)}
    key = create_key(server.dsn("operator", "api"), "ada", ADMIN)
    why = {"reason": "a test"}
    with (
        server.running("api", **{**server.dsns("viewer"), **own}),
        httpx.Client(base_url=f"http://{place}", headers={"Authorization": f"Bearer {key}"}, timeout=60) as client,
    ):

        def answers():
            with suppress(httpx.TransportError):
                return client.get("/v1/operator-log").status_code == 200
            return False

        wait_until(answers, "the API answers")
        for path in LISTS:
            # What a database or Kafka does not answer in time is answered with 503.
            wait_until(lambda of=path: client.get(f"/v1/{of}").status_code == 200, f"{path} are shown")
        rows = {"rows": [{"service": "account", "number": number}], **why}
        (refused,) = client.post("/v1/outboxes/dead-rows/discard", json=rows).json()["results"]
        assert refused["error"].startswith("row x is not discarded: permission denied for function")
        made = client.post("/v1/api-keys", json={"caller": "bob", "role": "viewer", **why})
        assert made.status_code == 201
        assert client.post(f"/v1/api-keys/{made.json()['key_id']}/revoke", json=why).status_code == 200
        audit = client.post("/v1/audits", json={**why, "wait_s": 0}).headers["location"]
        ended = wait_until(lambda: (a := client.get(audit).json())["state"] != "running" and a, "it has ended")
        assert ended["state"] in ("holds", "does not hold")
    server.settle("operator", "outbox", "dead", "discard", "x", "--yes")


def test_a_right_to_a_new_table_comes_with_the_next_migration_and_is_named_until_then(server, tmp_path):
    place = f"127.0.0.1:{ports.choose()}"
    own = {"SETTLE_API_DSN": server.dsn("api", "api"), "SETTLE_API_LISTEN": place, "SETTLE_DATA": str(tmp_path)}
    link = ("api-keys", "sign-in", "alice", "--role", "viewer", "--url", f"http://{place}")
    server.tries("owner", "api", "REVOKE ALL ON sign_ins FROM api, operator")
    with (
        server.running("api", **{**server.dsns("viewer"), **own}),
        httpx.Client(base_url=f"http://{place}", timeout=60) as client,
    ):

        def signs_in():
            with suppress(httpx.TransportError):
                return client.get("/v1/sign-in", params={"token": "x", "sure": True})
            return None

        denied = "permission denied for table sign_ins; `settle migrate --grant` gives it"
        refused = wait_until(
            lambda: (got := signs_in()) and denied in got.text and got, "the API says what it lacks"
        )
        assert refused.status_code == 503
        with pytest.raises(AssertionError, match=r"permission denied for table sign_ins; .*migrate --grant"):
            server.settle("operator", *link)
        assert "api: schema is up to date, roles may do their work" in server.settle("owner", "migrate")
        assert wait_until(signs_in, "the API answers").status_code == 401
    assert "sign-in" in server.settle("operator", *link)


def test_rights_that_were_never_granted_are_not_granted_unasked(server):
    server.tries("owner", "provider", "REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM viewer")
    said = server.settle("owner", "migrate")
    assert "provider: schema is up to date\n" in said
    with pytest.raises(DENIED):
        server.tries("viewer", "provider", "SELECT FROM charges")
    server.settle("owner", "migrate", "--grant")
    server.tries("viewer", "provider", "SELECT FROM charges")


@pytest.mark.parametrize("role", [*SERVICES, "provider"])
def test_a_service_connects_to_no_database_but_its_own(server, role):
    for database in {*DATABASES, "postgres"} - {role}:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            server.tries(role, database, "SELECT 1")


@pytest.mark.parametrize(
    ("role", "database", "statement"),
    [
        ("account", "account", "UPDATE ledger SET amount_minor = 1"),
        ("account", "account", "DELETE FROM ledger"),
        ("account", "account", "INSERT INTO accounts VALUES ('acc-x', 'USD', 1, 1)"),
        ("account", "account", "UPDATE accounts SET opening_balance_minor = 1"),
        ("account", "account", "UPDATE accounts SET currency = 'EUR'"),
        ("account", "account", "UPDATE saga_log SET account_id = 'acc-x'"),
        ("account", "account", "CREATE TABLE mine ()"),
        ("account", "account", "ALTER TABLE ledger DISABLE TRIGGER ALL"),
        ("account", "account", "DELETE FROM outbox"),
        ("payment", "payment", "DELETE FROM payments"),
        ("provider", "provider", "DELETE FROM charges"),
        ("saga", "saga", "UPDATE event_store SET type = 'x'"),
        ("saga", "saga", "DELETE FROM withdrawals"),
        (
            "relay",
            "account",
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('a','b','c','1')",
        ),
        ("relay", "account", "UPDATE outbox SET payload = '1'"),
        ("relay", "account", "DELETE FROM outbox_control"),
        ("relay", "account", "UPDATE outbox_control SET who = 'another'"),
        ("operator", "account", "INSERT INTO outbox_control (act, who) VALUES ('pause', 'x')"),
        ("account", "account", "INSERT INTO outbox_control (act, who) VALUES ('pause', 'x')"),
        ("relay", "account", "SELECT FROM accounts"),
        ("relay", "saga", "SELECT FROM event_store"),
        ("operator", "account", "UPDATE accounts SET balance_minor = 1"),
        ("operator", "account", "INSERT INTO accounts VALUES ('acc-x', 'USD', 1, 1)"),
        ("operator", "payment", "DELETE FROM payments"),
        ("operator", "saga", "UPDATE outbox SET payload = '1'"),
        ("operator", "account", f"INSERT INTO outbox VALUES ({A_ROW})"),
        ("operator", "account", "DELETE FROM outbox"),
        ("operator", "account", "DELETE FROM outbox_dead"),
        ("operator", "account", "UPDATE gaps SET first = 0"),
        ("viewer", "account", "INSERT INTO accounts VALUES ('acc-x', 'USD', 1, 1)"),
        ("viewer", "account", "UPDATE gaps SET note = 'x'"),
        ("viewer", "account", "SELECT settle_outbox_dead_discard(1)"),
        ("viewer", "account", MAKE_UP),
        ("treasurer", "account", "UPDATE accounts SET balance_minor = 1"),
        ("treasurer", "account", "SELECT settle_outbox_dead_retry(1)"),
        ("treasurer", "account", f"INSERT INTO outbox VALUES ({A_ROW})"),
        ("treasurer", "saga", "INSERT INTO event_store (payment_id) VALUES (NULL)"),
        ("account", "account", MAKE_UP),
        ("relay", "account", "SELECT settle_outbox_dead_retry(1)"),
        ("api", "api", "UPDATE operator_log SET reason = 'another'"),
        ("api", "api", "DELETE FROM operator_log"),
        ("api", "api", "DELETE FROM audits"),
        ("api", "api", "UPDATE api_keys SET role = 'admin'"),
        ("operator", "api", "DELETE FROM operator_log"),
    ],
)
def test_a_role_may_not(server, role, database, statement):
    with pytest.raises(DENIED):
        server.tries(role, database, statement)


def test_a_right_that_is_no_more_granted_is_taken_back(server):
    server.tries("owner", "account", "GRANT UPDATE ON accounts, saga_log TO account")
    server.tries("account", "account", "UPDATE accounts SET opening_balance_minor = 1 WHERE false")
    server.settle("owner", "migrate", "--grant")
    for column in ("accounts SET opening_balance_minor = 1", "saga_log SET amount_minor = 1"):
        with pytest.raises(DENIED):
            server.tries("account", "account", f"UPDATE {column}")
    server.tries("account", "account", "SELECT FROM accounts FOR UPDATE")


def test_what_was_asked_of_a_relay_is_written_by_it_read_by_people_and_changed_by_nobody(server):
    server.tries("relay", "account", "INSERT INTO outbox_control (act, who, why) VALUES ('pause', 'a', 'b')")
    try:
        for role in ("viewer", "operator"):
            assert server.asks(role, "account", "SELECT act, role FROM outbox_control") == [
                ("pause", "relay_account")
            ]
        assert "paused since" in server.settle("viewer", "outbox", "status")
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            server.tries("owner", "account", "DELETE FROM outbox_control")
    finally:
        server.tries("relay", "account", "INSERT INTO outbox_control (act, who) VALUES ('resume', 'a')")


def test_an_operator_makes_a_link_by_which_somebody_signs_in(server):
    url = "https://localhost:8000"
    made = server.settle("operator", "api-keys", "sign-in", "alice", "--role=operator", f"--url={url}")
    assert made.strip().startswith(f"{url}/v1/sign-in?token=")
    with pytest.raises(DENIED):
        server.tries("viewer", "api", "INSERT INTO sign_ins VALUES (sha256('x'), 'eve', 'admin', now())")


def test_roles_and_grants_may_be_made_again_and_a_password_changes(server):
    try:
        server.set_up_roles(saga="another")
        server.settle("owner", "migrate", "--grant")

        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            server.tries("saga", "saga", "SELECT 1")
    finally:
        server.set_up_roles()
    server.tries("saga", "saga", "SELECT 1")


def test_a_row_that_can_never_be_published_is_put_aside_by_the_relay_and_put_back_by_the_operator(server):
    server.tries("relay", "saga", f"INSERT INTO outbox_dead VALUES ({A_ROW}, '0/1', 'too large')")
    server.tries("relay", "saga", f"INSERT INTO outbox_dead VALUES ({ANOTHER_ROW}, '0/1', 'too large')")
    first, second = (row.split("'")[1] for row in (A_ROW, ANOTHER_ROW))

    assert "1 row put back" in server.settle("operator", "outbox", "dead", "retry", first)
    assert "1 row discarded" in server.settle("operator", "outbox", "dead", "discard", second)

    found = server.asks(
        "viewer", "saga", "SELECT id::text, type, payload::text FROM outbox WHERE type = 'nothing'"
    )
    assert found == [(first, "nothing", "1")]
    assert server.asks("viewer", "saga", "SELECT id FROM outbox_dead") == []
    server.tries("relay", "saga", "DELETE FROM outbox WHERE type = 'nothing'")
    with pytest.raises(DENIED):
        server.tries("saga", "saga", "SELECT FROM outbox_dead")


def test_an_operator_has_only_events_published_that_the_tables_prove(server):
    payment_id, misbooked = "018f0000-0000-7000-8000-00000000000a", "018f0000-0000-7000-8000-00000000000c"
    server.tries(
        "account",
        "account",
        "INSERT INTO saga_log (payment_id, account_id, amount_minor, currency, status, reason) VALUES "
        f"('{payment_id}', 'acc-proof', 500, 'USD', 'deducted', NULL), "
        f"('{misbooked}', 'acc-proof', 500, 'USD', 'compensated', 'declined')",
    )
    server.tries(
        "account",
        "account",
        f"INSERT INTO ledger VALUES ('{payment_id}', 'deduction', 'acc-proof', -500), "
        f"('{misbooked}', 'deduction', 'acc-other', -500), ('{misbooked}', 'refund', 'acc-other', 500)",
    )

    def republish(event_type, **changed):
        event = {"payment_id": payment_id, "account_id": "acc-proof", "amount_minor": 500, "currency": "USD"}
        body = json.dumps({**event, **changed})
        server.tries(
            "operator",
            "account",
            f"SELECT settle_republish(gen_random_uuid(), '{event_type}', '{body}', NULL, NULL)",
        )

    for event_type, changed in (
        ("MoneyRefunded", {}),
        ("WithdrawalRejected", {}),
        ("PaymentProcessed", {}),
        ("MoneyDeducted", {"amount_minor": 50_000}),
        ("MoneyDeducted", {"account_id": "acc-other"}),
        ("MoneyDeducted", {"payment_id": "018f0000-0000-7000-8000-00000000000b"}),
        ("MoneyDeducted", {"payment_id": misbooked}),
        ("MoneyRefunded", {"payment_id": misbooked}),
    ):
        with pytest.raises(DENIED, match=f"{event_type} of withdrawal .* is not proved by the tables of account"):
            republish(event_type, **changed)
    republish("MoneyDeducted")

    query = "SELECT aggregatetype, type FROM outbox WHERE aggregateid = 'acc-proof'"
    assert server.asks("viewer", "account", query) == [("account", "MoneyDeducted")]
    server.tries("relay", "account", "DELETE FROM outbox WHERE aggregateid = 'acc-proof'")


def test_the_treasurer_opens_accounts_and_the_viewer_looks(server):
    server.settle("treasurer", "accounts", "open", "treasured")
    assert server.asks("viewer", "account", "SELECT 1 FROM accounts WHERE account_id = 'treasured'") == [(1,)]
    server.settle("viewer", "stuck")
    server.settle("viewer", "gaps", "list")


def test_a_relay_connects_to_its_own_database_only(server):
    for database in {*DATABASES, "postgres"} - {"saga"}:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(server.dsn("relay", "saga").rpartition("/")[0] + f"/{database}")
