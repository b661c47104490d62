"""The page of the flow says whether money moves, as the JSON does."""

import pytest

from tests.conftest import wait_until
from tests.integration.api.front import Front, requested
from tests.integration.console.pages import Page, Pages, without

HOME = "/console"


def test_it_says_what_the_json_says(front: Front, shop, viewer: Pages):
    front.finished(requested(shop, front.open_account()))

    def agreed() -> Page | None:
        """The page, once it and the JSON are of moments at which the same is found."""
        page, flow = viewer.get(HOME), viewer.json("/v1/flow")
        if flow["away"] or flow["unasked"]:
            return None
        said = []
        for service in ("account", "payment", "notification", "saga"):
            lag = sum(step["lag"] for step in flow["steps"] if step["service"] == service)
            said.append(f"{service} lag {lag:,}")
        for state in ("requested", "deducted", "paid", "compensating"):
            count = sum(one["open"] for one in flow["open"] if one["state"] == state)
            said.append(f"{state} {count:,}")
        return page if all(words in page.text for words in said) else None

    page = wait_until(agreed, "page and JSON say the same")
    for topic in ("withdrawal.requests", "account.events", "payment.events", "notification.events"):
        assert topic in page.text
    assert page.stream == f"{HOME}/flow/stream"
    assert {"headline", "picture", "figures"} <= page.places


@pytest.mark.parametrize(
    ("service", "state", "words"),
    [("payment", "deducted", "Payment is away: 1 withdrawal waits"), ("relay", None, "The relay is away:")],
)
def test_what_is_away_is_the_headline_and_when_it_is_back_money_moves(
    front: Front, shop, viewer: Pages, service, state, words
):
    wait_until(lambda: "is away" not in viewer.json("/v1/flow")["headline"]["words"], "everything answers")
    with without(front, service):
        payment_id = requested(shop, front.open_account())
        if state is not None:
            wait_until(lambda: (found := front.status(payment_id)) and found.state == state, "it waits there")
        wait_until(lambda: words in viewer.json("/v1/flow")["headline"]["words"], "the headline says so")
        page = wait_until(lambda: found if words in (found := viewer.get(HOME)).text else None, "so does the page")
        assert any(about.get("class") == "headline h-bad" for _, about in page.elements)
    front.finished(payment_id)
    wait_until(lambda: "is away" not in viewer.get(HOME).text, "it is back")


def test_its_stream_has_a_fragment_for_each_place_and_then_what_changes(front: Front, shop, viewer: Pages):
    page = viewer.get(HOME)
    with viewer.stream(page.stream) as fragments:
        first: dict[str, str] = {}
        while page.places - {"trouble"} - first.keys():
            name, text = next(fragments)
            assert Page(text).is_whole
            first[name] = text
        front.finished(requested(shop, front.open_account()))
        assert next(text for name, text in fragments if name == "figures") != first["figures"]


def test_rates_are_of_what_has_ended(front: Front, shop, viewer: Pages):
    viewer.json("/v1/flow")
    account = front.open_account()
    for payment_id in [requested(shop, account) for _ in range(20)]:
        front.finished(payment_id)

    def ended() -> dict:
        return viewer.json("/v1/flow")["endings"] or {}

    found = wait_until(
        lambda: one if (one := ended()).get("per_s", {}).get("completed") else None, "a rate is known"
    )
    assert 0 < found["per_s"]["completed"] <= 20 / 0.5
    assert found["median_ms"] > 0
