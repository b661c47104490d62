"""Dead letters on pages: in groups, by the filters of the JSON, one beside its error, and acted on as chosen."""

import json
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import pytest
from uuid_utils.compat import uuid7

from operations.dead_letters.letters import read_letters
from operations.dead_letters.warning import UNVERIFIED
from tests.conftest import wait_until
from tests.integration.api.front import Front
from tests.integration.console.pages import SAME, Page, Pages

HOME = "/console/dead-letters"
JSON = "/v1/dead-letters"
EVIL = "<script>alert(1)</script>'\"&\u202eסירב"


def refused(front: Front, value: bytes, event_type: str = "MoneyDeducted", topic: str = "account.events") -> str:
    """The ID of a dead letter that is made of this."""
    place = front.send(topic, value, "acc-1", id=str(uuid7()), eventType=event_type)
    name = f"{topic}/{place[0]}@{place[1]}"
    wait_until(lambda: name in {one.id for one in read_letters(front.bootstrap)}, f"a dead letter {name}")
    return name


def shown(page: Page) -> list[str]:
    """The IDs of the letters in their order."""
    links = [link for link in page.links if link.startswith(f"{HOME}/")]
    return [unquote(link.removeprefix(f"{HOME}/")) for link in links]


def picked(page: Page) -> list[str]:
    return [json.loads(about["data-pick"] or "") for _, about in page.elements if "data-pick" in about]


@pytest.fixture(scope="module")
def three(front: Front) -> list[str]:
    names = [refused(front, value) for value in (b"nothing", b"\xff\x00", b'{"a": 1}')]
    both = {"payment", "saga"}

    def by_both() -> bool:
        letters = [one for one in read_letters(front.bootstrap) if one.id in names]
        return all({refusal.service for refusal in one.refusals} == both for one in letters)

    wait_until(by_both, "each service that reads them has refused them")
    return names


def test_it_lists_what_the_json_lists_with_the_same_filter(front: Front, viewer: Pages, three):
    for query in (
        "",
        "state=all",
        "state=handled",
        "topic=account.events&reason=not+JSON",
        "event_type=MoneyDeducted",
        f"id={quote(three[0])}&id={quote(three[2])}",
        f"payment_id={uuid7()}",
    ):
        found = viewer.json(f"{JSON}?{query}")
        page = viewer.get(f"{HOME}?{query}")
        assert shown(page) == [letter["id"] for letter in found["dead_letters"]], query
        (as_json,) = [link for link in page.links if link == JSON or link.startswith(f"{JSON}?")]
        assert viewer.json(as_json) == found
    # A form sends its empty fields along.
    assert shown(viewer.get(f"{HOME}?topic=account.events&reason=&event_type=&payment_id=&id=")) != []
    viewer.get(f"{HOME}?payment_id=x", 422)
    viewer.get(f"{HOME}?id=nobody", 404)
    viewer.get(f"{HOME}?cursor=nothing", 422)


def test_a_group_has_its_count_and_opens_its_letters(front: Front, viewer: Pages, three):
    page = viewer.get(HOME)
    opened = [link for link in page.links if "reason=" in link]
    assert opened
    for link in opened:
        (topic,), (reason,) = (parse_qs(urlsplit(link).query)[name] for name in ("topic", "reason"))
        total = viewer.json(link.replace(HOME, JSON))["total"]
        assert f"{total:,} {reason} {topic}" in " ".join(page.text.split())
        inside = viewer.get(link)
        assert len(shown(inside)) == min(total, 50)
        assert f"{total:,} open of {topic} with “{reason}”" in " ".join(inside.text.split())


def test_pages_follow_each_other_without_gap_or_repeat(front: Front, viewer: Pages):
    for _ in range(52):
        front.send("payment.events", b"many", "acc-1", id=str(uuid7()), eventType="PaymentFailed")
    path = "topic=payment.events&event_type=PaymentFailed"
    wait_until(lambda: viewer.json(f"{JSON}?{path}")["total"] == 52, "they are there")
    wanted = [letter["id"] for letter in viewer.json(f"{JSON}?{path}&limit=500")["dead_letters"]]
    first = viewer.get(f"{HOME}?{path}")
    (older,) = [about["href"] or "" for _, about in first.elements if about.get("rel") == "next"]
    second = viewer.get(older)
    assert shown(first) + shown(second) == wanted
    assert not [about for _, about in second.elements if about.get("rel") == "next"]


def test_one_letter_is_beside_its_error(front: Front, viewer: Pages, three):
    text, binary, members = (viewer.get(f"{HOME}/{name}") for name in three)
    found = viewer.json(f"{JSON}/{three[0]}")
    for said in (three[0].split("/")[0], "MoneyDeducted", "acc-1", found["message_id"]):
        assert said in text.text
    for refusal in found["refusals"]:
        assert refusal["reason"] in text.text
        assert f"refused by {refusal['service']}" in text.text
    assert "|nothing|" in text.text
    assert "00000000 ff 00" in " ".join(binary.text.split())
    assert '"a": 1' in members.text
    viewer.get(f"{HOME}/account.events/9@999999", 404)


def test_what_others_have_written_is_text(front: Front, viewer: Pages):
    body = json.dumps({"payment_id": EVIL, "more": EVIL}).encode()
    place = front.send("account.events", body, EVIL, id=EVIL, eventType="MoneyDeducted", **{EVIL: EVIL})
    name = f"account.events/{place[0]}@{place[1]}"
    wait_until(lambda: name in {one.id for one in read_letters(front.bootstrap)}, "a dead letter")
    for path in (f"{HOME}/{name}", f"{HOME}?{urlencode({'state': 'all', 'id': EVIL})}"):
        page = viewer.get(path)
        assert "\u202e" not in page.text
        assert all(tag != "script" or "src" in about for tag, about in page.elements)
    assert viewer.get(f"{HOME}/{name}").text.count("<script>alert(1)</script>'\"&\\u202e") >= 3


def test_a_payment_id_that_is_not_utf_8_leaves_the_list_and_its_page_as_they_are(front: Front, viewer: Pages):
    name = refused(front, b'{"payment_id": "\xff"}')
    listed = viewer.json(f"{JSON}?id={quote(name)}")["dead_letters"]
    assert [(one["id"], one["payment_id"]) for one in listed] == [(name, None)]
    assert shown(viewer.get(f"{HOME}?id={quote(name)}")) == [name]
    assert name in viewer.get(f"{HOME}/{name}").text


def test_its_withdrawal_is_a_link_where_it_is_one(front: Front, viewer: Pages):
    payment_id = uuid7()
    name = refused(front, json.dumps({"payment_id": str(payment_id)}).encode())
    for path in (f"{HOME}/{name}", f"{HOME}?payment_id={payment_id}"):
        assert f"/console/withdrawals/{payment_id}" in viewer.get(path).links


def test_all_that_match_are_a_frozen_list_the_oldest_first(front: Front, operator: Pages, three):
    page = operator.get(f"{HOME}?topic=account.events&state=all")
    (path,) = {about["data-from"] or "" for _, about in page.elements if "data-from" in about}
    found = operator.json(path)
    listed = operator.json(f"{JSON}?topic=account.events&state=all&limit=500")
    assert found == {"items": [one["id"] for one in listed["dead_letters"]][::-1], "total": listed["total"]}
    assert picked(page) == shown(page)


def test_acting_is_offered_to_who_may_act_and_what_was_handled_is_seen(
    front: Front, viewer: Pages, operator: Pages
):
    name = refused(front, b"to be handled")
    for path in (HOME, f"{HOME}/{name}"):
        page = viewer.get(path)
        assert page.buttons == []
        assert picked(page) == []
        assert {"redrive", "discard"} <= set(operator.get(path).buttons)
    with Pages(front, "operator", by_session=True) as session:
        page = session.get(f"{HOME}/{name}")
        dialogs = {about["data-acts"]: about["data-field"] for _, about in page.elements if "data-acts" in about}
        assert dialogs == {f"{JSON}/redrive": "ids", f"{JSON}/discard": "ids"}
        assert UNVERIFIED in page.text
        assert [about["type"] for _, about in page.elements if about.get("name") == "unverified"] == ["checkbox"]
        answer = session.client.post(f"{JSON}/discard", json={"ids": [name], "reason": EVIL}, headers=SAME)
        assert [one["error"] for one in answer.json()["results"]] == [None]
    page = operator.get(f"{HOME}/{name}")
    assert "discarded" in page.text
    assert "alert(1)" in page.text
    assert "discard" not in page.buttons
    assert name in shown(operator.get(f"{HOME}?state=handled"))
    assert name not in shown(operator.get(HOME))
