"""What people do to a running system over HTTP: who may, what comes of it, and that it is on record."""

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest
from confluent_kafka import Message
from uuid_utils.compat import uuid7

from api.access import ADMIN, OPERATIONS, OPERATOR, ROLES, VIEWER, WITH_OPERATIONS
from api.credentials import REMEMBERED_S
from api.dead_letters import LETTERS_MAX
from api.operators import AT_ONCE
from broker.scan import scan
from operations.dead_letters.letters import read_letters
from tests.conftest import wait_until
from tests.integration.api.front import BUSY_S, WITHDRAWALS, Front, ask

WHY = "because of a test"
IDLE = "the payment service, which does not run"


@pytest.fixture(scope="module")
def people(front: Front):
    clients = {role: front.http(front.key(f"a-{role}", role)) for role in ROLES}
    yield clients
    for client in clients.values():
        client.close()


def log_of(client, request_id):
    entries = client.get("/v1/operator-log").json()["entries"]
    return [one for one in reversed(entries) if one["request_id"] == request_id]


@pytest.mark.parametrize(
    "wrong",
    [{"reason": reason} for reason in (None, "", " \n", "a\0b", "\ud800", "x" * 1_001)]
    + [{"ids": ids} for ids in ([], None, ["a\0b"], ["\ud800"], [1], ["x" * 301])],
    ids=ascii,
)
def test_nothing_is_done_for_what_cannot_be_kept(people, wrong):
    content = json.dumps({"ids": ["nobody"], "reason": WHY, **wrong})
    headers = {"Content-Type": "application/json"}
    refused = people[OPERATOR].post("/v1/dead-letters/discard", content=content, headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:settle:problem:invalid")


def test_a_withdrawal_that_waits_is_listed_and_nudged_and_that_is_on_record(front: Front, people):
    front.stack.stop_service("payment")
    try:
        with front.http(front.key("shop-waits")) as shop:
            payment_id = ask(shop, front.open_account()).json()["payment_id"]
        wait_until(lambda: front.events(UUID(payment_id))[-1:] == ["MoneyDeducted"], "the money is taken")

        def held_up():
            # What does not answer within two seconds is named instead, so each is asked until all have answered.
            found = people[VIEWER].get(f"{WITHDRAWALS}/{payment_id}/waiting").json()
            listed = people[VIEWER].get("/v1/stuck", params={"older_than_s": 0, "limit": 500}).json()
            (stuck,) = [one for one in listed["withdrawals"] if one["payment_id"] == payment_id]
            words = {(one["held_up_by"] or "")[: len(IDLE)] for one in (found, stuck)}
            return words == {IDLE} and found["unasked"] == {}

        wait_until(held_up, "its consumer group is empty")
        nudged = people[OPERATOR].post(f"{WITHDRAWALS}/{payment_id}/nudge", json={"reason": WHY}).json()
        assert [one["event_type"] for one in nudged["republished"]] == ["MoneyDeducted"]
    finally:
        front.stack.start_service("payment")
    assert front.finished(UUID(payment_id)).state == "completed"
    begun, done = log_of(people[VIEWER], nudged["request_id"])
    for entry in (begun, done):
        who = entry["caller"], entry["role"], entry["action"], entry["subject"], entry["reason"]
        assert who == ("a-operator", OPERATOR, "nudge", payment_id, WHY)
    assert (begun["result"], done["result"]) == (None, nudged)

    finished = people[OPERATOR].post(f"{WITHDRAWALS}/{payment_id}/nudge", json={"reason": WHY})
    assert (finished.status_code, finished.json()["type"]) == (409, "urn:settle:problem:finished")
    last = people[VIEWER].get("/v1/operator-log", params={"limit": 1}).json()["entries"][0]
    assert (last["subject"], last["result"]["problem"]) == (payment_id, "finished")
    assert people[VIEWER].get(f"{WITHDRAWALS}/{payment_id}/waiting").json()["waiting_for"] is None


def test_dead_letters_are_listed_shown_redriven_and_discarded_by_a_frozen_list(front: Front, people):
    def a_letter():
        place = front.send("account.events", b"nothing", "acc-1", id=str(uuid7()), eventType="MoneyDeducted")
        return there(f"account.events/{place[0]}@{place[1]}")

    def there(name):
        wait_until(lambda: name in {one.id for one in read_letters(front.bootstrap)}, f"a dead letter {name}")
        return name

    one, other = a_letter(), a_letter()
    found, cursor = [], None
    while True:
        page = people[VIEWER].get(
            "/v1/dead-letters", params={"limit": 1, "cursor": cursor} if cursor else {"limit": 1}
        )
        found += [letter["id"] for letter in page.json()["dead_letters"]]
        if (cursor := page.json()["cursor"]) is None:
            break
    assert len(found) == len(set(found)) == page.json()["total"]
    assert {one, other} <= set(found)
    shown = people[VIEWER].get(f"/v1/dead-letters/{one}").json()
    assert (shown["id"], shown["state"], shown["body"]) == (one, "open", "nothing")
    body = {"ids": [one, "nobody"], "reason": WHY}
    redriven = people[OPERATOR].post("/v1/dead-letters/redrive", json=body).json()
    done, unknown = redriven["results"]
    assert (done["id"], done["error"], unknown["error"]) == (one, None, "there is no such dead letter")
    newer = there(done["place"])
    discarded = people[OPERATOR].post("/v1/dead-letters/discard", json={"ids": [other, newer], "reason": WHY})
    assert [result["error"] for result in discarded.json()["results"]] == [None, None]
    handled = people[VIEWER].get("/v1/dead-letters", params={"state": "handled", "limit": 500}).json()
    states = {letter["id"]: letter["state"] for letter in handled["dead_letters"]}
    assert [states[name] for name in (one, other, newer)] == ["redriven", "discarded", "discarded"]
    assert log_of(people[VIEWER], redriven["request_id"])[1]["result"] == redriven

    claims = {"dlq.topic": "account.events", "dlq.partition": "0", "dlq.offset": "7000000"}
    front.send("account.events.dlq", b"forged", "acc-1", **claims)
    forged = there("account.events/0@7000000")
    asked = {"ids": [forged], "reason": WHY}
    ((refused,), (sent,)) = [
        people[OPERATOR].post("/v1/dead-letters/redrive", json=one).json()["results"]
        for one in (asked, {**asked, "unverified": True})
    ]
    assert refused["error"].startswith("unverified: its original is gone from account.events")
    assert (sent["id"], sent["error"]) == (forged, None)
    logged = people[VIEWER].get("/v1/operator-log", params={"limit": 20}).json()["entries"]
    assert [one["action"] for one in logged if one["subject"] == [forged]][::2] == [
        "redrive dead letters, also unverified",
        "redrive dead letters",
    ]
    people[OPERATOR].post("/v1/dead-letters/discard", json={"ids": [there(sent["place"])], "reason": WHY})

    many = [f"{'x' * 250}{number}" for number in range(LETTERS_MAX)]
    answer = people[OPERATOR].post("/v1/dead-letters/discard", json={"ids": many, "reason": WHY})
    assert {result["error"] for result in answer.json()["results"]} == {"there is no such dead letter"}
    too_many = people[OPERATOR].post("/v1/dead-letters/discard", json={"ids": [*many, "x"], "reason": WHY})
    assert too_many.status_code == 422


def test_outboxes_dead_rows_and_steps_are_shown_and_each_row_has_its_result(front: Front, people):
    outboxes = people[VIEWER].get("/v1/outboxes").json()["outboxes"]
    assert {one["source"] for one in outboxes} == {"account", "payment", "notification", "saga", "api"}
    assert {one["active"] for one in outboxes} == {True}
    columns = "id, type, payload, position, reason"
    front.execute("payment", f"INSERT INTO outbox_dead ({columns}) VALUES ('x', 'T', 'x', '0/1', 'y')")
    (row,) = [one for one in people[VIEWER].get("/v1/outboxes/dead-rows").json()["rows"] if one["id"] == "x"]
    body = {"rows": [{"service": "payment", "number": row["number"]}, {"service": "nobody", "number": 1}]}
    retried = people[OPERATOR].post("/v1/outboxes/dead-rows/retry", json={**body, "reason": WHY}).json()
    assert retried["results"][0]["error"].startswith("row x is not put back")
    discarded = people[OPERATOR].post("/v1/outboxes/dead-rows/discard", json={**body, "reason": WHY}).json()
    assert [one["error"] for one in discarded["results"]] == [None, "there is no service nobody"]
    assert people[VIEWER].get("/v1/outboxes/dead-rows").json()["rows"] == []

    people[VIEWER].get("/v1/steps")
    steps = people[VIEWER].get("/v1/steps").json()
    assert steps["over_s"] > 0
    assert {(one["service"], one["topic"]) for one in steps["steps"]} >= {("saga", "payment.events")}
    busy = people[OPERATOR].post("/v1/outboxes/saga/drop-slot", json={"reason": WHY})
    assert (busy.status_code, busy.json()["type"]) == (422, "urn:settle:problem:invalid")


def test_an_audit_is_started_and_its_result_stays(front: Front, people):
    started = wait_until(
        lambda: (
            (a := people[OPERATOR].post("/v1/audits", json={"reason": WHY, "wait_s": 60})).status_code == 202 and a
        ),
        "no other audit runs",
    )
    place = started.headers["location"]
    assert place == f"/v1/audits/{started.json()['audit_id']}"

    def ended():
        found = people[VIEWER].get(place).json()
        return found if found["state"] != "running" else None

    found = wait_until(ended, "it has ended")
    assert (found["state"], found["started_by"], found["error"]) == ("holds", "a-operator", None)
    assert {check["ok"] for check in found["result"]["checks"]} == {True}
    assert people[VIEWER].get("/v1/audits", params={"limit": 1}).json()["audits"][0] == found


def test_keys_are_created_once_seen_and_revoked_and_no_secret_is_on_record(front: Front, people):
    body = {"caller": "new", "role": "viewer", "scopes": [*WITH_OPERATIONS, OPERATIONS], "reason": WHY}
    made = people[ADMIN].post("/v1/api-keys", json=body).json()
    secret = made["key"].split("_", 2)[2]
    with front.http(made["key"]) as client:
        assert client.get("/v1/steps").status_code == 200
        assert client.get("/v1/accounts").status_code == 200
        revoked = people[ADMIN].post(f"/v1/api-keys/{made['key_id']}/revoke", json={"reason": WHY})
        assert revoked.status_code == 200
        wait_until(lambda: client.get("/v1/steps").status_code == 401, "it is refused", REMEMBERED_S + BUSY_S)
    again = people[ADMIN].post(f"/v1/api-keys/{made['key_id']}/revoke", json={"reason": WHY})
    assert again.status_code == 404
    for text in (people[ADMIN].get("/v1/api-keys").text, people[VIEWER].get("/v1/operator-log").text):
        assert made["key_id"] in text
        assert secret not in text
    for wrong in (
        {"role": "king"},
        {"scopes": ["everything"]},
        {"scopes": [OPERATIONS]},
        {"caller": "a b"},
        {"expires_s": 0},
    ):
        assert people[ADMIN].post("/v1/api-keys", json={**body, **wrong}).status_code == 422


def test_the_log_of_operators_only_grows(front: Front, people):
    people[OPERATOR].post("/v1/dead-letters/discard", json={"ids": ["nobody"], "reason": WHY})
    for change in (
        "UPDATE operator_log SET reason = 'another'",
        "DELETE FROM operator_log",
        "TRUNCATE operator_log",
    ):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            front.execute("api", change)


def test_what_cannot_be_written_down_is_not_done(front: Front, people):
    place = front.send("account.events", b"nothing", "acc-1", id=str(uuid7()), eventType="MoneyDeducted")
    name = f"account.events/{place[0]}@{place[1]}"
    wait_until(lambda: name in {one.id for one in read_letters(front.bootstrap)}, "it is refused")
    front.execute("api", "ALTER TABLE operator_log ADD CONSTRAINT jammed CHECK (caller <> 'a-operator') NOT VALID")
    try:
        jammed = people[OPERATOR].post("/v1/dead-letters/discard", json={"ids": [name], "reason": WHY})
        assert jammed.status_code == 500
    finally:
        front.execute("api", "ALTER TABLE operator_log DROP CONSTRAINT jammed")
    assert people[VIEWER].get(f"/v1/dead-letters/{name}").json()["state"] == "open"
    people[OPERATOR].post("/v1/dead-letters/discard", json={"ids": [name], "reason": WHY})


def test_gaps_are_acknowledged_as_they_were_seen(front: Front, people):
    front.execute("payment", "INSERT INTO gaps (topic, partition, first, until) VALUES ('a.topic', 0, 5, 7)")
    (gap,) = people[VIEWER].get("/v1/gaps").json()["gaps"]
    name = {"service": gap["service"], **gap["gap"]}
    assert name == {"service": "payment", "topic": "a.topic", "partition": 0, "first": 5, "until": 7}
    grown = people[OPERATOR].post("/v1/gaps/acknowledge", json={"gaps": [{**name, "until": 6}], "reason": WHY})
    assert grown.json()["count"] == 0
    done = people[OPERATOR].post("/v1/gaps/acknowledge", json={"gaps": [name], "reason": WHY})
    assert done.json()["count"] == 1
    assert people[VIEWER].get("/v1/gaps").json()["gaps"][0]["note"] == WHY


def paid(front: Front, payment_id: str) -> list[Message]:
    """The records on payment.events of a withdrawal."""
    records = scan(front.bootstrap, ["payment.events"])
    return [record for record in records if payment_id.encode() in (record.value() or b"")]


def test_events_of_a_withdrawal_are_republished(front: Front, people):
    with front.http(front.key("shop-republished")) as shop:
        payment_id = ask(shop, front.open_account()).json()["payment_id"]
    front.finished(UUID(payment_id))
    # What is still in an outbox is not put there again.
    wait_until(
        lambda: front.query("payment", "SELECT count(*) FROM outbox") == [(0,)], "what was published is removed"
    )
    asked = {"payment_ids": [payment_id], "reason": WHY, "every_event": True}
    dry = people[OPERATOR].post("/v1/republish", json={**asked, "dry_run": True}).json()["events"]
    assert [one["event_type"] for one in dry] == front.events(UUID(payment_id))
    assert {(one["original"], one["dead"]) for one in dry} == {(True, False)}
    preview = {"payment_ids": [payment_id], "every_event": True, "quiet_s": 0}
    previewed = people[VIEWER].post("/v1/republish/preview", json=preview).json()["events"]
    assert [one["message_id"] for one in previewed] == [one["message_id"] for one in dry]
    assert {json.loads(one["body"])["payment_id"] for one in previewed} == {payment_id}
    some = {**asked, "dry_run": True, "message_ids": [dry[1]["message_id"], str(uuid7())]}
    assert people[OPERATOR].post("/v1/republish", json=some).json()["events"] == [dry[1]]
    assert people[OPERATOR].post("/v1/republish", json=asked).json()["events"] == dry
    # Others publish as well: what counts is this withdrawal's event.
    wait_until(lambda: len(paid(front, payment_id)) == 2, "it is published again")
    assert people[OPERATOR].post("/v1/republish", json={**asked, "every_event": False}).json()["events"] == []


def test_accounts_are_opened_by_who_may_and_left_as_they_are_if_open(front: Front, people):
    names = [f"acc-{uuid7()}" for _ in range(2)]
    asked = {"account_ids": names[:1], "balance": "12.50", "currency": "USD", "reason": WHY}
    assert people[ADMIN].post("/v1/accounts", json=asked).json()["account_ids"] == names[:1]
    again = people[ADMIN].post("/v1/accounts", json={**asked, "account_ids": names, "balance": "99.00"})
    assert again.json()["account_ids"] == names[1:]
    assert [front.balance(name) for name in names] == [1250, 9900]
    for wrong in ({"balance": "-1"}, {"balance": "1.001"}, {"currency": "XXX"}, {"account_ids": ["a b"]}):
        assert people[ADMIN].post("/v1/accounts", json={**asked, **wrong}).status_code == 422


def test_who_looks_and_waits_for_a_database_keeps_nobody_from_acting(front: Front, people):
    waits = """SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
        AND query LIKE '%outbox_dead%' AND query NOT LIKE '%count(%'"""
    with psycopg.connect(front.dsns["account"]) as locking, ThreadPoolExecutor(AT_ONCE) as threads:
        locking.execute("LOCK TABLE outbox_dead")
        looks = [threads.submit(people[VIEWER].get, "/v1/outboxes/dead-rows") for _ in range(AT_ONCE)]
        wait_until(lambda: front.query("account", waits)[0][0] >= AT_ONCE, "all of them wait")
        body = {"caller": "new", "role": "viewer", "reason": WHY}
        made = people[ADMIN].post("/v1/api-keys", json=body)
        assert made.status_code == 201
        path = f"/v1/api-keys/{made.json()['key_id']}/revoke"
        assert people[ADMIN].post(path, json={"reason": WHY}).status_code == 200
        discarded = people[OPERATOR].post("/v1/dead-letters/discard", json={"ids": ["nobody"], "reason": WHY})
        assert discarded.status_code == 200
        locking.rollback()
        assert {look.result().status_code for look in looks} == {200}
