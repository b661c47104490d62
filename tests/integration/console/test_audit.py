"""The pages of audits: live while one runs, equal to the JSON, and a finding leads to what it is about."""

from typing import Any

from api.access import OPERATOR, VIEWER
from tests.conftest import wait_until
from tests.integration.api.front import Front, requested
from tests.integration.console.pages import SAME, Page, Pages, deducted, without

LIST = "/console/audit"
JSON = "/v1/audits"


def ended(operator: Pages) -> dict[str, Any]:
    """A new audit, as the JSON says."""
    answer = operator.client.post(JSON, json={"reason": "a test", "wait_s": 30})
    assert answer.status_code == 202, answer.text
    where = answer.headers["location"]
    return wait_until(lambda: (found := operator.json(where))["state"] != "running" and found, "it has ended")


def says_what(page: Page, found: dict[str, Any]) -> None:
    result = found["result"]
    for check in result["checks"]:
        for part in check["detail"].split("; "):
            assert f"{check['name']} " in page.text
            assert part in page.text
    assert f"{result['withdrawals']:,} withdrawal" in page.text
    for state, number in result["outcomes"].items():
        assert f"{state} {number:,}" in page.text
    marks = page.html.count('<td class="c-check"><span class="tone t-bad">')
    assert marks == sum(not check["ok"] for check in result["checks"])


def test_a_page_says_what_the_json_says(front: Front, shop, operator: Pages):
    front.finished(requested(shop, front.open_account(), "1.05"))
    found = ended(operator)
    verdict = {"holds": "It holds: no cent is lost or doubled", "does not hold": "It does not hold:"}
    for path in (LIST, f"{LIST}/{found['audit_id']}"):
        page = operator.get(path)
        says_what(page, found)
        assert verdict[found["state"]] in page.text
        assert f"by {found['started_by']}, took" in page.text
    assert JSON in operator.get(LIST).links
    assert f"{JSON}/{found['audit_id']}" in operator.get(f"{LIST}/{found['audit_id']}").links


def test_it_is_live_while_it_runs_and_shows_what_it_found(front: Front, shop, operator: Pages):
    with without(front, "payment") as start:
        payment_id = requested(shop, front.open_account())
        deducted(front, payment_id)
        with operator.stream(operator.get(LIST).stream) as fragments:
            where = operator.client.post(JSON, json={"reason": "a test", "wait_s": 60}).headers["location"]
            audit_id = where.rpartition("/")[2]
            running = next(text for name, text in fragments if name == "audit" and "data-running" in text)
            assert "It runs, for" in Page(running).text
            assert "It runs, for" in operator.get(f"{LIST}/{audit_id}").text
            start()
            assert any(
                name == "audits" and f"/{audit_id}" in text and "running" not in text for name, text in fragments
            )
        with operator.stream(operator.get(f"{LIST}/{audit_id}").stream) as fragments:
            says_what(Page(next(text for name, text in fragments if name == "audit")), operator.json(where))
    front.finished(payment_id)


def test_each_finding_leads_to_what_it_is_about(front: Front, shop, operator: Pages):
    account = front.open_account()
    payment_id = requested(shop, account)
    front.finished(payment_id)
    change = "UPDATE ledger SET amount_minor = amount_minor - 3 WHERE payment_id = %s RETURNING 1"
    front.execute("account", "ALTER TABLE ledger DISABLE TRIGGER USER")
    try:
        assert front.query("account", change, payment_id)
        found = ended(operator)
        page = operator.get(f"{LIST}/{found['audit_id']}")
        assert found["state"] == "does not hold"
        assert "It does not hold:" in page.text
        assert f"{account}: off by 3" in page.text
        assert f"{payment_id}: deducted, but the ledger has" in page.text
        for link in (f"/console/withdrawals/{payment_id}", f"/console/accounts/{account}"):
            assert page.links.count(link) == 1
            operator.get(link)
        row = Page(
            operator.get(LIST).html.partition('aria-label="Audits"')[2].partition("<tbody>")[2].split("</tr>")[0]
        )
        assert "does not hold" in row.text
        assert "balances, ledger" in row.text
        assert operator.get(LIST).text.count("Audit does not hold") <= 1
    finally:
        assert front.query("account", change.replace("- 3", "+ 3"), payment_id)
        front.execute("account", "ALTER TABLE ledger ENABLE TRIGGER USER")


def test_older_ones_are_on_further_pages_without_gap_or_repeat(front: Front, viewer: Pages):
    add = """INSERT INTO audits (audit_id, started_by, started_at, finished_at, error)
        SELECT gen_random_uuid(), 'long ago', now() - n * interval '1 day', now(), 'Kafka is away'
        FROM generate_series(100, 145) AS n"""
    front.execute("api", add)
    shown, path = list[str](), LIST
    while path:
        page = viewer.get(path)
        shown += [link.rpartition("/")[2] for link in page.links if link.startswith(f"{LIST}/")]
        path = next((about["href"] or "" for _, about in page.elements if about.get("rel") == "next"), "")
    listed = viewer.json(f"{JSON}?limit=100")["audits"]
    assert shown == [one["audit_id"] for one in listed]
    assert len(shown) >= 46
    old = viewer.get(f"{LIST}/{shown[-1]}").text
    assert "It could not look at everything" in old
    assert "Kafka is away" in old


def test_only_who_may_is_offered_one_and_a_session_runs_it(front: Front):
    for role, offered in ((VIEWER, set()), (OPERATOR, {"run"})):
        with Pages(front, role, by_session=True) as pages:
            page = pages.get(LIST)
            assert set(page.buttons) == offered
            assert {about.get("data-call") for tag, about in page.elements if tag == "form"} - {None} == (
                {JSON} if offered else set()
            )
            answer = pages.client.post(JSON, json={"reason": "by hand"}, headers=SAME)
            assert answer.status_code == (202 if offered else 403)
            if offered:
                where = answer.headers["location"]
                wait_until(lambda of=where, by=pages: by.json(of)["state"] != "running", "it has ended")


def test_an_audit_that_there_is_not_is_an_error_in_words(viewer: Pages):
    assert "there is no audit" in viewer.get(f"{LIST}/01a20aeb-4358-716a-b291-9134760df1f7", 404).text
    viewer.get(f"{LIST}/01a20aeb-4358-716a-b291-9134760df1f7/stream", 404)
