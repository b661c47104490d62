"""Who may do what: every route with every role, and nobody without a key."""

from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from api.access import ACCOUNTS, ADMIN, CLIENT, MAY, OPERATIONS, OPERATOR, PERMISSIONS, READ, ROLES, VIEWER
from api.app import make_litestar
from api.credentials import REMEMBERED_S, SIGN_IN_S, list_keys, offer_sign_in, revoke_key
from api.guard import OPEN, PERMISSION
from cli import up
from tests.conftest import wait_until
from tests.integration.api.front import BUSY_S, WITHDRAWALS, Front, ask, body, new_key

EVERYBODY = set(ROLES)
PEOPLE = {VIEWER, OPERATOR, ADMIN}
OPERATORS = {OPERATOR, ADMIN}
A_PAYMENT = UUID("01a20aeb-4358-716a-b291-9134760df1f7")

# Each route: who may. What a client may it may with its own withdrawals; this one is nobody's.
TABLE = {
    ("POST", "/v1/withdrawals"): {CLIENT, ADMIN},
    ("GET", "/v1/withdrawals"): EVERYBODY,
    ("GET", "/v1/withdrawals/{payment_id:uuid}"): EVERYBODY,
    ("GET", "/v1/withdrawals/{payment_id:uuid}/events"): EVERYBODY,
    ("POST", "/v1/withdrawals/{payment_id:uuid}/cancel"): {CLIENT, OPERATOR, ADMIN},
    ("GET", "/v1/events"): EVERYBODY,
    ("GET", "/v1/accounts"): PEOPLE,
    ("GET", "/v1/accounts/{account_id:str}"): PEOPLE,
    ("GET", "/v1/accounts/{account_id:str}/ledger"): PEOPLE,
    ("GET", "/v1/accounts/{account_id:str}/proof"): PEOPLE,
    ("POST", "/v1/accounts"): {ADMIN},
    ("GET", "/v1/flow"): PEOPLE,
    ("GET", "/v1/stuck"): PEOPLE,
    ("POST", "/v1/republish"): OPERATORS,
    ("POST", "/v1/republish/preview"): PEOPLE,
    ("GET", "/v1/topics"): PEOPLE,
    ("GET", "/v1/traces"): PEOPLE,
    ("GET", "/v1/withdrawals/{payment_id:uuid}/trace"): PEOPLE,
    ("GET", "/v1/gaps"): PEOPLE,
    ("POST", "/v1/gaps/acknowledge"): OPERATORS,
    ("GET", "/v1/withdrawals/{payment_id:uuid}/waiting"): PEOPLE,
    ("POST", "/v1/withdrawals/{payment_id:uuid}/nudge"): OPERATORS,
    ("GET", "/v1/dead-letters"): PEOPLE,
    ("GET", "/v1/dead-letters/{topic:str}/{place:str}"): PEOPLE,
    ("POST", "/v1/dead-letters/redrive"): OPERATORS,
    ("POST", "/v1/dead-letters/discard"): OPERATORS,
    ("GET", "/v1/outboxes"): PEOPLE,
    ("GET", "/v1/outboxes/dead-rows"): PEOPLE,
    ("POST", "/v1/outboxes/dead-rows/retry"): OPERATORS,
    ("POST", "/v1/outboxes/dead-rows/discard"): OPERATORS,
    ("POST", "/v1/outboxes/{service:str}/drop-slot"): OPERATORS,
    ("GET", "/v1/steps"): PEOPLE,
    ("POST", "/v1/audits"): OPERATORS,
    ("GET", "/v1/audits"): PEOPLE,
    ("GET", "/v1/audits/{audit_id:uuid}"): PEOPLE,
    ("GET", "/v1/operator-log"): PEOPLE,
    ("GET", "/v1/api-keys"): {ADMIN},
    ("POST", "/v1/api-keys"): {ADMIN},
    ("POST", "/v1/api-keys/{key_id:str}/revoke"): {ADMIN},
}
# What names nothing that exists, so that whoever may does no harm.
NAMES = {
    "{payment_id:uuid}": str(A_PAYMENT),
    "{audit_id:uuid}": str(A_PAYMENT),
    "{account_id:str}": "acc-none",
    "{topic:str}": "account.events",
    "{place:str}": "0@7000000",
    "{service:str}": "nobody",
    "{key_id:str}": "nobody",
}
BODIES = {
    "/v1/withdrawals": body("acc-none"),
    "/v1/dead-letters/redrive": {"ids": ["nobody"]},
    "/v1/dead-letters/discard": {"ids": ["nobody"]},
    "/v1/outboxes/dead-rows/retry": {"rows": [{"service": "account", "number": 10**9}]},
    "/v1/outboxes/dead-rows/discard": {"rows": [{"service": "account", "number": 10**9}]},
    "/v1/audits": {"wait_s": 0},
    "/v1/accounts": {"account_ids": ["acc-of-roles"], "balance": "1.00", "currency": "USD"},
    "/v1/republish": {"payment_ids": [str(A_PAYMENT)]},
    "/v1/gaps/acknowledge": {
        "gaps": [{"service": "saga", "topic": "none", "partition": 0, "first": 0, "until": 1}]
    },
    "/v1/api-keys": {"caller": "made", "role": "client"},
}
OPEN_ROUTES = {"/", "/v1/openapi.json", "/v1/docs", "/v1/sign-in", "/console/static/{version:str}/{name:str}"}

SIGN_OUT = ("POST", "/console/sign-out")
"""The one page that changes something: the session of who asks."""


def routes():
    """Every method and path of the application, with the handler's options."""
    for route in make_litestar(None).routes:
        for handler in route.route_handlers:
            for method in handler.http_methods:
                if method != "OPTIONS":
                    yield (str(method), route.path), handler.opt


def test_the_table_has_every_route_and_no_other_is_open():
    found = dict(routes())
    pages = {place for place in found if place[1].startswith("/console") and not found[place].get(OPEN)}
    asked = {(method, found[method, path].get(PERMISSION)) for method, path in pages - {SIGN_OUT}}
    assert asked == {("GET", OPERATIONS)}
    assert found[SIGN_OUT][PERMISSION] == OPERATIONS
    assert {path for (_, path), opt in found.items() if opt.get(OPEN)} <= OPEN_ROUTES
    guarded = {place: opt[PERMISSION] for place, opt in found.items() if not opt.get(OPEN) and place not in pages}
    assert set(guarded) == set(TABLE)
    for place, permission in guarded.items():
        assert TABLE[place] == {role for role in ROLES if permission in MAY[role]}, place


@pytest.fixture(scope="module")
def keys(front: Front):
    return {role: front.key(f"of-{role}", role) for role in ROLES}


def send(client: httpx.Client, method: str, path: str):
    """The status of a request to a route; of a stream, its head is enough."""
    place = path
    for name, value in NAMES.items():
        place = place.replace(name, value)
    why = {} if path in (WITHDRAWALS, "/v1/republish/preview") else {"reason": "a test of roles"}
    payload = {"json": BODIES.get(path, {}) | why} if method == "POST" else {}
    with client.stream(method, place, headers={"Idempotency-Key": new_key()}, **payload) as answer:
        if answer.headers["content-type"].startswith("text/event-stream"):
            return answer.status_code, ""
        answer.read()
        return answer.status_code, answer.json().get("type", "")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path"), TABLE, ids=lambda value: value)
def test_a_role_may_what_the_table_says_and_nothing_else(front: Front, keys, method, path, role):
    with front.http(keys[role]) as client:
        status, kind = send(client, method, path)
    if role in TABLE[method, path]:
        nothing = [(404, "urn:settle:problem:not-found"), (409, "urn:settle:problem:audit-running")]
        assert status in (200, 201, 202) or (status, kind) in nothing
    else:
        assert (status, kind) == (403, "urn:settle:problem:forbidden")


@pytest.mark.parametrize(("method", "path"), TABLE, ids=lambda value: value)
def test_nobody_gets_in_without_a_key_that_is_valid(front: Front, keys, method, path):
    real = keys[ADMIN]
    _, key_id, secret = real.split("_", 2)
    forged = {
        "none": None,
        "not ours": "Bearer abc",
        "another scheme": f"Basic {real}",
        "another secret": f"Bearer settle_{key_id}_{'A' * len(secret)}",
        "another ID": f"Bearer settle_000000000000_{secret}",
        "no secret": f"Bearer settle_{key_id}_",
        "a role of its own": f"Bearer settle_{key_id}_{secret}_admin",
        "much too long": f"Bearer settle_{key_id}_{secret * 100}",
    }
    for what, authorization in forged.items():
        with front.http() as client:
            if authorization is not None:
                client.headers["Authorization"] = authorization
            assert send(client, method, path) == (401, "urn:settle:problem:unauthenticated"), what
    with front.http() as client:
        assert client.get(WITHDRAWALS).headers["www-authenticate"] == "Bearer"


def test_a_key_may_be_limited_to_scopes_but_not_beyond_its_role(front: Front):
    with front.http(front.key("limited", CLIENT, "withdrawals:read")) as client:
        assert client.get(WITHDRAWALS).status_code == 200
        assert ask(client, "acc-none").status_code == 403
    with front.http(front.key("greedy", CLIENT, *PERMISSIONS)) as client:
        assert client.get("/v1/accounts").status_code == 403


@pytest.mark.parametrize("without", [READ, ACCOUNTS])
def test_what_operators_see_has_whole_events_and_is_for_who_may_see_those(front: Front, without: str):
    with front.http(
        front.key(f"without-{uuid7()}", VIEWER, *({OPERATIONS, READ, ACCOUNTS} - {without}))
    ) as client:
        for path in (
            "/v1/dead-letters",
            "/v1/outboxes",
            "/console/withdrawals",
            f"/console/withdrawals/{uuid7()}",
        ):
            assert client.get(path).status_code == 403
        preview = client.post("/v1/republish/preview", json={})
        assert preview.status_code == 403


def test_a_session_is_found_among_cookies_of_other_programs_on_the_host(front: Front):
    with front.http() as browser:
        token = offer_sign_in(front.dsns["api"], "alice", VIEWER)
        browser.get("/v1/sign-in", params={"token": token, "sure": True}, follow_redirects=False)
        (ours,) = (f"{one.name}={one.value}" for one in browser.cookies.jar)
    with front.http() as client:
        for others in ('a={"x":1}', "flag", "a[b]=1", "=v", "path=/", "a=\xe4", 'a="', f"x{ours}", "a=b=c"):
            for cookie in (f"{others}; {ours}", f"{ours}; {others}", f"{others};{ours} ;"):
                answer = client.get("/console/settings", headers={"Cookie": cookie.encode("latin-1")})
                assert answer.status_code == 200, cookie
        assert client.get("/console/settings", headers={"Cookie": f"x{ours}"}).status_code == 401


def test_a_key_that_has_expired_or_is_revoked_lets_nobody_in(front: Front):
    with front.http(front.key("late", CLIENT, expires_s=-1.0)) as client:
        assert client.get(WITHDRAWALS).status_code == 401
    key = front.key("gone")
    with front.http(key) as client:
        assert client.get(WITHDRAWALS).status_code == 200
        assert revoke_key(front.dsns["api"], key.split("_")[1])
        assert not revoke_key(front.dsns["api"], key.split("_")[1])
        wait_until(lambda: client.get(WITHDRAWALS).status_code == 401, "it is refused", REMEMBERED_S + BUSY_S)


def test_no_secret_is_stored_or_listed(front: Front):
    key = front.key("secret")
    secret = key.split("_", 2)[2]
    stored = front.query("api", "SELECT a::text, encode(secret_hash, 'escape') FROM api_keys a")
    assert not [row for row in stored if any(secret in value for value in row)]
    (listed,) = [one for one in list_keys(front.dsns["api"]) if one.caller == "secret"]
    assert secret not in repr(listed)


def test_a_client_sees_its_own_withdrawals_and_of_others_not_even_that_they_exist(front: Front):
    account = front.open_account()
    with front.http(front.key("shop-a")) as a, front.http(front.key("shop-b")) as b:
        own = ask(a, account).json()["payment_id"]
        nobodys = str(uuid7())
        for path in ("", "/events"):
            assert a.get(f"{WITHDRAWALS}/{own}{path}").status_code == 200
            of_others, unknown = (b.get(f"{WITHDRAWALS}/{one}{path}") for one in (own, nobodys))
            assert (of_others.status_code, unknown.status_code) == (404, 404)
            assert of_others.text.replace(own, nobodys) == unknown.text
        assert b.post(f"{WITHDRAWALS}/{own}/cancel").status_code == 404
        assert [one["payment_id"] for one in a.get(WITHDRAWALS).json()["withdrawals"]] == [own]
        assert b.get(WITHDRAWALS).json() == {"withdrawals": [], "cursor": None}
    with front.http(front.key("eve", VIEWER)) as viewer:
        front.finished(UUID(own))
        assert viewer.get(f"{WITHDRAWALS}/{own}").status_code == 200


def test_the_link_that_settle_up_prints_signs_in_who_may_everything(front: Front):
    with front.http() as browser:
        link = up._sign_in_link(front.stack.state)
        assert browser.get(link, headers={"Sec-Fetch-Site": "none"}, follow_redirects=True).status_code == 200
        assert browser.get("/v1/accounts").status_code == 200


def test_a_one_time_token_signs_one_person_in_once(front: Front):
    assert SIGN_IN_S < 3600
    token = offer_sign_in(front.dsns["api"], "laptop", ADMIN)
    with front.http() as browser:
        answer = browser.get("/v1/sign-in", params={"token": token, "sure": True}, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console")
        cookie = answer.headers["set-cookie"]
        assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/"))
        assert browser.get(WITHDRAWALS).status_code == 200
        ours = {"Sec-Fetch-Site": "same-origin"}
        by_another = browser.post(WITHDRAWALS, json=body("acc-none"), headers={"Idempotency-Key": new_key()})
        by_ours = browser.post(WITHDRAWALS, json=body("acc-none"), headers={"Idempotency-Key": new_key(), **ours})
        assert (by_another.status_code, by_ours.status_code) == (403, 202)
    for spent in (token, "nonsense"):
        with front.http() as other:
            answer = other.get("/v1/sign-in", params={"token": spent, "sure": True}, follow_redirects=False)
            assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)


def test_who_may_not_see_accounts_learns_no_balance_and_no_address_from_events(front: Front):
    with front.http(front.key("shop-c")) as shop, front.http(front.key("eve", VIEWER)) as viewer:
        payment_id = ask(shop, front.open_account()).json()["payment_id"]
        front.finished(UUID(payment_id))
        path = f"{WITHDRAWALS}/{payment_id}/events"
        assert shop.get(f"/v1/accounts/{front.open_account()}").status_code == 403
        whole, shown = (one.get(path).json()["events"] for one in (viewer, shop))
        names, told = ({name for one in some for name in one["payload"]} for some in (whole, shown))
        withheld = names - told
        assert withheld == {"balance_minor", "recipient"}
        assert [one["payload"].keys() - withheld for one in whole] == [one["payload"].keys() for one in shown]
        streamed = shop.get(path, headers={"Accept": "text/event-stream"}).text
        assert "WithdrawalCompleted" in streamed
        assert not any(name in streamed for name in withheld)
        assert all(name in viewer.get(path, headers={"Accept": "text/event-stream"}).text for name in withheld)
