"""A withdrawal that is asked for over HTTP: once, whatever is repeated, and whatever is away."""

import asyncio
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
import psycopg
import pytest
from uuid_utils.compat import uuid7

from broker.scan import scan
from contracts.events import WithdrawalRequested, request_id
from operations.trace_check import hops_of, what_is_missing
from tests.conftest import WAIT_S, wait_until
from tests.integration.api.front import WITHDRAWALS, Front, ask, body, new_key

MANY = 200


def test_it_is_accepted_and_carried_out_and_the_same_event_as_a_producers(front: Front):
    account = front.open_account()
    with front.http(front.key()) as client:
        answer = ask(client, account, "100.00")
    found = answer.json()
    payment_id = UUID(found["payment_id"])
    assert (answer.status_code, answer.headers["location"]) == (202, f"{WITHDRAWALS}/{payment_id}")
    assert answer.headers["content-type"] == "application/json"
    assert (found["amount"], found["currency"], found["state"]) == ("100.00", "USD", "accepted")

    status = front.finished(payment_id)

    assert (status.state, status.trace_id) == ("completed", found["trace_id"])
    assert front.balance(account) == 990_000
    message = front.find("withdrawal.requests", lambda m: m.key() == account.encode())
    event = json.loads(message.value())
    headers = dict(message.headers())
    assert headers["eventType"] == b"WithdrawalRequested"
    assert event == {
        "payment_id": str(payment_id),
        "account_id": account,
        "amount_minor": 10_000,
        "currency": "USD",
        "occurred_at": found["requested_at"],
    }


def test_a_repeat_has_the_same_answer_and_no_effect(front: Front):
    account, key = front.open_account(), new_key()
    with front.http(front.key()) as client:
        first, again = (ask(client, account, "10.00", key=key) for _ in range(2))
        differently = client.post(
            WITHDRAWALS,
            content=json.dumps(body(account, "10"), indent=1),
            headers={"Idempotency-Key": f'"{key}"', "Content-Type": "application/json; charset=utf-8"},
        )
    for answer in (again, differently):
        assert (answer.status_code, answer.content) == (202, first.content)
        assert answer.headers["idempotent-replayed"] == "true"
        assert answer.headers["location"] == first.headers["location"]
    assert "idempotent-replayed" not in first.headers
    front.finished(UUID(first.json()["payment_id"]))
    assert front.balance(account) == 999_000
    assert front.query("api", "SELECT count(*) FROM withdrawals WHERE account_id = %s", account) == [(1,)]
    # What is asked for after it follows it in the outbox.
    with front.http(front.key()) as client:
        front.finished(UUID(ask(client, account).json()["payment_id"]))
    records = [one for one in scan(front.bootstrap, ["withdrawal.requests"]) if one.key() == account.encode()]
    assert len(records) == 2


def test_many_at_once_with_one_key_make_one_withdrawal(front: Front):
    account, key, token = front.open_account(), new_key(), front.key()

    async def at_once() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=MANY)
        async with httpx.AsyncClient(base_url=front.stack.state.api_url, limits=limits, timeout=WAIT_S) as client:
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
            one = (client.post(WITHDRAWALS, json=body(account, "1.00"), headers=headers) for _ in range(MANY))
            return await asyncio.gather(*one)

    answers = asyncio.run(at_once())

    by_status = Counter(answer.status_code for answer in answers)
    assert set(by_status) <= {202, 409}
    assert by_status[202] >= 1
    assert len({answer.content for answer in answers if answer.status_code == 202}) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["type"] == "urn:settle:problem:still-running"
            assert int(answer.headers["retry-after"]) > 0
    made = [one for one in answers if one.status_code == 202 and "idempotent-replayed" not in one.headers]
    assert len(made) == 1
    assert front.query("api", "SELECT count(*) FROM withdrawals WHERE account_id = %s", account) == [(1,)]
    front.finished(UUID(made[0].json()["payment_id"]))
    assert front.balance(account) == 999_900


def test_a_key_with_another_body_is_refused_and_a_stranger_has_keys_of_its_own(front: Front):
    account, key = front.open_account(), new_key()
    with front.http(front.key("shop")) as shop, front.http(front.key("bakery")) as bakery:
        first = ask(shop, account, "1.00", key=key)
        reused = ask(shop, account, "2.00", key=key)
        other = ask(bakery, account, "2.00", key=key)
    assert (first.status_code, other.status_code) == (202, 202)
    assert (reused.status_code, reused.json()["type"]) == (422, "urn:settle:problem:key-reused")
    assert first.json()["payment_id"] != other.json()["payment_id"]


def test_another_key_of_the_same_caller_has_the_same_idempotency_keys(front: Front):
    account, key = front.open_account(), new_key()
    with front.http(front.key("shop")) as old, front.http(front.key("shop")) as new:
        assert ask(old, account, key=key).content == ask(new, account, key=key).content


def test_a_payment_id_is_one_withdrawals(front: Front):
    account, payment_id = front.open_account(), str(uuid7())
    with front.http(front.key("shop")) as shop, front.http(front.key("bakery")) as bakery:
        first = ask(shop, account, payment_id=payment_id)
        same = ask(shop, account, payment_id=payment_id)
        other = ask(shop, account, "2.00", payment_id=payment_id)
        stranger = ask(bakery, account, payment_id=payment_id)
    assert (first.status_code, first.json()["payment_id"]) == (202, payment_id)
    assert (same.status_code, same.content) == (202, first.content)
    assert same.headers["idempotent-replayed"] == "true"
    for refused in (other, stranger):
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:settle:problem:payment-id-taken")
    assert front.stored(UUID(payment_id)) == 1


def test_what_was_refused_may_be_corrected_with_the_same_key(front: Front):
    account, key = front.open_account(), new_key()
    with front.http(front.key()) as client:
        assert ask(client, account, "no number", key=key).status_code == 422
        assert ask(client, account, "1.00", key=key).status_code == 202


def test_two_instances_make_one_withdrawal_of_one_key(front: Front):
    account, key, token = front.open_account(), new_key(), front.key()
    second = front.stack.start_second("api")
    try:
        front.stack.wait_ready(second)
        (other,) = (part.address for part in front.stack.statuses() if part.name == second)

        async def at_once() -> list[httpx.Response]:
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(headers=headers, timeout=WAIT_S) as client:
                posts = (
                    client.post(
                        f"{(front.stack.state.api_url, other)[n % 2]}{WITHDRAWALS}",
                        json=body(account, "1.00"),
                        headers={"Idempotency-Key": f"{key}-{n // 20}"},
                    )
                    for n in range(MANY)
                )
                return await asyncio.gather(*posts)

        answers = asyncio.run(at_once())
    finally:
        front.stack.stop_service(second)
    assert {answer.status_code for answer in answers} <= {202, 409}
    for n in range(MANY // 20):
        same = [answer for answer in answers[n * 20 : n * 20 + 20] if answer.status_code == 202]
        assert len({answer.content for answer in same}) == 1
        assert len([answer for answer in same if "idempotent-replayed" not in answer.headers]) == 1
    count = front.query("api", "SELECT count(*) FROM withdrawals WHERE account_id = %s", account)[0][0]
    assert count == MANY // 20
    wait_until(lambda: front.balance(account) == 1_000_000 - 100 * count, "each is paid once")


def test_a_key_in_somebody_elses_transaction_is_still_running_and_no_other_request_waits_for_it(front: Front):
    account, key, token = front.open_account(), new_key(), front.key("shop")
    with psycopg.connect(front.dsns["api"]) as other:
        other.execute(
            "INSERT INTO withdrawals SELECT gen_random_uuid(), 'shop', %s, false, 'a', 1, 'USD', now(), ''", (key,)
        )
        with front.http(token) as client:
            with ThreadPoolExecutor(8) as pool:
                keys = [key, *(new_key() for _ in range(7))]
                answers = list(pool.map(lambda one: ask(client, account, key=one), keys))
            assert [answer.status_code for answer in answers] == [409, *[202] * 7]
            assert answers[0].json()["type"] == "urn:settle:problem:still-running"
            other.rollback()
            assert ask(client, account, key=key).status_code == 202


@pytest.mark.parametrize("place", ["api.batch-taken", "api.committed"])
def test_a_death_under_a_request_and_the_same_request_again_make_one_withdrawal(front: Front, place: str):
    account, key, token = front.open_account(), new_key(), front.key()
    front.restart(place)
    with front.http(token) as client, pytest.raises(httpx.TransportError):
        ask(client, account, "10.00", key=key)
    assert f"failpoint {place} reached" in (front.stack.data / "logs" / "api.log").read_text()
    front.answers()
    with front.http(token) as client:
        again = ask(client, account, "10.00", key=key)
        once_more = ask(client, account, "10.00", key=key)

    assert (again.status_code, once_more.content) == (202, again.content)
    was_stored = place == "api.committed"
    assert again.headers.get("idempotent-replayed") == ("true" if was_stored else None)
    assert front.query("api", "SELECT count(*) FROM withdrawals WHERE account_id = %s", account) == [(1,)]
    front.finished(UUID(again.json()["payment_id"]))
    assert front.balance(account) == 999_000
    front.audit()


def test_with_kafka_away_it_is_accepted_and_done_later(front: Front):
    account = front.open_account()
    front.stack.stop_service("kafka")
    try:
        with front.http(front.key()) as client:
            answer = ask(client, account, "10.00")
        assert answer.status_code == 202
        assert front.balance(account) == 1_000_000
    finally:
        front.stack.start_service("kafka")
        front.stack.wait_ready("kafka")
    assert front.finished(UUID(answer.json()["payment_id"])).state == "completed"
    assert front.balance(account) == 999_000


def test_with_its_database_away_it_says_when_to_come_again_and_the_same_request_is_accepted_then(front: Front):
    account, key = front.open_account(), new_key()
    with front.http(front.key()) as client:
        assert ask(client, account).status_code == 202  # the credentials are known
        front.stack.stop_service("postgres-api")
        try:
            away = ask(client, account, "10.00", key=key)
        finally:
            front.stack.start_service("postgres-api")
            front.stack.wait_ready("postgres-api")
        assert (away.status_code, away.json()["type"]) == (503, "urn:settle:problem:unavailable")
        assert int(away.headers["retry-after"]) > 0
        answer = wait_until(lambda: (found := ask(client, account, "10.00", key=key)).is_success and found, "202")
    assert front.finished(UUID(answer.json()["payment_id"])).state == "completed"


def test_its_trace_is_whole_and_continues_the_callers(front: Front):
    account, trace_id, caller = front.open_account(), uuid7().hex, "00f067aa0ba902b7"
    for amount, state in (("1.00", "completed"), ("20000.00", "rejected"), ("1.05", "compensated")):
        with front.http(front.key()) as client:
            own = ask(client, account, amount).json()
            client.headers["traceparent"] = f"00-{trace_id}-{caller}-01"
            continued = ask(client, account, amount).json() if state == "completed" else None
        for found in filter(None, (own, continued)):
            status = front.finished(UUID(found["payment_id"]))
            assert (status.state, status.trace_id) == (state, found["trace_id"])

            def whole(found=found, status=status):
                spans = front.collector.trace(found["trace_id"])
                return what_is_missing(spans, status.state, status.reason) is None and spans

            spans = wait_until(whole, "the whole trace")
            assert hops_of(spans)["api", "POST /v1/withdrawals", None] == 1
    assert continued is None
    (root,) = [span for span in front.collector.trace(trace_id) if span.name == "withdraw-money"]
    assert root.parent_id == caller


def test_a_repeat_adds_nothing_to_any_trace(front: Front):
    account, key = front.open_account(), new_key()
    with front.http(front.key()) as client:
        first = ask(client, account, key=key).json()
        status = front.finished(UUID(first["payment_id"]))
        trace_id = uuid7().hex
        client.headers["traceparent"] = f"00-{trace_id}-00f067aa0ba902b7-01"
        assert ask(client, account, key=key).json() == first
        later = ask(client, account).json()
    assert later["trace_id"] == trace_id
    # Spans are sent in order: those of the repeat would be there before these.
    roots = lambda: [span for span in front.collector.trace(trace_id) if span.name == "withdraw-money"]  # noqa: E731
    assert len(wait_until(roots, "the spans of a later request")) == 1
    of_first = lambda: what_is_missing(front.collector.trace(first["trace_id"]), status.state, status.reason)  # noqa: E731
    wait_until(lambda: of_first() is None, "the whole trace")


def test_the_message_id_is_that_of_a_producer_with_the_same_request(front: Front):
    account, payment_id = front.open_account(), uuid7()
    with front.http(front.key()) as client:
        ask(client, account, "7.00", payment_id=str(payment_id))
    front.finished(payment_id)
    message = front.find("withdrawal.requests", lambda m: m.key() == account.encode())
    producers = WithdrawalRequested(
        payment_id=payment_id, account_id=account, amount_minor=700, currency="USD", occurred_at=None
    )
    assert dict(message.headers())["id"].decode() == request_id(producers)
    front.client.request(account, "7.00", payment_id=payment_id)
    front.audit()
    assert front.balance(account) == 999_300
