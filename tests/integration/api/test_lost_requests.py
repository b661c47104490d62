"""A request that the API accepted and that was lost is named until it is published again; a late one is not."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from click.testing import Result
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner
from uuid_utils.compat import uuid7

from api.access import OPERATOR, VIEWER
from broker.offsets import Offsets
from broker.scan import scan
from cli.main import app
from contracts.events import WithdrawalRequested, encode
from contracts.postgres import session
from contracts.topics import WITHDRAWAL_REQUESTS
from operations import lost
from operations import lost_requests as lost_requests_module
from operations.audit.run import run
from operations.lost_requests import _NEWEST, lost_requests, newest_accepted
from operations.republish import find, republish
from operations.stuck import LOST, LOST_CANCELLED
from processors.runtime.gaps import acknowledge, noted_gaps
from tests.conftest import OPENING_MINOR, WAIT_S, wait_until
from tests.integration.api.front import Front, ask, new_key, requested, running_with_api
from tests.integration.api.test_commands import NOWHERE

REQUESTS = WITHDRAWAL_REQUESTS.name
READERS = ("account", "saga")


@pytest.fixture(scope="module")
def losing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A stack of its own, whose topics lose records."""
    with running_with_api(tmp_path_factory.mktemp("losing")) as front:
        yield front


def lost_ones(front: Front) -> list[UUID]:
    return lost_requests(front.dsns, front.bootstrap)


def make_old(front: Front, payment_id: UUID) -> None:
    """As if it had been accepted an hour ago: what has just been is on its way."""
    earlier = "requested_at = requested_at - interval '1 hour'"
    front.execute("api", f"UPDATE withdrawals SET {earlier} WHERE payment_id = '{payment_id}'")


def plant(front: Front, payment_id: UUID, account: str) -> None:
    """An accepted request of which nothing is left but the API's own row."""
    values = (
        f"'{payment_id}', 'shop', '{new_key()}', false, '{account}', 500, 'USD', now() - interval '1 hour', ''"
    )
    front.execute("api", f"INSERT INTO withdrawals VALUES ({values})")


def on_topic(front: Front, payment_id: UUID) -> int:
    return sum(str(payment_id).encode() in message.value() for message in scan(front.bootstrap, [REQUESTS]))


def delete_all_records(front: Front) -> None:
    ends = Offsets(front.bootstrap).end([REQUESTS])
    admin = AdminClient(front.kafka())
    for future in admin.delete_records([TopicPartition(*place, end) for place, end in ends.items()]).values():
        future.result(WAIT_S)


def off(front: Front, wait_s: float = WAIT_S) -> dict[str, str]:
    audit = run(front.dsns, front.bootstrap, wait_s)
    return {check.name: check.detail for check in audit.checks if not check.ok}


def in_words(payment_id: UUID) -> str:
    return f"{payment_id}: accepted by the API, but its request is lost (settle nudge, or settle cancel)"


def stuck_ones(front: Front) -> list[dict]:
    """The withdrawals that are stuck, of which command and API say the same."""
    with front.http(front.key("viewer", VIEWER)) as viewer:

        def both() -> list[dict] | None:
            done = CliRunner().invoke(app, ["stuck", "--json"], env=front.stack.environment())
            by_api = viewer.get("/v1/stuck").json()
            asked = done.exit_code == 0 and not done.stderr and not by_api["unasked"]
            return [json.loads(done.stdout), by_api["withdrawals"]] if asked else None

        own, by_api = wait_until(both, "everybody has been asked")
    assert [one["payment_id"] for one in own] == [one["payment_id"] for one in by_api]
    assert [one["held_up_by"] for one in own] == [one["held_up_by"] for one in by_api]
    return own


def test_a_request_that_kafka_deleted_unread_is_named_and_published_again(losing: Front):
    account, key = losing.open_account(), new_key()
    with losing.http(losing.key()) as shop:
        ended = requested(shop, account)
        assert losing.finished(ended).state == "completed"
        for service in READERS:
            losing.stack.stop_service(service)
        answer = ask(shop, account, "100.00", key=key)
        payment_id = UUID(answer.json()["payment_id"])
        make_old(losing, payment_id)
        wait_until(lambda: on_topic(losing, payment_id), "its request is published")
        count = "SELECT count(*) FROM outbox"
        wait_until(lambda: losing.query("api", count)[0][0] == 0, "its row is removed")
        assert lost_ones(losing) == []  # nobody has read it yet
        assert str(payment_id) not in off(losing, 0.0).get("finished", "")

        delete_all_records(losing)
        for service in READERS:
            losing.stack.start_service(service)
        own = {service: losing.dsns[service] for service in READERS}
        wait_until(lambda: {one.service for one in noted_gaps(own)} == set(READERS), "both have noted the gap")
        acknowledge(own, noted_gaps(own), "none of them came from a producer")

        assert off(losing) == {"finished": in_words(payment_id)}
        (stuck,) = stuck_ones(losing)
        assert (stuck["payment_id"], stuck["amount_minor"]) == (str(payment_id), 10_000)
        assert (stuck["state"], stuck["held_up_by"]) == ("accepted", LOST.format(payment_id=payment_id))
        again = ask(shop, account, "100.00", key=key)
        assert (again.status_code, again.json()["payment_id"]) == (202, str(payment_id))
        assert lost_ones(losing) == [payment_id]  # the answer to a repeat is the first one, and no request

    done = CliRunner().invoke(app, ["nudge", str(payment_id)], env=losing.stack.environment())
    assert done.stdout.startswith("republished on withdrawal.requests: WithdrawalRequested\n"), done.stderr
    status = losing.finished(payment_id)
    assert (status.state, status.trace_id) == ("completed", answer.json()["trace_id"])
    assert (lost_ones(losing), stuck_ones(losing), off(losing)) == ([], [], {})


def quarantine(front: Front, payment_id: UUID, account: str) -> None:
    """An accepted request of which nothing is left but the API's own row and a dead one."""
    event = WithdrawalRequested(
        payment_id=payment_id, account_id=account, amount_minor=500, currency="USD", occurred_at=datetime.now(UTC)
    )
    plant(front, payment_id, account)
    front.execute(
        "api",
        "INSERT INTO outbox_dead (id, aggregatetype, aggregateid, type, payload, position, reason) VALUES "
        f"('{uuid7()}', '{REQUESTS}', '{account}', 'WithdrawalRequested', '{encode(event).decode()}', '0/1', 'x')",
    )


def settle(front: Front, *arguments: str, by_api: bool = False) -> Result:
    """A command that acts, on databases and Kafka or through the API."""
    if not by_api:
        return CliRunner().invoke(app, arguments, env=front.stack.environment())
    ca = front.stack.data / "secrets" / "ca.crt"
    key = front.key("operator", OPERATOR)
    environment = {**NOWHERE, "SETTLE_API_KEY": key, "SSL_CERT_FILE": str(ca) if ca.exists() else None}
    through = ("--api", front.stack.state.api_url, "--why", "a test of lost requests")
    return CliRunner().invoke(app, [*arguments, *through], env=environment)


def test_a_request_whose_row_was_quarantined_is_lost_once_the_row_is_discarded(losing: Front):
    payment_id, account = uuid7(), losing.open_account()
    quarantine(losing, payment_id, account)
    assert lost_ones(losing) == []
    losing.execute("api", "DELETE FROM outbox_dead")

    assert lost_ones(losing) == [payment_id]
    assert off(losing) == {"finished": in_words(payment_id)}
    # Whoever discarded it may have meant that it is not paid.
    assert find(losing.dsns, losing.bootstrap, lost.lacking) == []
    done = settle(losing, "republish", "--yes")
    assert (done.exit_code, f"settle nudge {payment_id}" in done.stdout) == (0, True), done.output
    with losing.http(losing.key("viewer", VIEWER)) as viewer:
        previewed = viewer.post("/v1/republish/preview", json={}).json()
        named = viewer.post("/v1/republish/preview", json={"payment_ids": [str(payment_id)]}).json()
        both = viewer.post("/v1/republish/preview", json={"payment_ids": [str(payment_id)], "lost_requests": True})
    assert previewed == {"events": [], "lost_requests": [str(payment_id)], "lost_requests_total": 1}
    assert ([one["payment_id"] for one in named["events"]], named["lost_requests"]) == ([str(payment_id)], [])
    assert (both.status_code, both.json()["type"]) == (422, "urn:settle:problem:invalid")
    assert on_topic(losing, payment_id) == 0

    found = find(losing.dsns, losing.bootstrap, lost.lacking, payment_ids=[payment_id])
    assert [(one.payment_id, one.event_type) for one in found] == [(payment_id, "WithdrawalRequested")]
    republish(losing.dsns, losing.bootstrap, found, WAIT_S)
    republish(losing.dsns, losing.bootstrap, found, WAIT_S)
    assert losing.finished(payment_id).state == "completed"
    assert find(losing.dsns, losing.bootstrap, lost.lacking) == []
    losing.audit()


@pytest.mark.parametrize("by_api", [False, True])
def test_a_request_that_was_discarded_and_cancelled_is_settled_and_never_paid(losing: Front, by_api: bool):
    payment_id, account = uuid7(), losing.open_account()
    quarantine(losing, payment_id, account)
    losing.execute("api", "DELETE FROM outbox_dead")
    assert lost_ones(losing) == [payment_id]

    done = settle(losing, "cancel", str(payment_id), "--timeout", "1", by_api=by_api)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.endswith("is asked to void it: unless it is paid by then, it never is\n")
    wait_until(lambda: lost_ones(losing) == [], "the payment service knows of it")
    (stuck,) = stuck_ones(losing)
    named = (stuck["payment_id"], stuck["reason"], stuck["held_up_by"])
    assert named == (str(payment_id), "cancelled", LOST_CANCELLED.format(payment_id=payment_id))
    assert off(losing) == {}
    assert "no service lacks an event" in settle(losing, "republish", "--yes").stdout

    assert settle(losing, "nudge", str(payment_id)).exit_code == 0
    status = losing.finished(payment_id)
    assert (status.state, status.reason) == ("compensated", "cancelled")
    assert (losing.balance(account), stuck_ones(losing)) == (OPENING_MINOR, [])
    losing.audit()


def test_the_newest_requests_are_found_behind_younger_ones_page_by_page_from_the_end(
    losing: Front, monkeypatch: pytest.MonkeyPatch
):
    account = losing.open_account()
    older, newer = uuid7(), uuid7()
    plant(losing, older, account)
    plant(losing, newer, account)
    young = f"gen_random_uuid(), 'crowd', number::text, false, '{account}', 500, 'USD', now(), ''"
    losing.execute("api", f"INSERT INTO withdrawals SELECT {young} FROM generate_series(1, 500) AS number")
    monkeypatch.setattr(lost_requests_module, "STEP_PAGES", 1)
    monkeypatch.setattr(lost_requests_module, "NEWEST_S_MAX", WAIT_S)
    values = {"age": 60.0, "limit": 10, "first": "(0,0)", "end": "(1,0)"}
    try:
        with session(losing.dsns["api"]) as connection:
            assert {str(older), str(newer)} <= {*newest_accepted(connection, 60.0)}
            plan = [line for (line,) in connection.execute(f"EXPLAIN {_NEWEST}", values)]
            assert any("Tid Range Scan on withdrawals" in line for line in plan), plan
    finally:
        planted = f"caller = 'crowd' OR payment_id IN ('{older}', '{newer}')"
        losing.execute("api", f"DELETE FROM withdrawals WHERE {planted}")


def test_a_list_says_that_the_latest_requests_are_too_many_to_look_behind(
    losing: Front, monkeypatch: pytest.MonkeyPatch
):
    with losing.http(losing.key()) as shop:
        assert losing.finished(requested(shop, losing.open_account())).state == "completed"
    monkeypatch.setattr(lost_requests_module, "NEWEST_S_MAX", -1.0)
    done = settle(losing, "stuck", "--older-than", "7200")
    assert (done.exit_code, "every withdrawal has ended" in done.stdout) == (0, False), done.output
    assert "the api database could not be asked" in done.stderr
    assert "requests of the last 7200 s are too many to look behind" in done.stderr


@pytest.mark.parametrize("by_api", [False, True])
def test_a_withdrawal_that_was_paid_without_the_saga_service_is_not_said_to_be_cancelled(
    losing: Front, by_api: bool
):
    """The request was deleted before the saga service read it, so that it has the events of the others alone."""
    losing.stack.stop_service("saga")
    with losing.http(losing.key()) as shop:
        payment_id = requested(shop, losing.open_account())
    told = f"SELECT 1 FROM notifications WHERE payment_id = '{payment_id}' AND status = 'sent'"
    wait_until(lambda: losing.query("notification", told), "it is paid, and the customer is told")
    make_old(losing, payment_id)
    delete_all_records(losing)
    losing.stack.start_service("saga")
    wait_until(
        lambda: "PaymentProcessed" in losing.events(payment_id), "the saga service knows the others' events"
    )
    assert losing.status(payment_id).state == "incomplete"

    done = settle(losing, "cancel", str(payment_id), by_api=by_api)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "settle: not cancelled: already_paid"

    own = {"saga": losing.dsns["saga"]}
    gaps = wait_until(lambda: [one for one in noted_gaps(own) if one.acknowledged_at is None], "it notes the gap")
    acknowledge(own, gaps, "it did not come from a producer")
    assert settle(losing, "republish", "--quiet", "0", "--yes").exit_code == 0
    assert losing.finished(payment_id).state == "completed"
    losing.audit()


@pytest.mark.parametrize("by_api", [False, True])
def test_lost_requests_are_published_in_runs_where_that_is_asked_for_and_cancelled_ones_are_not(
    losing: Front, by_api: bool
):
    account, ids = losing.open_account(), sorted(uuid7() for _ in range(4))
    for payment_id in ids:
        plant(losing, payment_id, account)
    *wanted, cancelled = ids
    settle(losing, "cancel", str(cancelled), "--timeout", "0", by_api=by_api)
    wait_until(lambda: sorted(lost_ones(losing)) == wanted, "the payment service knows of the cancellation")

    program = settle(losing, "republish", "--json", by_api=by_api)
    assert (program.exit_code, program.stdout) == (0, "[]\n")
    assert "3 requests that the API accepted" in program.stderr.splitlines()[0]
    command = ("republish", "--lost-requests", "--limit", "2")
    refused = settle(losing, *command, by_api=by_api)
    assert (refused.exit_code, "to publish 2 events of 2 withdrawals again" in refused.stderr) == (2, True)
    assert lost_ones(losing) != []

    for left, said in ((wanted[2:], "these are 2 of 3 lost requests"), ([], "withdrawal.requests")):
        done = settle(losing, *command, "--yes", by_api=by_api)
        assert (done.exit_code, said in done.stdout) == (0, True), done.output
        wait_until(lambda left=left: lost_ones(losing) == left, "what is published is lost no more")
    assert [losing.finished(payment_id).state for payment_id in wanted] == ["completed"] * 3
    none = settle(losing, *command, "--yes", by_api=by_api)
    assert (none.exit_code, none.stdout.startswith("no request that the API accepted")) == (0, True)
    assert on_topic(losing, cancelled) == 0
    assert settle(losing, "nudge", str(cancelled)).exit_code == 0
    assert losing.finished(cancelled).state == "compensated"
    if by_api:
        why = "action = 'republish' AND reason = 'a test of lost requests'"
        logged = f"SELECT count(DISTINCT request_id) FROM operator_log WHERE {why}"
        assert losing.query("api", logged) == [(2,)]
    losing.audit()


def test_a_request_that_waits_in_the_outbox_is_not_lost(losing: Front):
    losing.stack.stop_service("relay")
    try:
        with losing.http(losing.key()) as shop:
            payment_id = requested(shop, losing.open_account())
        make_old(losing, payment_id)
        assert lost_ones(losing) == []
    finally:
        losing.stack.start_service("relay")
    assert losing.finished(payment_id).state == "completed"


def test_a_request_that_was_refused_is_not_lost(losing: Front):
    """By all, as its payment ID has other contents; and by the saga service, to which no other is known."""
    account = losing.open_account()
    known = losing.client.request(account, "100.00").payment_id
    assert losing.finished(known).state == "completed"
    with losing.http(losing.key()) as shop:
        assert requested(shop, account, "200.00", payment_id=str(known)) == known
    make_old(losing, known)
    losing.find(WITHDRAWAL_REQUESTS.dead_letters, lambda m: str(known).encode() in m.value())

    refused = uuid7()
    plant(losing, refused, account)
    assert lost_ones(losing) == [refused]
    about = {"dlq.topic": REQUESTS, "dlq.partition": "0", "dlq.offset": "0", "dlq.reason": "a test"}
    body = json.dumps({"payment_id": str(refused)}).encode()
    for service, still in (("account", [refused]), ("saga", [])):
        more = {**about, "dlq.service": service, "eventType": "WithdrawalRequested", "id": str(uuid7())}
        losing.send(WITHDRAWAL_REQUESTS.dead_letters, body, account, **more)
        assert lost_ones(losing) == still
