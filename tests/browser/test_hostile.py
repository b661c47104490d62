"""What others have written keeps its place on a page, and who may not act any more is told so in words."""

import json

import pytest
from playwright.sync_api import expect
from uuid_utils.compat import uuid7

from api.access import OPERATOR
from tests.browser.conftest import NARROW, WIDE
from tests.browser.person import HOME, LIST, Person
from tests.conftest import wait_until
from tests.integration.api.front import Front, requested
from tests.integration.console.pages import deducted, without

BEYOND = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
MONEY_DEDUCTED = "MoneyDeducted"


@pytest.fixture
def letter(front: Front) -> str:
    """The path of a dead letter with a header whose name is longer than any screen."""
    key = str(uuid7())
    front.send("account.events", b'{"x": 1}', key, id=key, eventType=MONEY_DEDUCTED, **{"h" * 2_000: "v" * 2_000})
    with front.http(front.key("desk", OPERATOR)) as desk:

        def found() -> str | None:
            listed = desk.get("/v1/dead-letters", params={"id": key}).json().get("dead_letters")
            return listed[0]["id"] if listed else None

        return f"{HOME}/dead-letters/{wait_until(found, 'it is a dead letter')}"


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_long_name_of_a_header_pushes_nothing_out_of_the_page(letter, person, width):
    alice: Person = person(OPERATOR, width)
    alice.open(letter)
    assert alice.page.evaluate(BEYOND) == 0
    topic = alice.page.locator("dd", has_text="account.events").first.bounding_box()
    assert topic["x"] + topic["width"] <= width
    assert topic["height"] < 60


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_long_reason_is_its_beginning_in_a_list(front: Front, shop, person, width):
    payment_id = requested(shop, front.open_account(), "1.05")
    account = front.finished(payment_id).account_id
    alice: Person = person(OPERATOR, width)
    alice.open(f"{LIST}?account_id={account}")
    row = alice.page.locator("tbody tr")
    row.locator(".c-reason bdi").evaluate("(place, text) => { place.textContent = text }", "W" * 1_000)
    assert row.bounding_box()["height"] < 200
    assert alice.page.evaluate(BEYOND) == 0


def test_who_acts_without_a_session_is_told_so_and_keeps_what_was_written(front: Front, shop, letter, person):
    payment_id = requested(shop, front.open_account(), "1.19")
    deducted(front, payment_id)
    alice: Person = person(OPERATOR)
    for path, name in ((f"{LIST}/{payment_id}", "nudge"), (letter, "redrive")):
        alice.open(path)
        cookies = alice.context.cookies()
        alice.context.clear_cookies()
        answer = alice.acts(name, reason="written at length")
        assert "Your session has ended" in answer
        assert "Authorization" not in answer
        expect(alice.page.locator(f"dialog#{name} [name=reason]")).to_have_value("written at length")
        alice.context.add_cookies(cookies)
    alice.allows("status of 401")


def test_what_holds_a_withdrawal_up_leads_to_its_dead_letter(front: Front, shop, person):
    alice: Person = person(OPERATOR)
    with without(front, "payment"):
        payment_id = requested(shop, front.open_account())
        deducted(front, payment_id)
        poison = json.dumps({"payment_id": str(payment_id)}).encode()
        front.send("payment.events", poison, str(payment_id), id=str(uuid7()), eventType="PaymentProcessed")
        alice.open(f"{LIST}/{payment_id}")
        alice.sees("a dead letter: the saga service refused it; its dead letter says why")
        assert "`" not in alice.main.inner_text()
        with alice.page.expect_navigation():
            alice.page.get_by_role("link", name="its dead letter").click()
        expect(alice.main).to_contain_text("PaymentProcessed")
        assert f"payment_id={payment_id}" in alice.path
    front.finished(payment_id)


def test_without_scripts_nothing_is_offered_that_does_nothing(letter, person):
    alice: Person = person(OPERATOR, java_script_enabled=False)
    alice.open(letter)
    alice.sees("Without JavaScript every page can be read")
    expect(alice.page.locator("[data-opens]").first).to_be_hidden()
    alice.open(f"{HOME}/settings")
    expect(alice.page.get_by_role("button", name="Sign out")).to_be_visible()


def test_on_a_phone_the_navigation_shows_where_one_is(person):
    alice: Person = person(OPERATOR, NARROW)
    for page in ("settings", "operator-log", "stuck"):
        alice.open(f"{HOME}/{page}")
        expect(alice.page.locator(".side [aria-current]")).to_be_in_viewport(ratio=1)
