"""An open page and its stream: it says when what it shows is old, and is right again by itself."""

import os
import re
import signal

from playwright.sync_api import expect

from api.access import OPERATOR
from tests.browser.person import HOME, LIST, Person
from tests.conftest import wait_until
from tests.integration.api.front import WITHDRAWALS, Front, requested
from tests.integration.console.pages import deducted

PENDING = "1.19"
BROKEN_STREAM = r"net::ERR_|status of 401"
IN_BACKGROUND = """is => {
    Object.defineProperty(document, "hidden", {value: is, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def pending(front: Front, shop) -> str:
    payment_id = requested(shop, front.open_account(), PENDING)
    deducted(front, payment_id)
    return str(payment_id)


def cancelled(front: Front, payment_id: str) -> None:
    with front.http(front.key("desk", OPERATOR)) as desk:
        assert desk.post(f"{WITHDRAWALS}/{payment_id}/cancel", json={"reason": "a story"}).status_code == 202
    wait_until(lambda: front.status(payment_id).state == "compensated", "it is compensated")


def test_a_page_is_right_again_after_the_api_was_restarted(front: Front, shop, person):
    payment_id = pending(front, shop)
    alice: Person = person()
    alice.open(f"{LIST}/{payment_id}")
    banner, loads = alice.page.locator("[data-disconnected]"), alice.loads
    front.stack.stop_service("api")
    try:
        expect(banner).to_contain_text(re.compile(r"Not connected since \d\d:\d\d:\d\d UTC"))
        expect(alice.state).to_have_text("deducted")
    finally:
        front.stack.start_service("api")
        front.answers()
    cancelled(front, payment_id)
    expect(alice.state).to_have_text("compensated")
    expect(banner).to_be_hidden()
    assert alice.loads == loads
    alice.allows(BROKEN_STREAM)


def test_a_page_that_hears_nothing_says_so(front: Front, person):
    alice: Person = person()
    alice.open(HOME)
    banner = alice.page.locator("[data-disconnected]")
    expect(banner).to_be_hidden()
    api = front.stack.pid("api")
    os.kill(api, signal.SIGSTOP)
    try:
        expect(banner).to_be_visible()
    finally:
        os.kill(api, signal.SIGCONT)
    expect(banner).to_be_hidden()


def test_a_tab_in_the_background_lets_go_of_its_stream_and_is_right_when_it_is_looked_at(
    front: Front, shop, person
):
    payment_id = pending(front, shop)
    alice: Person = person()
    alice.open(f"{LIST}/{payment_id}")
    wait_until(lambda: front.measured("settle_console_pages") == 1, "it is live")
    alice.page.evaluate(IN_BACKGROUND, True)
    wait_until(lambda: front.measured("settle_console_pages") == 0, "it has let go")
    cancelled(front, payment_id)
    expect(alice.state).to_have_text("deducted")
    alice.page.evaluate(IN_BACKGROUND, False)
    expect(alice.state).to_have_text("compensated")
    expect(alice.page.locator("[data-disconnected]")).to_be_hidden()


def test_a_tab_that_is_opened_in_the_background_takes_no_connection_until_it_is_looked_at(front: Front, person):
    """Browsers keep six to a server: more tabs than that would hang."""
    wait_until(lambda: front.measured("settle_console_pages") == 0, "nobody looks")
    alice: Person = person()
    alice.context.add_init_script("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    tabs = [alice.context.new_page() for _ in range(8)]
    for tab in tabs:
        answer = tab.goto(f"{front.stack.state.api_url}{HOME}/accounts")
        assert answer is not None
        assert answer.ok
    tabs[0].evaluate(IN_BACKGROUND, False)
    wait_until(lambda: tabs[0].title() and front.measured("settle_console_pages") >= 1, "one is looked at")
    # The first window shows the flow since it signed in.
    assert front.measured("settle_console_pages") <= 2


def test_a_page_whose_session_has_ended_says_so(front: Front, person):
    alice: Person = person()
    alice.open(HOME)
    ended = alice.page.locator("[data-signed-out]")
    expect(ended).to_be_hidden()
    front.query("api", "DELETE FROM sessions RETURNING 1")
    expect(ended).to_be_visible()
    expect(ended).to_contain_text("Your session has ended")
    wait_until(lambda: alice.page.title() and alice.complaints, "the browser says so, too")
    alice.allows(BROKEN_STREAM)


def test_balances_change_before_ones_eyes_and_new_accounts_wait(front: Front, shop, person):
    account = front.open_account()
    alice: Person = person(OPERATOR)
    alice.open(f"{HOME}/accounts?prefix={account}")
    rows, loads = alice.page.locator("tbody tr"), alice.loads
    expect(rows).to_contain_text("10,000.00 USD")
    front.finished(requested(shop, account, "2.50"))
    expect(rows).to_contain_text("9,997.50 USD")
    assert alice.loads == loads
