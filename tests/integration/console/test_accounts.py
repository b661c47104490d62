"""The pages of accounts: what the JSON lists, and a balance as the sum that it is, marked where it is not."""

from urllib.parse import urlencode
from uuid import UUID

import pytest

from api.access import ADMIN, OPERATIONS
from api.console.places import account_path
from processors.account.accounts import open_accounts
from tests.integration.api.front import Front, requested
from tests.integration.console.pages import Page, Pages, without

LIST = "/console/accounts"
JSON = "/v1/accounts"
LONG = "customer:eu-central-1:7f3c1e0a-" + "x" * 33
ODD = ("..", ".", "a/b", "a b&c=d", "<script>alert(1)</script>", "\u202eabc", "50%", "q?x#y")


def shown(page: Page) -> list[str]:
    """The paths of the accounts in their order."""
    return [link for link in page.links if link.startswith((f"{LIST}/", f"{LIST}?id="))]


def opened(front: Front, *names: str, minor: int = 10_000, currency: str = "USD") -> None:
    open_accounts(front.dsns["account"], names, minor, currency)


def older(page: Page) -> list[str]:
    return [about["href"] or "" for _, about in page.elements if about.get("rel") == "next"]


def test_it_lists_what_the_json_lists_in_pages_without_gap_or_repeat(front: Front, viewer: Pages):
    names = [f"listed-{number:03}" for number in range(120)]
    opened(front, *names)
    found: list[str] = []
    path = f"{LIST}?prefix=listed-"
    while path:
        page = viewer.get(path)
        found += [link.rpartition("/")[2] for link in shown(page)]
        path = next(iter(older(page)), "")
    assert found == names
    (first,) = [link for link in viewer.get(f"{LIST}?prefix=listed-").links if link.startswith(JSON)]
    assert [one["account_id"] for one in viewer.json(first)["accounts"]] == names[:50]
    listed = viewer.json(f"{JSON}?limit=500")["accounts"]
    assert shown(viewer.get(LIST)) == [account_path(one["account_id"]) for one in listed[:50]]


def test_balances_change_in_place_and_new_accounts_wait_behind_a_bar(front: Front, shop, viewer: Pages):
    opened(front, "moving-1", "moving-3", minor=1_000)
    page = viewer.get(f"{LIST}?prefix=moving-")
    rows = {name for name in page.places if name.startswith("account-")}
    assert len(rows) == 2
    with viewer.stream(page.stream) as fragments:
        found: dict[str, str] = {}
        while not rows | {"newer"} <= found.keys():
            name, text = next(fragments)
            found[name] = text
        assert Page(found["newer"]).text == ""
        opened(front, "moving-2")
        requested(shop, "moving-3", "2.50")
        changed: dict[str, str] = {}
        while "newer" not in changed or not rows & changed.keys():
            name, text = next(fragments)
            changed[name] = text
    assert Page(changed["newer"]).text == "1 has been opened since: show it"
    (name,) = rows & changed.keys()
    assert "moving-3" in changed[name]
    assert "7.50" in changed[name]


@pytest.mark.parametrize("query", ["newest=2026-01-01T00:00:00", "newest=noon", "prefix=%00", "cursor=x"])
def test_a_stream_of_what_is_no_list_is_refused(viewer: Pages, query):
    assert viewer.status(f"{LIST}/stream?{query}") == 422


def test_an_account_called_as_a_page_has_one_all_the_same(front: Front, viewer: Pages):
    opened(front, "stream")
    (path,) = shown(viewer.get(f"{LIST}?prefix=stream"))
    assert "Account stream" in viewer.get(path).html


def test_the_json_has_a_prefix_by_id_alone(front: Front, viewer: Pages):
    opened(front, "prefixed-1", "prefixes-1", "prefixed_2")
    assert [one["account_id"] for one in viewer.json(f"{JSON}?prefix=prefixed")["accounts"]] == [
        "prefixed-1",
        "prefixed_2",
    ]
    assert viewer.client.get(f"{JSON}?prefix=acc&order=name").status_code == 422
    assert viewer.json(f"{JSON}?prefix=no-such-")["accounts"] == []
    assert "No account’s ID begins so" in viewer.get(f"{LIST}?prefix=no-such-").text
    assert "No account’s ID begins so" in viewer.get(f"{LIST}?prefix=%25").text


def test_a_balance_is_the_sum_of_what_it_was_opened_with_and_its_ledger(front: Front, shop, viewer: Pages):
    name = front.open_account()
    for amount in ("1.00", "1.05", "20000.00"):
        front.finished(requested(shop, name, amount))
    page, account = viewer.get(f"{LIST}/{name}"), viewer.json(f"{JSON}/{name}")
    proof, ledger = viewer.json(f"{JSON}/{name}/proof"), viewer.json(f"{JSON}/{name}/ledger")
    assert proof == {
        "account_id": name,
        "currency": "USD",
        "opening_balance": account["opening_balance"],
        "ledger": "-1.00",
        "bookings": 3,
        "balance": account["balance"],
        "holds": True,
    }
    opening = f"{float(account['opening_balance']):,.2f}"
    assert f"opened with {account['opened_at'][:10]}" in page.text
    assert f"{opening} USD ledger 3 bookings, all of them −1.00 USD balance adds up" in page.text
    assert "does not add up" not in page.text
    listed = [link.rpartition("/")[2] for link in page.links if link.startswith("/console/withdrawals/")]
    assert listed == [entry["payment_id"] for entry in ledger["entries"]]
    assert [entry["kind"] for entry in ledger["entries"]] == ["deduction", "refund", "deduction"]
    assert page.text.count("+1.05 USD") == 1
    assert f"/console/withdrawals?account_id={name}" in page.links


def test_a_balance_that_does_not_add_up_is_marked_with_how_much_is_off(front: Front, viewer: Pages):
    opened(front, "off-1", minor=120_000, currency="JPY")
    change = "UPDATE accounts SET balance_minor = balance_minor - 7 WHERE account_id = 'off-1'"
    assert "adds up" in viewer.get(f"{LIST}/off-1").text
    front.execute("account", change)
    try:
        page = viewer.get(f"{LIST}/off-1")
        assert "The balance does not add up." in page.text
        assert "does not add up: −7 JPY" in page.text
        assert viewer.json(f"{JSON}/off-1/proof")["holds"] is False
    finally:
        front.execute("account", change.replace("- 7", "+ 7"))


def test_the_ledger_has_pages_without_gap_or_repeat(front: Front, shop, viewer: Pages):
    name = front.open_account()
    wanted = [str(requested(shop, name)) for _ in range(60)]
    for payment_id in wanted:
        front.finished(UUID(payment_id))
    found: list[str] = []
    path = f"{LIST}/{name}"
    while path:
        page = viewer.get(path)
        found += [link.rpartition("/")[2] for link in page.links if link.startswith("/console/withdrawals/")]
        path = next(iter(older(page)), "")
    assert sorted(found) == sorted(wanted)
    assert "60 bookings, all of them −60.00 USD" in viewer.get(f"{LIST}/{name}").text


@pytest.mark.parametrize("name", [LONG, *ODD], ids=ascii)
def test_every_account_has_its_page_whatever_it_is_called(front: Front, viewer: Pages, name):
    opened(front, name, minor=4_711)
    listed, cursor = [], f"{LIST}?prefix="
    while cursor:
        page = viewer.get(cursor)
        assert "<script>alert" not in page.html
        assert "\u202e" not in page.html
        listed += shown(page)
        cursor = next(iter(older(page)), "")
    path = f"{LIST}/{name}" if name == LONG else f"{LIST}?{urlencode({'id': name})}"
    assert listed.count(path) == 1
    page = viewer.get(path)
    assert "47.11 USD on" in page.text
    assert name.replace("\u202e", "\\u202e") in page.text


def test_a_withdrawal_leads_to_its_account_if_there_is_one(front: Front, shop, viewer: Pages):
    name, nobody = front.open_account(), "acc-unheard-of"
    for account, link in ((name, f"{LIST}/{name}"), (nobody, f"/console/withdrawals?account_id={nobody}")):
        payment_id = requested(shop, account)
        front.finished(payment_id)
        page = viewer.get(f"/console/withdrawals/{payment_id}")
        assert link in page.links
        viewer.get(link)


def test_an_account_that_there_is_not_is_an_error_in_words(viewer: Pages):
    assert "there is no account nobody" in viewer.get(f"{LIST}/nobody", 404).text
    assert "there is no account a/b/c" in viewer.get(f"{LIST}?id=a/b/c", 404).text


def test_without_the_saga_services_database_the_sum_is_there_and_the_ledger_says_why_not(
    front: Front, viewer: Pages
):
    name = front.open_account()
    with without(front, "postgres-saga") as start:
        page = viewer.get(f"{LIST}/{name}")
        assert "adds up" in page.text
        assert "It could not be asked: the saga database" in page.text
        start()
        front.stack.wait_ready("postgres-saga")


def test_who_may_not_see_accounts_has_no_page(front: Front):
    with Pages(front, ADMIN) as pages:
        pages.client.headers["Authorization"] = f"Bearer {front.key('narrow', ADMIN, OPERATIONS)}"
        for path in ("/console", LIST, f"{LIST}/acc-1", f"{LIST}?id=acc-1"):
            assert "lacks the permission" in pages.get(path, 403).text
