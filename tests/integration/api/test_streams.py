"""Streams over HTTP: to whom they tell what, from where, and how long."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from api.access import ADMIN
from api.credentials import offer_sign_in, revoke_key
from api.streams import EVENT_STREAM
from contracts.events import encode
from producers.api import ApiClient
from producers.requests import new_request
from tests.integration.api.front import WITHDRAWALS, Front, any_authority, requested, streams_that_end

EVENTS = "/v1/events"
NARROWED = "UPDATE api_keys SET scopes = '{withdrawals:request}' WHERE key_id = %s RETURNING 1"


@pytest.fixture
def other(front: Front) -> Iterator[httpx.Client]:
    with front.http(front.key(f"other-{uuid7()}")) as client:
        yield client


def ended(front: Front, client: httpx.Client, account: str, count: int = 1) -> list[str]:
    """New withdrawals of a client, which have ended one after the other."""
    found = [str(requested(client, account)) for _ in range(count)]
    for payment_id in found:
        front.finished(UUID(payment_id))
    return found


@contextmanager
def followed(client: httpx.Client, last: str | None = None) -> Iterator[Iterator[str]]:
    """The lines of a stream of endings."""
    with client.stream("GET", EVENTS, headers={"Last-Event-ID": last} if last else {}) as answer:
        assert answer.status_code == 200
        yield answer.iter_lines()


def until(lines: Iterator[str], payment_id: str) -> list[str]:
    """All lines up to that with a payment's ending."""
    found: list[str] = []
    while not (found and found[-1].startswith("data: ") and payment_id in found[-1]):
        found.append(next(lines))
    return found


def told(lines: list[str]) -> list[str]:
    """The payments of the endings in lines."""
    return [json.loads(line[6:])["payment_id"] for line in lines if line.startswith("data: ")]


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
        browser.get("/v1/sign-in", params={"token": token, "sure": True}, follow_redirects=False)
        with streams_that_end(front, browser):
            out = browser.post("/console/sign-out", headers={"Sec-Fetch-Site": "same-origin"})
            assert out.status_code == 303


def test_a_client_is_sent_nothing_of_anothers_endings_also_not_their_ids(front: Front, shop, other, viewer):
    account = front.open_account()
    with followed(shop) as lines, followed(viewer) as all_lines:
        (others,) = ended(front, other, account)
        until(all_lines, others)
        (own,) = ended(front, shop, account)
        live = until(lines, own)
    assert others not in "\n".join(live)
    assert told(live) == [own]
    begin, *ids = [line for line in live if line.startswith("id: ")]
    assert [one.endswith(own) for one in ids] == [True]

    # What happened meanwhile comes once, from its last event as from where it began.
    later = ended(front, other, account, 2) + ended(front, shop, account)
    for place, wanted in ((ids[-1], later[2:]), (begin, [own, *later[2:]])):
        with followed(shop, place.removeprefix("id: ")) as lines:
            caught_up = until(lines, later[-1])
        assert not [one for one in (others, *later[:2]) if one in "\n".join(caught_up)]
        assert told(caught_up) == wanted
        assert len([line for line in caught_up if line.startswith("id: ")]) == 1 + len(wanted)

    with followed(viewer, begin.removeprefix("id: ")) as lines:
        assert {others, own, *later} <= {*told(until(lines, later[-1]))}


def test_an_event_with_line_breaks_between_its_fields_is_one_message(front: Front, viewer: httpx.Client):
    request = new_request(front.open_account(), "1.00")
    lines = json.dumps(json.loads(encode(request)), indent=2)
    for broken in (lines, lines.replace("\n", "\r\n"), lines.replace("\n", "\r")):
        request = new_request(request.account_id, "1.00")
        body = broken.replace(json.loads(lines)["payment_id"], str(request.payment_id)).encode()
        about = {"id": str(uuid7()), "eventType": "WithdrawalRequested"}
        front.send("withdrawal.requests", body, request.account_id, **about)
        front.finished(request.payment_id)
        key = viewer.headers["Authorization"].split()[1]
        with ApiClient(str(viewer.base_url), key, verify=any_authority()) as api:
            events = [event.type for event in api.events(request.payment_id)]
        assert {"WithdrawalRequested", "WithdrawalCompleted"} <= {*events}


def test_a_stream_says_first_where_it_begins(front: Front, shop, other):
    account = front.open_account()
    with followed(shop) as lines:
        begin = next(lines)
    missed = ended(front, other, account) + ended(front, shop, account)
    with followed(shop, begin.removeprefix("id: ")) as lines:
        assert told(until(lines, missed[1])) == missed[1:]


def test_the_id_of_another_withdrawals_event_is_refused(front: Front, shop, other):
    account = front.open_account()
    own, of_another = ended(front, shop, account) + ended(front, other, account)
    path = f"{WITHDRAWALS}/{own}/events"
    last = shop.get(path).json()["events"][-1]["id"]
    foreign = other.get(f"{WITHDRAWALS}/{of_another}/events").json()["events"][-1]["id"]
    for accept in (EVENT_STREAM, "application/json"):
        for wrong in (foreign, last + 1_000_000, 2**63 - 1):
            by_header = shop.get(path, headers={"Accept": accept, "Last-Event-ID": str(wrong)})
            by_query = shop.get(path, headers={"Accept": accept}, params={"after": wrong})
            for answer in (by_header, by_query):
                assert (answer.status_code, answer.json()["type"]) == (422, "urn:settle:problem:invalid")
    assert shop.get(path, headers={"Accept": EVENT_STREAM, "Last-Event-ID": str(last)}).status_code == 204


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
