"""Every page for everybody: what axe-core finds, in light and dark, on a desk and a phone, and without scripts."""

import json
from uuid import UUID

import pytest
from playwright.sync_api import expect
from uuid_utils.compat import uuid7

from api.access import OPERATOR
from tests.browser.conftest import NARROW, WIDE
from tests.browser.person import HOME, LIST, Person
from tests.conftest import wait_until
from tests.integration.api.front import WITHDRAWALS, Front, requested
from tests.integration.console.pages import deducted

TABS = ("journal", "events", "ledger", "attempts", "json", "trace")
PAGES = ("stuck", "dead-letters", "outboxes", "accounts", "audit", "operator-log", "settings")


@pytest.fixture(scope="module")
def account(front: Front) -> str:
    """An account with a withdrawal of each end, one that waits, and one of whose messages is a dead letter."""
    name = front.open_account()
    with front.http(front.key("shop")) as shop:
        ended = [requested(shop, name, amount) for amount in ("1.00", "1.05", "20000.00")]
        waits = requested(shop, name, "1.19")
    for payment_id in ended:
        front.finished(payment_id)
    deducted(front, waits)
    poison = json.dumps({"payment_id": str(ended[1])}).encode()
    front.send("account.events", poison, name, id=str(uuid7()), eventType="MoneyDeducted")
    with front.http(front.key("desk", OPERATOR)) as desk:
        path = f"/v1/dead-letters?payment_id={ended[1]}"
        wait_until(lambda: desk.get(path).json()["dead_letters"], "it is a dead letter")
    return name


@pytest.fixture(scope="module")
def withdrawals(front: Front, account: str) -> dict[str, UUID]:
    """Those of the account, by their state."""
    with front.http(front.key("desk", OPERATOR)) as desk:
        listed = desk.get(WITHDRAWALS, params={"account_id": account}).json()["withdrawals"]
    return {one["state"]: UUID(one["payment_id"]) for one in listed}


@pytest.fixture
def paths(account: str, withdrawals: dict[str, UUID]) -> list[str]:
    """Every page that one may read."""
    one = f"{LIST}/{withdrawals['compensated']}"
    others = [f"{LIST}/{withdrawals[state]}" for state in ("completed", "rejected", "deducted")]
    lists = [LIST, f"{LIST}?account_id={account}&state=compensated", f"{LIST}?account_id=nobody"]
    tabs = [*(f"{one}?tab={tab}" for tab in TABS), f"{others[-1]}?tab=attempts"]
    return [HOME, *lists, *others, *tabs, *(f"{HOME}/{page}" for page in PAGES), f"{HOME}/accounts/{account}"]


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_keeps_anybody_out(paths, withdrawals, person, theme, width):
    alice: Person = person(None, width, color_scheme=theme)
    alice.open(HOME, 401)
    found = {HOME: alice.barriers()}
    alice.signs_in(OPERATOR)
    for path in paths:
        alice.open(path)
        found[path] = alice.barriers()
        # Wide tables and payloads scroll where they are; the page itself does not.
        assert alice.page.evaluate("document.documentElement.scrollWidth") <= width, path
    alice.open(f"{HOME}/nothing", 404)
    found["an error"] = alice.barriers()
    alice.open(f"{LIST}/{withdrawals['deducted']}")
    for name in sorted(alice.offers()):
        alice.page.locator(f"[data-opens={name}]").click()
        expect(alice.page.locator(f"dialog#{name}")).to_be_visible()
        found[f"the dialog {name}"] = alice.barriers()
        alice.page.keyboard.press("Escape")
    alice.allows("status of 401", "status of 404")
    assert {path: barriers for path, barriers in found.items() if barriers} == {}


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_every_page_can_be_read_without_scripts(front: Front, paths, withdrawals, person, width):
    alice: Person = person(width=width, java_script_enabled=False)
    for path in paths:
        alice.open(path)
        assert len(alice.main.inner_text()) > 50, path
        expect(alice.page.locator("h1, .headline").first).to_be_visible()
    alice.open(f"{LIST}/{withdrawals['compensated']}")
    alice.sees("The money is back on the account.")
    for event in ("WithdrawalRequested", "MoneyDeducted", "PaymentFailed", "MoneyRefunded"):
        alice.sees(event)
    alice.page.get_by_role("link", name="Ledger").click()
    alice.sees("given back")
    alice.page.locator("[data-search]").fill(str(withdrawals["rejected"]))
    alice.page.keyboard.press("Enter")
    expect(alice.state).to_have_text("rejected")


def test_the_way_to_the_page_and_through_a_dialog_needs_no_mouse(withdrawals, person):
    alice: Person = person(OPERATOR)
    alice.open(f"{LIST}/{withdrawals['deducted']}")
    alice.page.keyboard.press("Tab")
    skip = alice.page.locator("a.skip")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    alice.page.keyboard.press("Enter")
    expect(alice.main).to_be_focused()
    for _ in ("the account", "its button"):
        alice.page.keyboard.press("Tab")
    expect(alice.page.locator("[data-opens=nudge]")).to_be_focused()
    alice.page.keyboard.press("Enter")
    dialog = alice.page.locator("dialog#nudge")
    expect(dialog).to_be_visible()
    expect(dialog.locator("[name=reason]")).to_be_focused()
    alice.page.keyboard.type("by keyboard")
    for _ in ("to close", "to confirm"):
        alice.page.keyboard.press("Tab")
    alice.page.keyboard.press("Enter")
    expect(dialog.locator(".answer")).to_contain_text("published again")
