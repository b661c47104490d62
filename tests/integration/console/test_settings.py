"""The page of settings: who one is, signing out, and the keys for who manages them."""

from datetime import UTC, datetime

import pytest

from api.access import ADMIN, MAY, OPERATOR, VIEWER
from api.credentials import create_key
from tests.integration.api.front import Front
from tests.integration.console.pages import HTML, SAME, Page, Pages

PAGE = "/console/settings"
JSON = "/v1/api-keys"
SIGN_OUT = "/console/sign-out"


@pytest.mark.parametrize("role", [VIEWER, OPERATOR, ADMIN])
def test_it_says_who_one_is_and_what_one_may(front: Front, role):
    for by_session in (True, False):
        with Pages(front, role, by_session=by_session) as pages:
            page = pages.get(PAGE)
            assert f"name of-{role} role {role}" in page.text
            assert ("with a session of this browser" in page.text) == by_session
            assert ("with an API key, which each request sends along" in page.text) != by_session
            listed = page.html.partition('<ul class="plain">')[2].partition("</ul>")[0].split("<li>")[1:]
            assert {Page(one.partition("</li>")[0]).text.split()[-1] for one in listed} == MAY[role]
            assert (SIGN_OUT in [about.get("action") for _, about in page.elements]) == by_session
            assert (JSON in page.links) == (role == ADMIN)
            assert ("create" in page.buttons) == (role == ADMIN)


def test_who_signs_out_is_out_also_with_the_cookie_of_before(front: Front):
    with Pages(front, VIEWER, by_session=True) as pages:
        cookie = pages.client.cookies["settle_session"]
        for site in ({}, {"Sec-Fetch-Site": "cross-site"}):
            assert pages.client.post(SIGN_OUT, headers=site).status_code == 403
        pages.get(PAGE)
        answer = pages.client.post(SIGN_OUT, headers=SAME)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console")
        assert "settle_session" not in pages.client.cookies
    with front.http(cookies={"settle_session": cookie}) as again:
        answer = again.get(PAGE, headers=HTML)
        assert answer.status_code == 401
        assert "Sign in with a link" in Page(answer.text).text


def test_signing_out_ends_no_other_session_and_no_key(front: Front):
    with Pages(front, VIEWER, by_session=True) as one, Pages(front, VIEWER, by_session=True) as other:
        assert one.client.post(SIGN_OUT, headers=SAME).status_code == 303
        other.get(PAGE)
    with Pages(front, VIEWER) as by_key:
        assert by_key.client.post(SIGN_OUT).status_code == 303
        by_key.get(PAGE)


def row_of(page: Page, key_id: str) -> str:
    (row,) = [row for row in page.html.split("<tr")[1:] if f'class="c-id mono">{key_id}<' in row]
    return Page(f"<table><tr{row.partition('</tr>')[0]}</tr></table>").text


def test_the_keys_are_those_of_the_json_without_their_secrets(front: Front, browser: Pages):
    limited = create_key(front.dsns["api"], "a-limited", "viewer", ["withdrawals:read"], 3_600.0)
    expired = create_key(front.dsns["api"], "an-expired", "viewer", expires_s=-1.0)
    page, keys = browser.get(PAGE), browser.json(JSON)["keys"]
    for key in keys:
        row = row_of(page, key["key_id"])
        created = datetime.fromisoformat(key["created_at"])
        assert f"{key['caller']} {key['role']}" in row
        assert f"{created:%Y-%m-%d %H:%M:%S}" in row
        assert (", ".join(key["scopes"]) or "all of the role") in row
    now = datetime.now(UTC)
    valid = {
        f"revoke-{key['key_id']}"
        for key in keys
        if key["revoked_at"] is None
        if key["expires_at"] is None or datetime.fromisoformat(key["expires_at"]) > now
    }
    assert {one for one in page.buttons if one.startswith("revoke-")} == valid
    assert "until 20" in row_of(page, limited.split("_")[1])
    assert "expired 20" in row_of(page, expired.split("_")[1])
    for key in (limited, expired):
        assert key.split("_", 2)[2] not in page.html


def test_a_key_is_made_and_revoked_by_what_the_dialogs_send(front: Front, browser: Pages):
    calls = {about["data-call"] for tag, about in browser.get(PAGE).elements if "data-call" in about}
    assert JSON in calls
    made = browser.client.post(
        JSON, json={"caller": "by-hand", "role": "viewer", "reason": "a test"}, headers=SAME
    ).json()
    page = browser.get(PAGE)
    assert "until it is revoked" in row_of(page, made["key_id"])
    assert made["key"] not in page.html
    call = f"{JSON}/{made['key_id']}/revoke"
    assert call in {about["data-call"] for tag, about in page.elements if "data-call" in about}
    assert browser.client.post(call, json={"reason": "a test"}, headers=SAME).status_code == 200
    page = browser.get(PAGE)
    assert "revoked 20" in row_of(page, made["key_id"])
    assert f"revoke-{made['key_id']}" not in page.buttons


def test_it_says_how_to_get_in(viewer: Pages):
    text = viewer.get(PAGE).text
    for words in ("settle up", "settle api-keys sign-in NAME --role viewer", "SETTLE_API_OIDC_ISSUER"):
        assert words in text
