"""Withdrawals without progress: what the JSON lists, with what holds each up, live, and a nudge for who may."""

import json

import pytest

from tests.conftest import wait_until
from tests.integration.api.front import WITHDRAWALS, Front, requested
from tests.integration.console.pages import SAME, Page, Pages, deducted, without

HOME = "/console/stuck"
SOON = f"{HOME}?older_than_s=0.1"


def shown(page: Page) -> list[str]:
    links = [link for link in page.links if link.startswith("/console/withdrawals/")]
    return list(dict.fromkeys(link.rpartition("/")[2] for link in links))


def test_it_lists_what_the_json_lists_and_what_has_moved_says_so(front: Front, shop, viewer: Pages):
    with without(front, "payment") as start:
        account = front.open_account()
        payment_ids = [requested(shop, account, amount) for amount in ("1.00", "2.00")]
        for payment_id in payment_ids:
            deducted(front, payment_id)
        held_up = "the payment service, which does not run"
        wait_until(lambda: viewer.get(SOON).text.count(held_up) >= 2, "both are stuck")
        page = viewer.get(SOON)
        (as_json,) = [link for link in page.links if link.startswith("/v1/stuck")]
        listed = viewer.json(as_json)
        assert shown(page) == [one["payment_id"] for one in listed["withdrawals"]]
        for one in listed["withdrawals"]:
            assert " ".join(f"Held up by {one['held_up_by']}".split()) in " ".join(page.text.split())
        assert "Payment does not run" in page.text
        assert listed["idle"] == ["payment"]
        assert {f"{name}-{payment_ids[0]}" for name in ("state", "waits", "silent")} <= page.places
        with viewer.stream(page.stream) as fragments:
            places = {f"waits-{payment_id}" for payment_id in payment_ids}
            first = {name: text for name, text in (next(fragments) for _ in range(9)) if name in places}
            assert all("Held up by" in text for text in first.values())
            start()
            moved = set()
            while moved != places:
                name, text = next(fragments)
                if name in places and "It has moved" in text:
                    moved.add(name)
    for payment_id in payment_ids:
        front.finished(payment_id)
    wait_until(lambda: "No withdrawal is stuck" in viewer.get(HOME).text, "none is stuck")


def test_others_that_are_stuck_wait_behind_a_bar(front: Front, shop, viewer: Pages):
    with without(front, "payment"):
        payment_ids = [requested(shop, front.open_account())]
        deducted(front, payment_ids[0])
        wait_until(lambda: shown(viewer.get(SOON)) == [str(payment_ids[0])], "one is stuck")
        page = viewer.get(SOON)
        with viewer.stream(page.stream) as fragments:
            bars = (text for name, text in fragments if name == "newer")
            assert next(bars) == ""
            payment_ids.append(requested(shop, front.open_account()))
            deducted(front, payment_ids[1])
            assert "1 more is stuck: show it" in " ".join(Page(next(bars)).text.split())
    for payment_id in payment_ids:
        front.finished(payment_id)


def test_a_nudge_is_offered_to_who_may_for_one_and_for_those_ticked(front: Front, shop, viewer: Pages):
    with without(front, "payment"):
        payment_id = requested(shop, front.open_account())
        deducted(front, payment_id)
        wait_until(lambda: str(payment_id) in shown(viewer.get(SOON)), "it is stuck")
        assert viewer.get(SOON).buttons == []
        with Pages(front, "operator", by_session=True) as session:
            page = session.get(SOON)
            elements = [about for _, about in page.elements]
            assert str(payment_id) in [
                json.loads(about["data-pick"] or "") for about in elements if "data-pick" in about
            ]
            assert str(payment_id) in [
                json.loads(about["data-item"] or "") for about in elements if "data-item" in about
            ]
            (path,) = [about["data-acts"] or "" for about in elements if "data-acts" in about]
            answer = session.client.post(
                path.replace("{}", str(payment_id)), json={"reason": "it waits"}, headers=SAME
            )
            assert path.startswith(WITHDRAWALS)
            assert [one["event_type"] for one in answer.json()["republished"]] == ["MoneyDeducted"]
    front.finished(payment_id)


@pytest.mark.parametrize(
    "query", ["older_than_s=x", "older_than_s=-1", "older_than_s=nan", "limit=0", "limit=301"]
)
def test_what_is_no_filter_is_refused(viewer: Pages, query):
    viewer.get(f"{HOME}?{query}", 422)
    viewer.get(f"{HOME}/stream?{query}", 422)
