"""What became of withdrawals, over HTTP: one, lists, events as JSON and as streams, cancelling, accounts."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from api.access import OPERATOR
from api.generate import generate
from api.openapi import FILE
from tests.conftest import wait_until
from tests.integration.api.front import WITHDRAWALS, Front, requested, running_with_api

STREAM = {"Accept": "text/event-stream"}


def messages(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The events of a stream, with their IDs; comments are left out."""
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line and name:
            found[name] = value
        elif not line and found:
            if "data" in found:
                yield found
            found = {}


@contextmanager
def stream(client: httpx.Client, path: str, last: str | None = None) -> Iterator[Iterator[dict[str, str]]]:
    headers = STREAM | ({"Last-Event-ID": last} if last else {})
    with client.stream("GET", path, headers=headers) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        yield messages(answer.iter_lines())


def test_one_is_accepted_and_then_what_the_saga_says(front: Front, shop: httpx.Client):
    account = front.open_account()
    front.stack.stop_service("relay")
    try:
        payment_id = requested(shop, account, "1000.50")
        waits = shop.get(f"{WITHDRAWALS}/{payment_id}").json()
        assert (waits["state"], waits["steps"], waits["finished_by"]) == ("accepted", [], None)
        assert waits["waiting_for"]
        listed = shop.get(WITHDRAWALS).json()["withdrawals"]
        assert [(one["payment_id"], one["state"]) for one in listed] == [(str(payment_id), "accepted")]
    finally:
        front.stack.start_service("relay")
    front.finished(payment_id)
    found = shop.get(f"{WITHDRAWALS}/{payment_id}").json()
    assert (found["state"], found["finished_by"], found["waiting_for"]) == (
        "completed",
        "WithdrawalCompleted",
        None,
    )
    assert (found["account_id"], found["amount"], found["currency"]) == (account, "1000.50", "USD")
    assert next(step["event"] for step in found["steps"]) == "WithdrawalRequested"
    for field in ("payment_id", "trace_id", "requested_at"):
        assert found[field] == waits[field]


def test_what_nobody_publishes_is_in_the_lists_of_operators_and_in_the_flow(
    front: Front, shop: httpx.Client, viewer: httpx.Client
):
    account, other = front.open_account(), front.open_account()
    before = requested(shop, account)
    front.finished(before)

    def listed(limit: int, **query: Any) -> list[tuple[str, str]]:
        found, more = list[tuple[str, str]](), dict[str, Any]()
        while True:
            page = viewer.get(WITHDRAWALS, params={**query, **more, "limit": limit}).json()
            assert len(page["withdrawals"]) <= limit
            found += [(one["payment_id"], one["state"]) for one in page["withdrawals"]]
            if page["cursor"] is None:
                return found
            more = {"cursor": page["cursor"]}

    front.stack.stop_service("relay")
    try:
        waits = [str(requested(shop, account)) for _ in range(3)]
        elsewhere = str(requested(shop, other))
        accepted = [(one, "accepted") for one in reversed(waits)]
        ended = (str(before), "completed")
        wait_until(lambda: listed(10, account_id=account) == [*accepted, ended], "they are on their way no more")
        for limit in (1, 2, 3, 4):
            assert listed(limit, account_id=account) == [*accepted, ended]
        assert listed(2, account_id=account, state="accepted") == accepted
        assert listed(10, account_id=account, state=["accepted", "completed"]) == [*accepted, ended]
        assert listed(10, account_id=account, in_flight=True) == accepted
        assert listed(10, account_id=account, state="completed") == [ended]
        assert listed(10, account_id=account, reason="declined") == []
        wait_until(lambda: (elsewhere, "accepted") in listed(500, state="accepted"), "and neither is the other")

        # What a database does not say within seconds is left out of the flow and of those that are stuck.
        def waiting() -> dict[str, int]:
            flow = viewer.get("/v1/flow").json()
            return {one["state"]: one["open"] for one in flow["open"] or ()}

        wait_until(lambda: waiting().get("accepted", 0) >= 4, "the flow counts them")

        def stuck() -> set[str]:
            found = viewer.get("/v1/stuck", params={"older_than_s": 1}).json()["withdrawals"]
            why = "WithdrawalRequested in the api outbox: "
            held_up = [one for one in found if (one["held_up_by"] or "").startswith(why)]
            return {one["payment_id"] for one in held_up if one["state"] == "accepted"}

        wait_until(lambda: {*waits, elsewhere} <= stuck(), "they are stuck, and why is known")
    finally:
        front.stack.start_service("relay")
    for one in (*waits, elsewhere):
        front.finished(UUID(one))
    assert listed(2, account_id=account) == [*((one, "completed") for one in reversed(waits)), ended]


def test_a_clients_list_is_its_own_newest_first_by_pages(front: Front, shop: httpx.Client):
    account = front.open_account()
    wanted = [requested(shop, account, "1.00" if n % 3 else "1.05") for n in range(7)]
    for payment_id in wanted:
        front.finished(payment_id)
    found, cursor = [], None
    for size in (3, 3, 1):
        params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = shop.get(WITHDRAWALS, params=params).json()
        assert len(page["withdrawals"]) == size
        found += [UUID(one["payment_id"]) for one in page["withdrawals"]]
        cursor = page["cursor"]
    assert (found, cursor) == (wanted[::-1], None)
    declined = shop.get(WITHDRAWALS, params={"state": "compensated"}).json()["withdrawals"]
    assert [UUID(one["payment_id"]) for one in declined] == [wanted[n] for n in (6, 3, 0)]
    assert {one["reason"] for one in declined} == {"declined"}


def test_a_viewers_list_has_all_of_an_account_also_those_that_came_by_kafka(front: Front, shop, viewer):
    account = front.open_account()
    by_api = requested(shop, account)
    front.finished(by_api)
    by_kafka = front.client.request(account, "1.00").payment_id
    front.finished(by_kafka)
    found = viewer.get(WITHDRAWALS, params={"account_id": account}).json()
    assert [UUID(one["payment_id"]) for one in found["withdrawals"]] == [by_kafka, by_api]
    assert viewer.get(f"{WITHDRAWALS}/{by_kafka}").json()["state"] == "completed"
    assert viewer.get(WITHDRAWALS, params={"account_id": account, "in_flight": "true"}).json()["withdrawals"] == []


@pytest.mark.parametrize("params", [{"cursor": "x"}, {"limit": 0}, {"limit": 501}, {"since": "noon"}], ids=str)
def test_what_is_no_filter_is_refused(shop: httpx.Client, viewer: httpx.Client, params):
    for client in (shop, viewer):
        answer = client.get(WITHDRAWALS, params=params)
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:settle:problem:invalid")


def test_a_cursor_belongs_to_its_list_and_filter(front: Front, shop: httpx.Client, viewer: httpx.Client):
    account, other = front.open_account(), front.open_account()
    for _ in range(3):
        front.finished(requested(shop, account))
    with front.http(front.key(f"admin-{uuid7()}", "admin")) as admin:
        for _ in range(2):
            admin.post(f"{WITHDRAWALS}/{uuid7()}/cancel", json={"reason": "nobody's"})
    lists = (
        (shop, WITHDRAWALS, {}, {"state": "completed"}),
        (viewer, WITHDRAWALS, {"account_id": account}, {"account_id": other}),
        (viewer, WITHDRAWALS, {"state": "completed"}, {"state": ["completed", "paid"]}),
        (viewer, "/v1/accounts", {}, {"prefix": "acc"}),
        (viewer, "/v1/accounts", {"order": "id"}, {"order": "name"}),
        (viewer, "/v1/operator-log", {"action": "cancel"}, {"action": "audit"}),
    )
    for client, path, query, another in lists:
        cursor = client.get(path, params={**query, "limit": 1}).json()["cursor"]
        assert client.get(path, params={**query, "limit": 2, "cursor": cursor}).status_code == 200
        for wrong in (another, {**query, "since": "2020-01-01T00:00:00Z"} if path != "/v1/accounts" else another):
            refused = client.get(path, params={**wrong, "limit": 1, "cursor": cursor})
            assert (refused.status_code, refused.json()["type"]) == (422, "urn:settle:problem:invalid")
            assert "another filter" in refused.json()["detail"]
    ledgers = f"/v1/accounts/{account}/ledger", f"/v1/accounts/{other}/ledger"
    cursor = viewer.get(ledgers[0], params={"limit": 1}).json()["cursor"]
    answers = [viewer.get(path, params={"cursor": cursor}).status_code for path in ledgers]
    assert answers == [200, 422]


def test_its_events_are_json_or_a_stream_that_ends_with_it(front: Front, shop: httpx.Client):
    account = front.open_account()
    payment_id = requested(shop, account)
    path = f"{WITHDRAWALS}/{payment_id}/events"
    with stream(shop, path) as events:
        streamed = list(events)
    front.finished(payment_id)
    whole = shop.get(path).json()["events"]
    assert [json.loads(one["data"]) for one in streamed] == whole
    assert [one["event"] for one in streamed] == [one["type"] for one in whole]
    assert whole[-1]["type"] == "WithdrawalCompleted"
    assert whole[0]["payload"]["amount_minor"] == 100
    rest = shop.get(path, params={"after": whole[2]["id"]}).json()["events"]
    assert rest == whole[3:]


def test_who_comes_back_to_a_stream_misses_and_repeats_nothing(front: Front, shop: httpx.Client):
    account = front.open_account()
    payment_id = requested(shop, account)
    path = f"{WITHDRAWALS}/{payment_id}/events"
    found: list[dict[str, str]] = []
    while True:
        last = found[-1]["id"] if found else None
        answer = shop.get(path, headers=STREAM | {"Last-Event-ID": last}) if last else None
        if answer is not None and answer.status_code == 204:
            break
        with stream(shop, path, last) as events:
            found += [event for event, _ in zip(events, range(2), strict=False)]  # and it is cut off
    whole = shop.get(path).json()["events"]
    assert [int(one["id"]) for one in found] == [one["id"] for one in whole]


def test_endings_are_told_once_each_also_across_reconnections(front: Front, viewer: httpx.Client, shop):
    account = front.open_account()
    first = requested(shop, account)
    ready, told = threading.Event(), []
    with stream(viewer, "/v1/events") as events:
        ready.set()
        wanted = {requested(shop, account, amount): state for amount, state in _AMOUNTS}
        told.append(next(one for one in events if _is_ours(one, wanted)))
    for payment_id in wanted:
        front.finished(payment_id)
    front.finished(first)
    while len(told) < len(wanted):
        with stream(viewer, "/v1/events", told[-1]["id"]) as events:
            told += [one for one in (next(events),) if _is_ours(one, wanted)] or [
                next(one for one in events if _is_ours(one, wanted))
            ]
    assert {UUID(json.loads(one["data"])["payment_id"]): one["event"] for one in told} == wanted
    assert len(told) == len(wanted)


def test_a_client_is_told_of_its_own_endings_alone(front: Front, shop: httpx.Client):
    account = front.open_account()
    with front.http(front.key("another-shop")) as other, stream(shop, "/v1/events") as events:
        requested(other, account)
        mine = requested(shop, account)
        assert UUID(json.loads(next(events)["data"])["payment_id"]) == mine


def test_an_empty_id_is_none_at_all(front: Front, viewer: httpx.Client, shop: httpx.Client):
    """Some clients send the header before they have had an event."""
    payment_id = requested(shop, front.open_account())
    front.finished(payment_id)
    for path in ("/v1/events", f"{WITHDRAWALS}/{payment_id}/events"):
        with viewer.stream("GET", path, headers=STREAM | {"Last-Event-ID": ""}) as answer:
            assert answer.status_code == 200


def test_an_id_that_is_none_is_refused(front: Front, viewer: httpx.Client, shop: httpx.Client):
    payment_id = requested(shop, front.open_account())
    for path in ("/v1/events", f"{WITHDRAWALS}/{payment_id}/events"):
        answer = viewer.get(path, headers=STREAM | {"Last-Event-ID": "x"})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:settle:problem:invalid")


def test_a_withdrawal_that_is_not_paid_is_cancelled(tmp_path):
    # Every payment waits for its second attempt.
    waiting = {"SETTLE_PROVIDER_OUTAGE_SHARE": "1", "SETTLE_RETRY_BACKOFF_S": "[3600]"}
    with running_with_api(tmp_path / "data", **waiting) as front, front.http(front.key()) as shop:
        account = front.open_account()
        payment_id = requested(shop, account)
        wait_until(lambda: (found := front.status(payment_id)) and found.state == "deducted", "it is deducted")
        front.stack.stop_service("relay")  # the second is asked for before the first is decided
        try:
            for _ in range(2):
                answer = shop.post(f"{WITHDRAWALS}/{payment_id}/cancel")
                assert (answer.status_code, answer.json()["state"]) == (202, "deducted")
        finally:
            front.stack.start_service("relay")
        status = front.finished(payment_id)
        assert (status.state, status.reason) == ("compensated", "cancelled")
        assert front.balance(account) == 1_000_000
        late = shop.post(f"{WITHDRAWALS}/{payment_id}/cancel")
        assert (late.status_code, late.json()["type"]) == (409, "urn:settle:problem:finished")
        # The customer is told of the refund after the end, and the audit looks for that event too.
        wait_until(lambda: "NotificationSent" in front.events(payment_id), "the customer is told")
        front.audit()


def test_an_operator_cancels_what_others_asked_for_and_a_viewer_does_not(front: Front, shop: httpx.Client, viewer):
    payment_id = requested(shop, front.open_account())
    front.finished(payment_id)
    why = {"json": {"reason": "a test"}}
    with front.http(front.key("operator", OPERATOR)) as operator:
        assert operator.post(f"{WITHDRAWALS}/{payment_id}/cancel", **why).status_code == 409
        assert operator.post(f"{WITHDRAWALS}/{uuid7()}/cancel", **why).status_code == 404
        for without in ({}, {"json": {}}):  # its own a client cancels without a reason
            assert operator.post(f"{WITHDRAWALS}/{payment_id}/cancel", **without).status_code == 422
            assert shop.post(f"{WITHDRAWALS}/{payment_id}/cancel", **without).status_code == 409
        log = operator.get("/v1/operator-log").json()["entries"]
    done = next(one for one in log if one["subject"] == str(payment_id))
    assert (done["action"], done["caller"], done["result"]["problem"]) == ("cancel", "operator", "finished")
    assert viewer.post(f"{WITHDRAWALS}/{payment_id}/cancel").status_code == 403


def test_accounts_their_balances_and_what_they_are_made_of(front: Front, shop: httpx.Client, viewer: httpx.Client):
    account = front.open_account()
    paid, declined = requested(shop, account, "10.00"), requested(shop, account, "1.05")
    for payment_id in (paid, declined):
        front.finished(payment_id)
    found = viewer.get(f"/v1/accounts/{account}").json()
    assert (found["opening_balance"], found["balance"], found["currency"]) == ("10000.00", "9990.00", "USD")
    ledger = viewer.get(f"/v1/accounts/{account}/ledger").json()
    entries = {(UUID(one["payment_id"]), one["kind"]): one["amount"] for one in ledger["entries"]}
    assert entries == {
        (paid, "deduction"): "-10.00",
        (declined, "deduction"): "-1.05",
        (declined, "refund"): "1.05",
    }
    pages, cursor = [], None
    while not pages or cursor:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = viewer.get("/v1/accounts", params=params).json()
        pages += [one["account_id"] for one in page["accounts"]]
        cursor = page["cursor"]
    assert account in pages
    assert pages == sorted(set(pages))
    for path in ("", "/ledger"):
        assert viewer.get(f"/v1/accounts/acc-none{path}").status_code == 404
        assert viewer.get(f"/v1/accounts/acc%00none{path}").status_code == 404


def test_with_the_sagas_database_away_reads_say_so_and_requests_are_still_taken(front: Front, shop: httpx.Client):
    account = front.open_account()
    payment_id = requested(shop, account)
    front.finished(payment_id)
    front.stack.stop_service("postgres-saga")
    try:
        answer = shop.get(f"{WITHDRAWALS}/{payment_id}")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:settle:problem:unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["detail"].startswith("the saga database ")
        later = requested(shop, account)
    finally:
        front.stack.start_service("postgres-saga")
        front.stack.wait_ready("postgres-saga")
    wait_until(lambda: shop.get(f"{WITHDRAWALS}/{payment_id}").status_code == 200, "it is read again")
    front.finished(later)


def test_the_document_is_that_of_the_routes_and_the_page_works_offline(front: Front):
    assert generate() == FILE.read_bytes(), "run: python -m api.generate"
    with front.http() as anybody:
        served = anybody.get("/v1/openapi.json")
        assert (served.content, served.json()["openapi"]) == (FILE.read_bytes(), "3.1.0")
        page = anybody.get("/v1/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "http" not in page.text.replace("https://json-schema", "")
        for path in served.json()["paths"]:
            assert path in page.text


_AMOUNTS = (("1.00", "completed"), ("1.05", "compensated"), ("20000.00", "rejected"))


def _is_ours(one: dict[str, str], wanted: dict[UUID, str]) -> bool:
    return UUID(json.loads(one["data"])["payment_id"]) in wanted
