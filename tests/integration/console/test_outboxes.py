"""The page of outboxes says where each stands, as the JSON does, and offers what can be done to who may."""

import json
from collections.abc import Iterator

import pytest

from contracts.services import NAMES
from tests.conftest import wait_until
from tests.integration.api.front import Front
from tests.integration.console.pages import SAME, Page, Pages, without

HOME = "/console/outboxes"
EVIL = "<b>too large</b>\u202e"
DEAD = f"INSERT INTO outbox_dead (id, type, payload, position, reason) VALUES ('x', 'T', 'x', '0/1', '{EVIL}')"


def words(page: Page) -> str:
    return " ".join(page.text.split())


@pytest.fixture
def row(front: Front) -> Iterator[int]:
    """The number of a dead row of the payment service's outbox."""
    front.execute("payment", DEAD)
    ((number,),) = front.query("payment", "SELECT max(number) FROM outbox_dead")
    yield number
    front.execute("payment", "DELETE FROM outbox_dead")


def test_it_says_what_the_json_says(front: Front, viewer: Pages):
    page = wait_until(
        lambda: one if words(one := viewer.get(HOME)).count("as it should be") == len(NAMES) else None,
        "all are well",
    )
    found = viewer.json("/v1/outboxes")["outboxes"]
    for outbox in found:
        assert outbox["slot"] in page.text
        assert f"outbox-{outbox['source']}" in page.places
    for step in viewer.json("/v1/steps")["steps"]:
        assert f"{step['service']} {step['topic']}" in words(page)
    assert {"/v1/outboxes", "/v1/outboxes/dead-rows", "/v1/steps"} <= set(page.links)
    with viewer.stream(page.stream) as fragments:
        missing = {"steps", *(f"outbox-{name}" for name in NAMES)}
        while missing:
            missing.discard(next(fragments)[0])


def test_without_a_relay_it_says_so_live_and_its_slots_may_be_dropped(
    front: Front, viewer: Pages, operator: Pages
):
    page = viewer.get(HOME)
    with viewer.stream(page.stream) as fragments, without(front, "relay"):
        said = (text for name, text in fragments if name == "outbox-saga")
        while "no relay reads it" not in next(said):
            pass
        assert "Slots that nobody reads" not in viewer.get(HOME).text
        offered = {f"drop-{name}" for name in NAMES}
        wait_until(lambda: offered <= set(operator.get(HOME).buttons), "all slots are offered")
        with Pages(front, "operator", by_session=True) as session:
            (path,) = [
                about["data-call"] or ""
                for _, about in session.get(HOME).elements
                if "/notification/" in (about.get("data-call") or "")
            ]
            answer = session.client.post(path, json={"reason": "it does not come back"}, headers=SAME)
            assert answer.json()["slot"] in page.text
        assert "no slot" in words(viewer.get(HOME))
        assert "drop-notification" not in operator.get(HOME).buttons
    wait_until(lambda: words(viewer.get(HOME)).count("as it should be") == len(NAMES), "all are read again")
    assert not offered & set(operator.get(HOME).buttons)


def test_a_database_that_is_away_hides_no_other_outbox(front: Front, viewer: Pages):
    with without(front, "postgres-payment"):
        page = wait_until(
            lambda: found if words(found := viewer.get(HOME)).count("could not be asked") == 2 else None,
            "it is away, for its outbox and its dead rows",
        )
        assert "The payment database could not be asked" in words(page)
        assert "settle_outbox_account" in page.text
    wait_until(lambda: words(viewer.get(HOME)).count("as it should be") == len(NAMES), "all answer again")


def test_dead_rows_are_text_and_acted_on_as_chosen(front: Front, viewer: Pages, operator: Pages, row: int):
    page = viewer.get(HOME)
    assert "<b>too large</b>\\u202e" in page.text
    assert "1 dead row needs a person" in words(page)
    assert page.buttons == []
    with Pages(front, "operator", by_session=True) as session:
        elements = [about for _, about in session.get(HOME).elements]
        picks = [json.loads(about["data-pick"] or "") for about in elements if "data-pick" in about]
        assert picks == [{"service": "payment", "number": row}]
        acts = {about["data-acts"]: about["data-field"] for about in elements if "data-acts" in about}
        assert acts == {f"/v1/outboxes/dead-rows/{name}": "rows" for name in ("retry", "discard")}
        body = {"rows": picks, "reason": "nobody needs it"}
        answer = session.client.post("/v1/outboxes/dead-rows/discard", json=body, headers=SAME)
        assert [one["error"] for one in answer.json()["results"]] == [None]
    assert "There is none" in words(viewer.get(HOME))
