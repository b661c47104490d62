"""The list of withdrawals: what the JSON lists, by the same filters, live without jumping."""

from uuid import UUID

import pytest

from tests.conftest import wait_until
from tests.integration.api.front import WITHDRAWALS, Front, requested
from tests.integration.console.conftest import STUCK_S
from tests.integration.console.pages import Page, Pages, deducted, without

LIST = "/console/withdrawals"


def shown(page: Page) -> list[str]:
    """The payment IDs in their order."""
    links = [link for link in page.links if link.startswith(f"{LIST}/")]
    return [link.rpartition("/")[2] for link in links[::2]]


@pytest.fixture
def account(front: Front, shop) -> str:
    """An account with one withdrawal of each end, the newest first: compensated, rejected, completed."""
    name = front.open_account()
    for amount in ("1.00", "20000.00", "1.05"):
        front.finished(requested(shop, name, amount))
    return name


def test_it_lists_what_the_json_lists_with_the_same_filter(front: Front, viewer: Pages, account):
    for query in (
        "",
        "&state=rejected",
        "&state=rejected&state=compensated",
        "&reason=declined",
        "&in_flight=true",
    ):
        path = f"?account_id={account}{query}"
        listed = [one["payment_id"] for one in viewer.json(f"{WITHDRAWALS}{path}")["withdrawals"]]
        page = viewer.get(f"{LIST}{path}")
        assert shown(page) == listed
        assert f"{WITHDRAWALS}{path}" in page.links
    assert "20,000.00 USD" in viewer.get(f"{LIST}?account_id={account}").text
    # A form sends its empty fields along.
    empty = "&since=&until=&reason=&silent_s="
    assert len(shown(viewer.get(f"{LIST}?account_id={account}{empty}"))) == 3


def test_times_are_utc_as_a_form_writes_them(front: Front, viewer: Pages, account):
    page = viewer.get(f"{LIST}?account_id={account}&since=2020-01-01T00:00")
    (as_json,) = [link for link in page.links if link.startswith(WITHDRAWALS)]
    assert shown(page) == [one["payment_id"] for one in viewer.json(as_json)["withdrawals"]] != []
    assert shown(viewer.get(f"{LIST}?account_id={account}&until=2020-01-01T00:00")) == []
    assert "No withdrawal matches" in viewer.get(f"{LIST}?account_id={account}&until=2020-01-01T00:00").text


def test_pages_follow_each_other_without_gap_or_repeat(front: Front, shop, viewer: Pages):
    name = front.open_account()
    wanted = [str(requested(shop, name)) for _ in range(120)]
    for payment_id in wanted:
        front.finished(UUID(payment_id))
    found: list[str] = []
    path = f"{LIST}?account_id={name}"
    while path:
        page = viewer.get(path)
        found += shown(page)
        older = [about["href"] for _, about in page.elements if about.get("rel") == "next"]
        assert (not older) == (len(found) == len(wanted))
        path = older[0] if older else ""
    assert sorted(found) == sorted(wanted)
    assert len(set(found)) == len(found)


def test_a_stuck_one_is_behind_its_shortcut_and_its_row_changes_in_place(front: Front, shop, viewer: Pages):
    name = front.open_account()
    with without(front, "payment") as start:
        payment_id = requested(shop, name)
        deducted(front, payment_id)  # nothing more happens to it then
        stuck = f"account_id={name}&silent_s={STUCK_S:g}"
        wait_until(lambda: shown(viewer.get(f"{LIST}?{stuck}")) == [str(payment_id)], "it is stuck")
        assert [one["payment_id"] for one in viewer.json(f"{WITHDRAWALS}?{stuck}")["withdrawals"]] == [
            str(payment_id)
        ]
        assert f"{LIST}?silent_s={STUCK_S:g}" in viewer.get(LIST).links
        page = viewer.get(f"{LIST}?account_id={name}")
        row = f"row-{payment_id}"
        assert row in page.places
        with viewer.stream(page.stream) as fragments:
            assert "deducted" in next(text for found, text in fragments if found == row)
            start()
            assert any("completed" in text for found, text in fragments if found == row)
    front.finished(payment_id)


def test_newer_ones_wait_behind_a_bar_that_counts_them(front: Front, shop, viewer: Pages, account):
    page = viewer.get(f"{LIST}?account_id={account}&state=completed&state=compensated&state=rejected")
    with viewer.stream(page.stream) as fragments:
        bars = (text for name, text in fragments if name == "newer")
        assert next(bars) == ""
        front.finished(requested(shop, account))
        assert "1 newer" in Page(next(bars)).text
        front.finished(requested(shop, account, "1.05"))
        assert "2 newer" in Page(next(bars)).text
        front.finished(requested(shop, front.open_account()))  # of another account
    assert len(shown(viewer.get(f"{LIST}?account_id={account}"))) == 5


def test_a_filter_that_nothing_matched_counts_what_comes(front: Front, shop, viewer: Pages):
    name = front.open_account()
    page = viewer.get(f"{LIST}?account_id={name}")
    with viewer.stream(page.stream) as fragments:
        bars = (text for found, text in fragments if found == "newer")
        assert next(bars) == ""
        front.finished(requested(shop, name))
        assert "1 newer: show it" in Page(next(bars)).text


@pytest.mark.parametrize(
    "query",
    [
        "open=x",
        "newest=x",
        "silent_s=x",
        "silent_s=-1",
        "state=x",
        "newest=&account_id=%00",
        "newest=&newest=",
        "x=",
    ],
)
def test_a_stream_of_what_is_no_filter_is_refused(viewer: Pages, query):
    assert viewer.status(f"{LIST}/stream?{query}") == 422
