"""What an operator puts right in the console, from what is wrong to a withdrawal that is completed."""

from playwright.sync_api import Route, expect

from api.access import OPERATOR
from operations.dead_letters.letters import read_letters
from operations.dead_letters.warning import UNVERIFIED
from tests.browser.person import HOME, LIST, Person
from tests.conftest import wait_until
from tests.integration.api.front import WITHDRAWALS, Front, requested
from tests.integration.console.pages import deducted, without
from tests.integration.test_dead_letters import Poisoned


def test_a_dead_letter_is_read_redriven_and_its_withdrawal_completes(front: Front, person):
    poisoned = Poisoned(front, 1)
    (letter,), (request,) = poisoned.letters, poisoned.requests
    alice: Person = person(OPERATOR)
    alice.open(f"{HOME}/dead-letters?payment_id={request.payment_id}")
    with alice.page.expect_navigation():
        alice.page.get_by_role("link", name="WithdrawalRequested").click()
    alice.sees("CheckViolation")
    poisoned.mend()
    assert "1 sent" in alice.acts("redrive", reason="the constraint is gone")
    front.finished(request.payment_id)
    alice.open(f"{HOME}/dead-letters/{letter.id}")
    alice.sees("redriven")
    alice.open(f"{LIST}/{request.payment_id}")
    expect(alice.state).to_have_text("completed")


def test_an_action_meets_what_its_dialog_shows_and_what_is_closed_goes_no_further(front: Front, person):
    poisoned = Poisoned(front, 1)
    alice: Person = person(OPERATOR)
    alice.open(f"{HOME}/dead-letters?payment_id={poisoned.requests[0].payment_id}")
    many = {"items": [f"withdrawal.requests/0@{number}" for number in range(2_500)]}
    read, sent = list[Route](), list[Route]()
    alice.page.route("**/dead-letters/items*", lambda route: read.append(route))
    alice.page.route("**/v1/dead-letters/redrive", lambda route: sent.append(route))

    def asked(routes: list[Route]) -> Route:
        wait_until(lambda: (alice.page.evaluate("1"), routes)[1], "it is asked for")
        return routes.pop()

    all_that_match = alice.page.locator("[data-opens=redrive][data-from]")
    dialog = alice.page.locator("dialog#redrive")
    all_that_match.click()
    late = asked(read)
    dialog.locator("[data-closes]").click()
    alice.page.locator("[data-pick]").first.check()
    alice.page.locator("[data-opens=redrive][data-of-ticked]").click()
    expect(dialog).to_contain_text("1 dead letter goes back")
    with alice.page.expect_event("requestfinished", lambda one: "/items" in one.url):
        late.fulfill(json=many)
    assert alice.page.evaluate("fetch('/console/settings').then(() => 1)") == 1  # what came before it is through
    assert dialog.locator("form").evaluate("form => form.items.length") == 1
    expect(dialog).to_contain_text("1 dead letter goes back")
    dialog.locator("[data-closes]").click()

    all_that_match.click()
    asked(read).fulfill(json=many)
    dialog.locator("[name=reason]").fill("a story")
    dialog.locator("[data-confirms]").click()
    portion = asked(sent)
    dialog.locator("[data-closes]").click()
    all_that_match.click()
    expect(dialog).not_to_be_visible()
    with alice.page.expect_navigation():
        portion.fulfill(json={"results": [{"error": "a test", "place": None}] * 1_000})
    assert not sent
    alice.page.unroute_all()
    poisoned.mend()
    alice.page.locator("[data-pick]").first.check()
    assert "1 sent" in alice.acts("redrive", reason="the constraint is gone")
    front.finished(poisoned.requests[0].payment_id)


def test_a_stuck_withdrawal_is_nudged_and_completes_before_ones_eyes(front: Front, shop, person):
    alice: Person = person(OPERATOR)
    with without(front, "payment") as start:
        payment_id = requested(shop, front.open_account())
        deducted(front, payment_id)
        alice.open(HOME)
        expect(alice.page.locator(".headline")).to_contain_text("Payment is away")
        with front.http(front.key("desk", OPERATOR)) as desk:
            wait_until(lambda: str(payment_id) in desk.get("/v1/stuck").text, "it is stuck")
        alice.open(f"{HOME}/stuck")
        row = alice.page.locator("tbody tr", has_text=str(payment_id))
        expect(row).to_contain_text("payment")
        row.locator("[data-pick]").check()
        assert "1 nudged" in alice.acts("nudge", reason="its service was away")
        start()
    alice.open(f"{LIST}/{payment_id}")
    expect(alice.state).to_have_text("completed")
    front.finished(payment_id)


def test_an_audit_is_run_and_holds_on_the_same_page(front: Front, shop, person):
    with front.http(front.key("desk", OPERATOR)) as desk:  # what other stories have left unfinished
        for one in desk.get(WITHDRAWALS, params={"in_flight": True, "limit": 100}).json()["withdrawals"]:
            desk.post(f"{WITHDRAWALS}/{one['payment_id']}/cancel", json={"reason": "the story is over"})
    # What ends a withdrawal and the mail about it do not wait for each other.
    untold = """SELECT 1 FROM withdrawals w WHERE finished_at IS NULL OR NOT EXISTS (
        SELECT FROM event_store e WHERE e.payment_id = w.payment_id AND type = 'NotificationSent')"""
    wait_until(lambda: not front.query("saga", untold), "all have ended, and everybody is told")
    front.all_read()
    alice: Person = person(OPERATOR)
    alice.open(f"{HOME}/audit")
    loads = alice.loads
    assert "It runs" in alice.acts("run", reason="a story")
    verdict = alice.page.locator(".verdict h2")
    expect(verdict).to_have_text("It holds: no cent is lost or doubled")
    assert alice.loads == loads


def test_a_letter_that_cannot_be_verified_is_sent_once_its_box_is_ticked(front: Front, person):
    name = "account.events/0@6000000"
    claims = {"dlq.topic": "account.events", "dlq.partition": "0", "dlq.offset": "6000000"}
    front.send("account.events.dlq", b"{}", "acc-1", **claims)
    wait_until(lambda: name in {one.id for one in read_letters(front.bootstrap)}, "it is there")
    alice: Person = person(OPERATOR)
    alice.open(f"{HOME}/dead-letters/{name}")
    assert "0 sent, 1 not" in alice.acts("redrive", reason="as the others")
    alice.open(f"{HOME}/dead-letters/{name}")
    alice.page.locator("[data-opens=redrive]:enabled").first.click()
    dialog = alice.page.locator("dialog#redrive")
    dialog.get_by_label(UNVERIFIED).check()
    dialog.locator("[name=reason]").fill("its table proves it")
    dialog.locator("[data-confirms]").click()
    expect(dialog.locator(".answer .cause")).to_contain_text("1 sent")
