"""The page of the operator log: each action once, with what the JSON says of it, by filters in the URL."""

import re
from datetime import datetime
from html import unescape
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from api.access import ADMIN, CLIENT
from tests.integration.api.front import WITHDRAWALS, Front, requested
from tests.integration.console.pages import Page, Pages

LIST = "/console/operator-log"
JSON = "/v1/operator-log"
EVIL = "<script>alert(1)</script>\u202eהבנק סירב"


@pytest.fixture
def someone(front: Front):
    """Somebody whose actions are nobody else's."""
    with Pages(front, ADMIN) as pages:
        name = f"someone-{uuid7().hex[-8:]}"
        pages.client.headers["Authorization"] = f"Bearer {front.key(name, ADMIN)}"
        yield pages, name


def requests(page: Page) -> list[str]:
    """The request IDs of the actions that are shown, in their order."""
    return re.findall(r'request <span class="mono">([0-9a-f-]{36})</span>', page.html)


def acted(pages: Pages, path: str, body: dict[str, Any]) -> str:
    answer = pages.client.post(path, json={"reason": "a test", **body})
    assert answer.status_code < 500, answer.text
    return answer.json().get("request_id", "")


def test_an_action_is_there_with_who_what_why_when_and_its_result(front: Front, shop, someone):
    pages, name = someone
    payment_id = requested(shop, front.open_account())
    front.finished(payment_id)
    letter = acted(pages, "/v1/dead-letters/discard", {"ids": ["account.events/0@7000001"], "reason": EVIL})
    acted(pages, f"{WITHDRAWALS}/{payment_id}/nudge", {})
    key = pages.client.post("/v1/api-keys", json={"caller": "x", "role": "client", "reason": "a test"}).json()
    page = pages.get(f"{LIST}?caller={name}")
    entries = pages.json(f"{JSON}?caller={name}")["entries"]
    assert requests(page) == list(dict.fromkeys(entry["request_id"] for entry in entries))
    for entry in entries[1::2]:
        at = datetime.fromisoformat(entry["at"])
        assert f"{at:%Y-%m-%d %H:%M:%S} {name} admin {entry['action']}" in page.text
    assert letter in requests(page)
    assert f"refused: withdrawal {payment_id} is finished" in page.text
    links = set(page.links)
    assert {f"/console/withdrawals/{payment_id}", "/console/settings"} <= links
    assert "/console/dead-letters/account.events/0%407000001" in links
    assert key["key_id"] in page.text
    assert key["key"] not in page.html
    assert "<script>alert" not in page.html
    assert "\u202e" not in page.html
    assert "הבנק סירב" in page.text


def test_opened_accounts_and_audits_lead_to_their_pages(front: Front, someone):
    pages, name = someone
    audit = pages.client.post("/v1/audits", json={"reason": "a test", "wait_s": 0}).json()
    names = [f"opened-{number}-{name}" for number in range(15)]
    acted(pages, "/v1/accounts", {"account_ids": names, "balance": "1.00", "currency": "USD"})
    page = pages.get(f"{LIST}?caller={name}")
    for link in (f"/console/audit/{audit['audit_id']}", *(f"/console/accounts/{one}" for one in names[:10])):
        assert page.links.count(link) == 1
        pages.get(link)
    assert "and 5 more" in page.text
    assert names[-1] in page.text  # in the JSON of what it was done to


def test_each_action_is_on_one_page_whole_and_one_without_a_result_says_so(front: Front, someone):
    pages, name = someone
    half = uuid7()
    for number in range(130):
        if number == 65:
            write = """INSERT INTO operator_log (request_id, caller, role, action, subject, reason)
                VALUES (%s, %s, 'admin', 'nudge', '"nobody"', 'its process died')"""
            front.query("api", f"{write} RETURNING 1", half, name)
        pages.client.post(f"{WITHDRAWALS}/{uuid7()}/nudge", json={"reason": f"number {number}"})
    rows = front.query("api", "SELECT count(*) FROM operator_log WHERE caller = %s", name)[0][0]
    assert rows == 261
    found, path = list[str](), f"{LIST}?caller={name}"
    texts = []
    while path:
        page = pages.get(path)
        found += requests(page)
        texts.append(page.text)
        path = next((about["href"] or "" for _, about in page.elements if about.get("rel") == "next"), "")
    assert len(found) == len(set(found)) == 131
    assert len(texts) == 3
    said = " ".join(texts)
    assert said.count("refused") == 130
    assert said.count("no result: it is under way, or its process died meanwhile") == 1
    assert str(half) in found


def test_filters_are_those_of_the_json_and_in_the_url(front: Front, someone):
    pages, name = someone
    nobody = uuid7()
    acted(pages, f"{WITHDRAWALS}/{nobody}/nudge", {})
    middle = pages.json(f"{JSON}?caller={name}&limit=1")["entries"][0]
    acted(pages, "/v1/dead-letters/discard", {"ids": ["nobody"]})
    newest = pages.json(f"{JSON}?caller={name}&limit=1")["entries"][0]["request_id"]
    for query, wanted in (
        (f"caller={name}", [newest, middle["request_id"]]),
        (f"caller={name}&action=nudge&since=", [middle["request_id"]]),
        (f"request_id={newest}", [newest]),
        (f"caller={name}&since=2020-01-01T00:00", [newest, middle["request_id"]]),
        (f"caller={name}&until=2020-01-01T00:00", []),
        (f"caller={name}&action=none", []),
    ):
        page = pages.get(f"{LIST}?{query}")
        assert requests(page) == wanted, query
        (as_json,) = [link for link in page.links if link.startswith(JSON)]
        rows = pages.json(as_json)["entries"]
        assert list(dict.fromkeys(row["request_id"] for row in rows)) == wanted
    # A time between the two rows of an action cuts it in the JSON; the page has it whole.
    (first, _) = reversed(pages.json(f"{JSON}?request_id={middle['request_id']}")["entries"])
    until = unescape(middle["at"]).replace("+", "%2B")
    assert len(pages.json(f"{JSON}?request_id={middle['request_id']}&until={until}")["entries"]) == 1
    page = pages.get(f"{LIST}?request_id={middle['request_id']}&until={until}")
    assert requests(page) == [first["request_id"]]
    assert "refused" in page.text
    assert "Nothing matches" in pages.get(f"{LIST}?action=none").text
    assert f"{LIST}?caller={name}" in page.links


def test_a_result_comes_in_its_place_and_newer_actions_wait_behind_a_bar(front: Front, someone):
    pages, name = someone
    front.query("api", _BEGUN, uuid7(), name)
    page = pages.get(f"{LIST}?caller={name}")
    (begun,) = requests(page)
    assert f"result-{begun}" in page.places
    with pages.stream(page.stream) as fragments:
        front.query("api", _ENDED, begun, name)
        acted(pages, f"{WITHDRAWALS}/{uuid7()}/nudge", {})
        found: dict[str, str] = {}
        while "done" not in found.get(f"result-{begun}", "") or "show it" not in found.get("newer", ""):
            named, text = next(fragments)
            found[named] = text
    assert Page(found["newer"]).text == "1 newer: show it"


_BEGUN = """
INSERT INTO operator_log (request_id, caller, role, action, subject, reason)
VALUES (%s, %s, 'admin', 'audit', '{}', 'a test') RETURNING 1
"""
_ENDED = """
INSERT INTO operator_log (request_id, caller, role, action, subject, reason, result)
VALUES (%s, %s, 'admin', 'audit', '{}', 'a test', '{}') RETURNING 1
"""


@pytest.mark.parametrize("query", ["request_id=x", "since=noon", "cursor=0", "cursor=x"])
def test_what_is_no_filter_is_an_error_in_words(viewer: Pages, query):
    viewer.get(f"{LIST}?{query}", 422)


@pytest.mark.parametrize("query", ["newest=0&caller=%00", "newest=-1", "open=x", "newest=0&since=noon"])
def test_a_stream_of_what_is_no_filter_is_refused(viewer: Pages, query):
    assert viewer.status(f"{LIST}/stream?{query}") == 422


def test_a_viewer_sees_it_and_a_client_does_not(front: Front, viewer: Pages, operator: Pages):
    assert LIST in viewer.get(LIST).links
    assert operator.client.get(LIST).status_code == 200
    with Pages(front, CLIENT) as client:
        client.get(LIST, 403)
