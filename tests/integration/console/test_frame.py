"""The frame of the pages: who gets in and how, what is offered to whom, errors, search, what fifty tabs cost."""

import re
import time
from contextlib import ExitStack
from datetime import datetime
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner
from uuid_utils.compat import uuid7

from api.access import ADMIN, CLIENT, OPERATOR, VIEWER
from api.console.rendering import POLICY
from api.credentials import COOKIE, SIGN_IN, offer_sign_in, revoke_key
from cli.main import app
from processors.account.accounts import open_accounts
from tests.conftest import WAIT_S, wait_until
from tests.integration.api.front import WITHDRAWALS, Front, requested
from tests.integration.console.pages import HTML, SAME, Page, Pages, deducted, without

HOME = "/console"
LIST = "/console/withdrawals"
TABS = 50


def test_without_credentials_there_is_a_page_that_says_how_to_sign_in_and_then_what_was_wanted(front: Front):
    wanted = f"{LIST}?state=compensated&account_id=acc-1"
    with front.http() as browser:
        answer = browser.get(wanted, headers=HTML)
        assert answer.status_code == 401
        page = Page(answer.text)
        assert "settle up" in page.text
        assert "settle api-keys sign-in" in page.text
        token = offer_sign_in(front.dsns["api"], "alice", VIEWER)
        answer = browser.get("/v1/sign-in", params={"token": token, "sure": True})
        assert (answer.status_code, answer.headers["location"]) == (303, wanted)
        assert "compensated" in Page(browser.get(wanted, headers=HTML).text).text


def test_a_command_makes_a_link_for_a_person_of_a_role(front: Front):
    made = CliRunner().invoke(
        app, ["api-keys", "sign-in", "bob", "--role", OPERATOR], env=front.stack.environment()
    )
    assert (made.exit_code, made.stderr) == (0, "")
    with front.http() as browser:
        answer = browser.get(made.stdout.strip(), headers={"Sec-Fetch-Site": "none"})
        assert (answer.status_code, answer.headers["location"]) == (303, HOME)
        assert "bob operator" in Page(browser.get(LIST, headers=HTML).text).text
    for wrong in (["bob", "--role", CLIENT], ["bob", "--role", "king"], ["two words"]):
        assert (
            CliRunner().invoke(app, ["api-keys", "sign-in", *wrong], env=front.stack.environment()).exit_code == 2
        )


@pytest.mark.parametrize(
    "elsewhere",
    ["https://example.org/console", "//example.org/console", "/v1/docs", "/consoles", "/console/\r\nX: y"],
)
def test_the_way_through_the_sign_in_leads_nowhere_else(front: Front, elsewhere):
    token = offer_sign_in(front.dsns["api"], "alice", VIEWER)
    with front.http(cookies={"settle_wanted": quote(elsewhere, safe="/")}) as browser:
        answer = browser.get("/v1/sign-in", params={"token": token, "sure": True})
        assert (answer.status_code, answer.headers["location"]) == (303, HOME)


def test_whoever_types_the_address_is_led_to_the_console(front: Front):
    with front.http() as browser:
        answer = browser.get("/", headers=HTML)
        assert (answer.status_code, answer.headers["location"]) == (303, HOME)
        assert browser.get("/").status_code == 404


def test_a_link_that_was_used_says_so_on_a_page_and_to_programs_as_json(front: Front):
    with front.http() as browser:
        page = browser.get("/v1/sign-in?token=used&sure=true", headers=HTML)
        assert (page.status_code, page.headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert "has been used" in Page(page.text).text
        assert "`" not in Page(page.text).text
        to_a_program = browser.get("/v1/sign-in?token=used&sure=true")
        assert to_a_program.headers["content-type"] == "application/problem+json"


def test_a_link_from_another_site_opens_itself_anew_once_as_the_cookie_did_not_come_along(front: Front):
    with front.http() as browser:
        from_elsewhere = browser.get(LIST, headers=HTML | {"Sec-Fetch-Site": "cross-site"}).text
        anew = browser.get(LIST, headers=HTML | SAME).text
    assert ("meta", {"http-equiv": "refresh", "content": "0"}) in Page(from_elsewhere).elements
    assert "refresh" not in anew


@pytest.mark.parametrize("elsewhere", ["cross-site", "same-site"])
def test_another_site_signs_nobody_in(front: Front, elsewhere: str):
    """Who is led into a session of somebody else would act in their name."""
    with front.http() as client:
        client.headers.update(HTML)
        path = f"{SIGN_IN}?token={offer_sign_in(front.dsns['api'], 'mallory', VIEWER)}"
        asked = client.get(path, headers={"Sec-Fetch-Site": elsewhere})
        assert (asked.status_code, client.cookies.get(COOKIE)) == (200, None)
        assert "Sign in?" in Page(asked.text).text
        (link,) = Page(asked.text).links
        assert client.get(f"{SIGN_IN}{link}", headers={"Sec-Fetch-Site": elsewhere}).status_code == 200
        assert client.get(f"{SIGN_IN}{link}", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303
        assert client.cookies.get(COOKIE)


def test_who_looks_at_a_link_for_its_preview_does_not_spend_it(front: Front):
    path = f"{SIGN_IN}?token={offer_sign_in(front.dsns['api'], 'alice', VIEWER)}"
    with front.http() as chat:
        seen = chat.get(path)
        assert (seen.status_code, chat.cookies.get(COOKIE)) == (200, None)
    with front.http() as browser:
        assert browser.get(path, headers=HTML | {"Sec-Fetch-Site": "none"}).status_code == 303
        assert browser.cookies.get(COOKIE)
    path = f"{SIGN_IN}?token={offer_sign_in(front.dsns['api'], 'alice', VIEWER)}"
    with front.http() as old:  # without TLS, and not on loopback, no browser says where a request comes from
        (link,) = Page(old.get(path, headers=HTML).text).links
        assert old.get(f"{SIGN_IN}{link}", headers=HTML).status_code == 303


def test_every_page_has_the_policy_and_nothing_inline(browser: Pages, shop, front: Front):
    payment_id = requested(shop, front.open_account())
    front.finished(payment_id)
    paths = [f"{HOME}/{name}" for name in ("accounts", "accounts/acc-1", "audit", "operator-log", "settings")]
    for path in (HOME, LIST, f"{LIST}/{payment_id}", f"{HOME}/nothing", *paths):
        answer = browser.client.get(path)
        assert answer.headers["content-security-policy"] == POLICY
        assert "unsafe" not in POLICY
        assert not re.search(r"\sstyle=|<style|\son[a-z]+=", answer.text)
        for tag, about in Page(answer.text).elements:
            loaded = about.get("src") or (about.get("href") if tag == "link" else None)
            assert loaded is None or loaded.startswith("/console/static/")


def test_static_files_need_no_credentials_are_kept_for_good_and_only_ours(front: Front, viewer: Pages):
    page = viewer.get(HOME)
    loaded = [about.get("src") or about.get("href") for tag, about in page.elements if tag in ("script", "link")]
    assert len(loaded) == 5
    with front.http() as anybody:
        for path in loaded:
            answer = anybody.get(path or "")
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
        assert anybody.get(f"/console/static/{'0' * 16}/console.css").headers["cache-control"] == "no-store"
        for name in ("nothing.css", "htmx.LICENSE", "..%2frendering.py"):
            assert anybody.get(f"/console/static/0/{name}").status_code == 404


def test_an_error_is_a_page_in_words(front: Front, viewer: Pages):
    found = viewer.get(f"{HOME}/nothing/at/all", 404)
    assert "The API has no such path" in found.text
    unknown = uuid7()
    assert f"there is no withdrawal {unknown}" in viewer.get(f"{LIST}/{unknown}", 404).text
    assert "no cursor" in viewer.get(f"{LIST}?cursor=x", 422).text
    assert "no state" in viewer.get(f"{LIST}?state=lost", 422).text
    assert "no time" in viewer.get(f"{LIST}?since=noon", 422).text
    assert viewer.client.post(HOME).status_code == 405
    with Pages(front, CLIENT) as client:
        assert "may not do that" in client.get(HOME, 403).text


def test_what_somebody_may_not_do_is_not_offered_and_refused_all_the_same(front: Front, shop):
    with without(front, "payment"):
        payment_id = requested(shop, front.open_account())
        deducted(front, payment_id)
        offered = {}
        for role in (VIEWER, OPERATOR, ADMIN):
            with Pages(front, role, by_session=True) as pages:
                offered[role] = set(pages.get(f"{LIST}/{payment_id}").buttons)
                forged = pages.client.post(
                    f"{WITHDRAWALS}/{payment_id}/nudge", json={"reason": "forged"}, headers=SAME
                )
                assert forged.status_code == (403 if role == VIEWER else 200)
        assert offered == {VIEWER: set(), OPERATOR: {"nudge", "cancel"}, ADMIN: {"nudge", "cancel"}}
    front.finished(payment_id)


@pytest.mark.parametrize("site", [None, "cross-site", "same-site"])
def test_a_session_acts_from_pages_of_ours_alone(browser: Pages, site):
    headers = {"Sec-Fetch-Site": site} if site else {}
    path = f"{WITHDRAWALS}/{uuid7()}/nudge"
    answer = browser.client.post(path, json={"reason": "forged"}, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:settle:problem:forbidden")
    assert browser.client.post(path, json={"reason": "mine"}, headers=SAME).status_code == 404


def test_the_frame_says_who_reads_it_what_is_open_and_what_the_last_audit_found(front: Front, operator: Pages):
    assert operator.get(LIST).text.count("of-operator operator") == 1
    answer = operator.client.post("/v1/audits", json={"reason": "a test", "wait_s": 30})
    assert answer.status_code == 202
    where = answer.headers["location"]
    wait_until(lambda: operator.json(where)["state"] not in ("running",), "the audit has ended")
    found = operator.json(where)
    ended = datetime.fromisoformat(found["finished_at"])
    said = f"Audit {found['state']} {ended:%H:%M:%S}"
    wait_until(lambda: said in operator.get(LIST).text, "the verdict is in the frame")


def test_search_leads_to_the_page_of_what_was_named(front: Front, shop, viewer: Pages):
    account = front.open_account()
    payment_id = requested(shop, account)
    trace_id = front.finished(payment_id).trace_id
    one = f"{LIST}/{payment_id}"
    for text in (str(payment_id), f"  {payment_id} ", str(payment_id).upper(), payment_id.hex, trace_id):
        answer = viewer.client.get(f"{HOME}/search", params={"q": text})
        assert (answer.status_code, answer.headers["location"]) == (303, one), text
    as_account = uuid7().hex  # also what looks like another ID
    open_accounts(front.dsns["account"], [as_account, "../x"], 100, "USD")
    for text, path in (
        (account, f"{HOME}/accounts/{account}"),
        (as_account, f"{HOME}/accounts/{as_account}"),
        ("../x", f"{HOME}/accounts?id=..%2Fx"),
        ("withdrawal.requests/2@17", f"{HOME}/dead-letters/withdrawal.requests/2%4017"),
        (" ", LIST),
    ):
        assert viewer.client.get(f"{HOME}/search", params={"q": text}).headers["location"] == path


def test_search_for_an_account_that_there_is_not_leads_to_the_withdrawals_that_name_it(
    front: Front, shop, viewer: Pages
):
    front.finished(requested(shop, "acc-that-is-not"))
    answer = viewer.client.get(f"{HOME}/search", params={"q": "acc-that-is-not"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{LIST}?account_id=acc-that-is-not")


def test_search_for_a_trace_of_several_withdrawals_says_so(front: Front, shop, viewer: Pages):
    trace_id, account = uuid7().hex, front.open_account()
    shop.headers["traceparent"] = f"00-{trace_id}-00000000000000b1-01"
    for payment_id in [requested(shop, account) for _ in range(2)]:
        assert front.finished(payment_id).trace_id == trace_id
    assert "has more than one withdrawal" in viewer.get(f"{HOME}/search?q={trace_id}", 404).text


@pytest.mark.parametrize(
    "text", ["01a20aeb-4358-716a-b291-9134760df1f7", "a" * 32, "acc-nothing", "<b>&\u202e", "a\0b"]
)
def test_search_that_finds_nothing_says_so(viewer: Pages, text):
    page = viewer.get(f"{HOME}/search", 404, params={"q": text})
    assert "nothing is called" in page.text
    assert "<b>&" not in page.html
    assert "\u202e" not in page.html


def looks(front: Front, name: str) -> float:
    with urlopen(f"http://127.0.0.1:{front.stack.state.http['api']}/metrics", timeout=WAIT_S) as answer:
        text = answer.read().decode()
    found = re.search(rf'settle_console_looks_total\{{look="{name}"\}} (\S+)', text)
    return float(found[1]) if found else 0.0


def test_fifty_tabs_cost_what_one_costs_and_none_costs_nothing(front: Front, viewer: Pages):
    before, began = looks(front, "frame"), time.monotonic()
    with ExitStack() as stack:
        streams = [stack.enter_context(viewer.stream(f"{HOME}/stream")) for _ in range(TABS)]
        first = [next(one) for one in streams]
        assert {name for name, _ in first} == {"count-open"}
        assert len({text for _, text in first}) == 1
        wait_until(lambda: looks(front, "frame") - before >= 3, "it is looked at again")
        assert looks(front, "frame") - before <= time.monotonic() - began + 2

    # A heartbeat finds the last tab gone.
    def nobody_looks() -> bool:
        last, at = looks(front, "frame"), time.monotonic()
        wait_until(lambda: time.monotonic() - at > 2.5 or looks(front, "frame") != last, "time passes")
        return looks(front, "frame") == last

    wait_until(nobody_looks, "nobody looks any more")


def test_a_stream_ends_with_the_key_of_who_reads_it(front: Front):
    key = front.key("leaves", VIEWER)
    with front.http(key) as client, client.stream("GET", f"{HOME}/stream") as answer:
        lines = answer.iter_lines()
        assert next(lines)
        assert revoke_key(front.dsns["api"], key.split("_")[1])
        give_up = time.monotonic() + WAIT_S
        for _ in lines:
            assert time.monotonic() < give_up, "it does not end"


def test_a_stream_is_for_who_may_see_operations(front: Front):
    with front.http(front.key("shop")) as client:
        assert client.get(f"{HOME}/stream").status_code == 403
    with front.http() as nobody:
        assert nobody.get(f"{HOME}/stream").status_code == 401
