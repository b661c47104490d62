"""Streams over HTTP: to whom they tell what, from where, and how long."""

from collections.abc import Callable, Iterator
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from api.access import ADMIN
from api.credentials import offer_sign_in, revoke_key
from api.streams import EVENT_STREAM
from tests.integration.api.front import WITHDRAWALS, Front, ask, streams_that_end

NARROWED = "UPDATE api_keys SET scopes = '{withdrawals:request}' WHERE key_id = %s RETURNING 1"


@pytest.fixture
def shop(front: Front) -> Iterator[httpx.Client]:
    with front.http(front.key(f"shop-{uuid7()}")) as client:
        yield client


def requested(client: httpx.Client, account: str) -> str:
    answer = ask(client, account)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["payment_id"])


def ended(front: Front, client: httpx.Client, account: str, count: int = 1) -> list[str]:
    """New withdrawals of a client, which have ended one after the other."""
    found = [requested(client, account) for _ in range(count)]
    for payment_id in found:
        front.finished(UUID(payment_id))
    return found


def by_revoking(front: Front, key: str) -> object:
    return revoke_key(front.dsns["api"], key.split("_")[1])


def by_narrowing(front: Front, key: str) -> object:
    return front.query("api", NARROWED, key.split("_")[1])


@pytest.mark.parametrize("lose", [by_revoking, by_narrowing])
def test_every_stream_ends_with_the_right_of_a_key(front: Front, lose: Callable[[Front, str], object]):
    key = front.key("leaves", ADMIN)
    with front.http(key) as client, streams_that_end(front, client):
        assert lose(front, key)


def test_every_stream_ends_with_the_session(front: Front):
    with front.http() as browser:
        token = offer_sign_in(front.dsns["api"], "leaves", ADMIN)
        browser.get("/v1/sign-in", params={"token": token}, follow_redirects=False)
        with streams_that_end(front, browser):
            out = browser.post("/console/sign-out", headers={"Sec-Fetch-Site": "same-origin"})
            assert out.status_code == 303


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("Text/Event-Stream", True),
        ("application/json, text/event-stream; q=0.1", True),
        ("text/event-stream;q=0", False),
        ("application/json, TEXT/EVENT-STREAM; charset=utf-8; Q=0.000", False),
        ("text/event-streams", False),
        ("*/*", False),
    ],
)
def test_a_stream_is_for_who_accepts_one(front: Front, shop, accept: str, is_stream: bool):
    (payment_id,) = ended(front, shop, front.open_account())
    answer = shop.get(f"{WITHDRAWALS}/{payment_id}/events", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(EVENT_STREAM if is_stream else "application/json")


def test_two_accept_headers_are_one_list(front: Front, shop):
    (payment_id,) = ended(front, shop, front.open_account())
    both = [("Accept", "application/json"), ("Accept", EVENT_STREAM)]
    answer = shop.get(f"{WITHDRAWALS}/{payment_id}/events", headers=both)
    assert answer.headers["content-type"].startswith(EVENT_STREAM)
