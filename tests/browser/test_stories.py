"""What people do in the console, in a real browser: signing in, watching, acting, searching, filtering."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Route, expect
from typer.testing import CliRunner

from api.access import ADMIN, OPERATOR, VIEWER
from cli.main import app
from tests.browser.person import HOME, LIST, Person
from tests.integration.api.front import WITHDRAWALS, Front, requested
from tests.integration.console.pages import deducted, without

PENDING = "1.19"
"""An amount that the provider does not answer to; the next attempt is minutes away."""


@pytest.fixture
def pending(front: Front, shop):
    payment_id = requested(shop, front.open_account(), PENDING)
    deducted(front, payment_id)
    return payment_id


def test_a_printed_link_signs_somebody_in_and_leads_to_what_was_wanted(front: Front, person):
    alice: Person = person(None)
    alice.open(f"{LIST}?state=compensated", 401)
    alice.sees("settle api-keys sign-in")
    command = ["api-keys", "sign-in", "bob", "--role", VIEWER]
    link = CliRunner().invoke(app, command, env=front.stack.environment()).stdout.strip()
    alice.open(link)
    assert alice.path == f"{LIST}?state=compensated"
    expect(alice.page.locator(".who")).to_have_text("bob viewer")
    other: Person = person(None)
    other.open(link, 401)
    other.sees("has been used")
    for one in (alice, other):
        one.allows("status of 401")


def test_a_declined_withdrawal_is_watched_becoming_compensated(front: Front, shop, person):
    alice: Person = person()
    with without(front, "payment") as start:
        payment_id = requested(shop, front.open_account(), "1.05")
        deducted(front, payment_id)
        alice.open(f"{LIST}/{payment_id}")
        expect(alice.state).to_have_text("deducted")
        loads = alice.loads
        start()
        front.finished(payment_id)
    expect(alice.state).to_have_text("compensated")
    alice.sees("The provider declined: “declined”. The money is back on the account.")
    alice.sees("WithdrawalCompensated")
    assert alice.loads == loads


def test_a_viewer_is_offered_no_action_and_a_forged_one_is_refused(pending, person):
    alice: Person = person(VIEWER)
    alice.open(f"{LIST}/{pending}")
    assert alice.offers() == set()
    assert alice.page.locator("dialog").count() == 0
    for action, body in (("nudge", {"reason": "forged"}), ("cancel", {})):
        assert alice.calls(f"{WITHDRAWALS}/{pending}/{action}", body) == 403
    alice.allows("status of 403")
    expect(alice.state).to_have_text("deducted")


def test_another_site_can_do_nothing_with_a_session(front: Front, pending, person):
    alice: Person = person(OPERATOR)
    target = f"{front.stack.state.api_url}{WITHDRAWALS}/{pending}/cancel"
    form = f'<form method="post" action="{target}" enctype="text/plain"><button>Win</button></form>'

    def answer(route: Route) -> None:
        route.fulfill(body=form, content_type="text/html")

    alice.context.route("http://elsewhere.test/**", answer)  # no request leaves the browser
    alice.open("http://elsewhere.test/")
    with alice.page.expect_navigation() as led:
        alice.page.get_by_role("button", name="Win").click()
    assert led.value.status in (401, 403)
    status = front.status(pending)
    assert status is not None
    assert status.state == "deducted"
    alice.allows("elsewhere.test", "status of 40[13]")


def test_a_nudge_goes_through_its_dialog_with_the_reason_in_the_operator_log(front: Front, pending, person):
    alice: Person = person(OPERATOR)
    alice.open(f"{LIST}/{pending}")
    reason = f"customer waits for {pending}"
    answer = alice.acts("nudge", reason=reason)
    request_id = re.search(r"operator log: (\S+)", answer)
    assert request_id is not None, answer
    with front.http(front.key("auditor", ADMIN)) as client:
        entries = [one for one in client.get("/v1/operator-log").json()["entries"] if one["reason"] == reason]
    # Before it is done, and with what came of it.
    named = ("caller", "action", "request_id")
    assert [tuple(one[name] for name in named) for one in entries] == [("alice", "nudge", request_id[1])] * 2


def test_a_reason_is_needed_before_anything_is_asked_for(pending, person):
    alice: Person = person(OPERATOR)
    alice.open(f"{LIST}/{pending}")
    alice.page.locator("[data-opens=nudge]").click()
    dialog = alice.page.locator("dialog#nudge")
    dialog.locator("[data-confirms]").click()
    expect(dialog.locator("[name=reason]")).to_be_focused()
    assert dialog.locator(".answer").inner_text() == ""
    alice.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(alice.page.locator("[data-opens=nudge]")).to_be_focused()


def test_a_cancellation_is_asked_for_by_its_dialog_and_seen_on_the_same_page(pending, person):
    alice: Person = person(OPERATOR)
    alice.open(f"{LIST}/{pending}")
    loads = alice.loads
    assert "It is asked for." in alice.acts("cancel", reason="the customer has changed their mind")
    expect(alice.state).to_have_text("compensated")
    alice.sees("It was cancelled.")
    assert alice.loads == loads


def test_search_finds_a_payment_a_trace_and_an_account_from_the_keyboard_alone(front: Front, shop, person):
    account = front.open_account()
    payment_id = requested(shop, account)
    trace_id = front.finished(payment_id).trace_id
    alice: Person = person()
    for text, leads in (
        (str(payment_id), f"{LIST}/{payment_id}"),
        (trace_id, f"{LIST}/{payment_id}"),
        (account, f"{HOME}/accounts/{account}"),
    ):
        alice.open(HOME)
        alice.page.keyboard.press("/")
        expect(alice.page.locator("[data-search]")).to_be_focused()
        alice.page.keyboard.type(text)
        with alice.page.expect_navigation():
            alice.page.keyboard.press("Enter")
        assert alice.path == leads


def test_a_filter_is_in_the_url_and_survives_being_sent_to_somebody(front: Front, shop, person):
    account = front.open_account()
    for amount in ("1.00", "1.05"):
        front.finished(requested(shop, account, amount))
    alice, bob = person(), person()
    alice.open(LIST)
    alice.page.locator("details.filters summary").click()
    alice.page.locator("input[name=state][value=compensated]").check()
    alice.page.locator("input[name=account_id]").fill(account)
    with alice.page.expect_navigation():
        alice.page.get_by_role("button", name="Apply").click()
    asked = parse_qs(urlsplit(alice.page.url).query)
    assert (asked["state"], asked["account_id"]) == (["compensated"], [account])
    for one in (alice, bob):
        one.open(alice.path)
        expect(one.page.locator("tbody tr")).to_have_count(1)
        expect(one.page.locator("tbody .state")).to_have_text("compensated")
        expect(one.page.locator("input[name=state][value=compensated]")).to_be_checked()
        expect(one.page.locator("input[name=account_id]")).to_have_value(account)


def test_rows_change_in_place_and_newer_ones_wait_behind_a_bar(front: Front, shop, person):
    account = front.open_account()
    first = requested(shop, account, PENDING)
    deducted(front, first)
    alice: Person = person(OPERATOR)
    alice.open(f"{LIST}?account_id={account}")
    rows, bar = alice.page.locator("tbody tr"), alice.page.locator("a.newer")
    expect(rows.locator(".state")).to_have_text("deducted")
    second = requested(shop, account)
    expect(bar).to_have_text("1 newer: show it")
    with front.http(front.key("desk", OPERATOR)) as desk:
        cancelled = desk.post(f"{WITHDRAWALS}/{first}/cancel", json={"reason": "a story"})
        assert cancelled.status_code == 202
    expect(rows.locator(".state")).to_have_text("compensated")
    expect(rows).to_have_count(1)
    with alice.page.expect_navigation():
        bar.click()
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(str(second))


def test_the_theme_is_the_systems_until_somebody_chooses_and_is_remembered(person):
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    by_system: Person = person(color_scheme="dark")
    dark = by_system.page.evaluate(ground)
    alice: Person = person(color_scheme="light")
    assert alice.page.evaluate(ground) != dark
    switch = alice.page.locator("[data-theme-switch]")
    for chosen in ("light", "dark"):
        switch.click()
        expect(switch).to_have_text(f"Theme: {chosen}")
    assert alice.page.evaluate(ground) == dark
    alice.open(LIST)
    assert alice.page.evaluate(ground) == dark
    expect(switch).to_have_text("Theme: dark")


def test_a_page_says_since_when_it_stands_still_and_catches_up(front: Front, pending, person):
    alice: Person = person()
    alice.open(f"{LIST}/{pending}")
    banner = alice.page.locator("[data-disconnected]")
    expect(banner).to_be_hidden()
    front.stack.stop_service("api")
    try:
        expect(banner).to_be_visible()
        expect(banner).to_contain_text(re.compile(r"Not connected since \d\d:\d\d:\d\d UTC"))
    finally:
        front.stack.start_service("api")
        front.answers()
    expect(banner).to_be_hidden()
    # The browser's own words, and what htmx-sse prints of a stream that ended.
    alice.allows(r"net::ERR_|\[object Event\]|^Event$")
