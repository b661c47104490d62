"""Who may control a relay over HTTP, and how what is wrong with a request is said."""

import hmac
import http.client
import json
from urllib.parse import quote

import pytest
from prometheus_client import CollectorRegistry

from contracts import health
from contracts.health import HealthServer, Page, Request
from outbox_relay.control import acts, pages
from outbox_relay.control.acts import Asked, Result
from outbox_relay.control.pages import PREFIX, ControlPages
from outbox_relay.errors import RefusedError
from outbox_relay.source_settings import SourceSettings

TOKEN = "a-token-of-this-test"
LOOPBACK, BEYOND = "127.0.0.1", "0.0.0.0"
NAME = 'shop.sales."Order Events/2"'
SOURCES = (SourceSettings("dbname=shop", "nowhere:1", name="shop"), SourceSettings("x", "nowhere:1", name=NAME))


@pytest.fixture(autouse=True)
def done(monkeypatch):
    """What was asked of sources, none of which is there."""
    asked = []

    def pause(source, who):
        asked.append((source.name, who))
        return Result(str(source.name), 7, "asked", "to be paused")

    monkeypatch.setattr(acts, "pause", pause)
    status = acts.SourceStatus("shop", "unknown", None, (), None, None, "away")
    monkeypatch.setattr(acts, "status", lambda *_: status)
    return asked


def ask(method, path, body=None, *, token=TOKEN, listens=LOOPBACK, given=None, **headers):
    """The status and the JSON that are answered."""
    sent = {"host": "127.0.0.1:9100", "content-type": "application/json"} | headers
    if given is not None:
        sent["authorization"] = given
    raw = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    answer = ControlPages(SOURCES, token)(Request(method, path, sent, raw, "10.0.0.5", listens))
    if answer.status >= 400:
        assert answer.content_type == "application/problem+json"
        assert set(json.loads(answer.text)) == {"type", "title", "status", "detail"}
    return answer, json.loads(answer.text)


BEARER = f"Bearer {TOKEN}"
READ, ACT = ("GET", "/v1/sources"), ("POST", "/v1/sources/shop/pause")


@pytest.mark.parametrize(
    ("what", "listens", "token", "given", "status"),
    [
        (READ, LOOPBACK, None, None, 200),
        (ACT, LOOPBACK, None, None, 202),
        (READ, LOOPBACK, TOKEN, None, 200),
        (READ, "::1", TOKEN, None, 200),
        (ACT, LOOPBACK, TOKEN, None, 401),
        (ACT, LOOPBACK, TOKEN, BEARER, 202),
        (ACT, LOOPBACK, TOKEN, BEARER.replace("Bearer", "bearer"), 202),
        (READ, BEYOND, None, None, 403),
        (ACT, BEYOND, None, None, 403),
        (ACT, BEYOND, None, BEARER, 403),
        (ACT, BEYOND, None, "Bearer ", 403),
        (READ, BEYOND, TOKEN, None, 401),
        (READ, BEYOND, TOKEN, BEARER, 200),
        (READ, "::", TOKEN, None, 401),
        (ACT, BEYOND, TOKEN, BEARER + "x", 401),
        (ACT, BEYOND, TOKEN, BEARER[:-1], 401),
        (ACT, BEYOND, TOKEN, f"Basic {TOKEN}", 401),
        (ACT, BEYOND, TOKEN, "Bearer \N{SNOWMAN}\udc80", 401),
        (ACT, BEYOND, TOKEN, BEARER, 202),
    ],
)
def test_acts_need_the_token_and_beyond_loopback_all_does(done, what, listens, token, given, status):
    answer, body = ask(*what, token=token, listens=listens, given=given)
    assert answer.status == status
    assert len(done) == (status == 202)
    if status == 403:
        assert "SETTLE_RELAY_HTTP_TOKEN" in body["detail"]
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_token_is_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(pages.hmac, "compare_digest", lambda *both: compared.append(both) or True)
    assert ask(*ACT, given="Bearer anything")[0].status == 202
    assert compared == [(b"anything", TOKEN.encode())]
    monkeypatch.undo()
    assert hmac.compare_digest is pages.hmac.compare_digest


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"host": "evil.example:9100"}, {"host": ""}, {"origin": "null"}],
)
@pytest.mark.parametrize("what", [READ, ACT])
def test_a_page_in_a_browser_of_the_machine_reaches_nothing_without_a_token(done, headers, what):
    assert ask(*what, token=None, **headers)[0].status == 403
    assert done == []


@pytest.mark.parametrize("host", ["localhost:1", "localhost", "127.0.0.1", "[::1]:9100", "[::1]"])
def test_programs_of_the_machine_are_heard(host):
    assert ask(*ACT, token=None, host=host)[0].status == 202


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_form_is_no_act(done, kind):
    assert ask(*ACT, token=None, **{"content-type": kind})[0].status == 415
    assert done == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/sources/shop/pause", 202),
        (f"/v1/sources/{quote(NAME, safe='')}/pause", 202),
        ("/v1/sources/shop/../other/pause", 404),
        ("/v1/sources/..%2F..%2Fetc%2Fpasswd/pause", 404),
        ("/v1/sources//pause", 404),
        ("/v1/sources/shop//pause", 404),
        ("/v1/sources/shop/pause/", 404),
        (f"/v1/sources/{'x' * 60_000}/pause", 404),
        ("/v1/sources/%00/pause", 404),
        ("/v1/sources/shop'%20OR%201=1--/pause", 404),
        ("/v1/sources/%ff%fe/pause", 404),
        ("/v1/sources/shop/drop", 404),
        ("/v1/others", 404),
        ("/v1/", 404),
    ],
)
def test_sources_are_found_by_their_names_and_no_others(done, path, status):
    answer, body = ask("POST", path, given=BEARER)
    assert answer.status == status
    assert len(done) == (status == 202)
    if status == 404:
        assert len(body["detail"]) < 300


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 202),
        (b"{}", 202),
        (b"[]", 422),
        (b"{", 422),
        (b"\xff", 422),
        (b'{"reason": "\xff"}', 422),
        (b"[" * 60_000, 422),
        ({"reason": 7}, 422),
        ({"reasn": "x"}, 422),
        ({"reason": "x" * 501}, 422),
        ({"reason": "two\nlines"}, 422),
        ({"reason": "\x00"}, 422),
        ({"by": "\x1b[31m"}, 422),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(done, body, status):
    assert ask(*ACT, body, given=BEARER)[0].status == status
    assert len(done) == (status == 202)


def test_who_asks_is_named_with_the_address_that_it_came_from(done):
    ask(*ACT, {"by": "alice", "reason": "a mend"}, given=BEARER)
    ask(*ACT, given=BEARER)
    assert done == [("shop", Asked("alice (HTTP, 10.0.0.5)", "a mend")), ("shop", Asked("HTTP, 10.0.0.5"))]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", ACT[1], "POST"), ("DELETE", "/v1/sources/shop", "GET, HEAD"), ("POST", "/v1/sources", "GET, HEAD")],
)
def test_a_method_that_is_not_there_is_refused(method, path, allowed):
    answer, _ = ask(method, path, given=BEARER)
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize(("why", "status"), [("not-found", 404), ("conflict", 409), ("unavailable", 503)])
def test_what_is_refused_says_why(monkeypatch, why, status):
    def skip(*_):
        raise RefusedError(why, "for that reason")

    monkeypatch.setattr(acts, "skip", skip)
    answer, body = ask("POST", "/v1/sources/shop/skip", {"row": "x", "reason": "y"}, given=BEARER)
    assert (answer.status, body["detail"]) == (status, "for that reason")
    assert ask("POST", "/v1/sources/shop/skip", {"reason": "y"}, given=BEARER)[0].status == 422
    assert ask("POST", "/v1/sources/shop/dead/retry", {"reason": "y"}, given=BEARER)[0].status == 422
    assert ask("POST", "/v1/sources/shop/rewind", {"since": "yesterday"}, given=BEARER)[0].status == 422


@pytest.fixture
def served():
    """The pages on a port of their own."""
    control = ControlPages(SOURCES, TOKEN)
    server = HealthServer(
        LOOPBACK, 0, lambda: Page(200, "alive"), lambda: Page(200, "ready"), CollectorRegistry(), {PREFIX: control}
    )
    yield server
    server.close()


def test_health_pages_stay_as_they_are_and_control_answers_beside_them(served, done):
    connection = http.client.HTTPConnection(LOOPBACK, served.port, timeout=5)

    def answer(method, path, body=None, **headers):
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        got = connection.getresponse()
        return got.status, got.read()

    assert answer("GET", "/healthz") == (200, b"alive")
    assert answer("POST", "/healthz")[0] == 405
    assert answer("GET", "/v1/sources")[0] == 200
    assert answer("HEAD", "/v1/sources") == (200, b"")
    assert answer("OPTIONS", ACT[1])[0] == 401
    act = {"Authorization": BEARER, "Content_Type": "application/json"}
    assert answer(*ACT, b'{"reason": "x"}', **act)[0] == 202
    assert answer(*ACT, b"{}", Content_Type="application/json")[0] == 401
    assert answer(*ACT, b" " * (health.BODY_BYTES_MAX + 1), **act)[0] == 413
    assert answer(*ACT, None, **act, Content_Length="9" * 30)[0] == 413
    assert answer(*ACT, None, **act, Content_Length="-1")[0] == 411
    assert answer(*ACT, None, **act, Transfer_Encoding="chunked")[0] == 411
    assert len(done) == 1
