"""Whatever is sent, the answer is a problem that says what is wrong, and nothing falls over."""

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest

from api import openapi
from tests.conftest import WAIT_S, wait_until
from tests.integration.api.front import WITHDRAWALS, Front, ask, body, new_key, running_with_api

JSON = "application/json"


def problem(answer, status, kind):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found.keys() == {"type", "title", "status", "detail"}
    assert (found["type"], found["status"]) == (f"urn:settle:problem:{kind}", status)
    assert found["title"]
    assert found["detail"]
    return found["detail"]


def test_what_is_not_there_or_not_so_is_a_problem_too(front: Front):
    with front.http(front.key()) as client:
        problem(client.get("/nothing"), 404, "path-unknown")
        problem(client.get("/v1/withdrawals/no-uuid"), 404, "path-unknown")
        refused = client.delete(WITHDRAWALS)
        problem(refused, 405, "method-not-allowed")
        assert set(refused.headers["allow"].replace(" ", "").split(",")) >= {"GET", "POST"}


def test_a_path_with_a_slash_at_its_end_is_answered_alike(front: Front):
    """It goes all the way through Litestar; one without takes the short way."""
    key, account = front.key(), front.open_account()
    right = json.dumps(body(account)).encode()
    wrong = (
        {"content": b"{"},
        {"content": b"{}"},
        {"content": right.replace(b"1.00", b"1.001")},
        {"content": b"x" * 20_000},
        {"headers": {"Content-Type": "text/plain"}},
        {"headers": {"Idempotency-Key": ""}},
        {"headers": {"Authorization": "Bearer settle_none_none"}},
    )
    with front.http(key) as client:

        def asked(path: str, content: bytes = right, headers: dict[str, str] | None = None):
            fields = {"Content-Type": JSON, "Idempotency-Key": new_key(), **(headers or {})}
            return client.post(path, content=content, headers=fields)

        for one in wrong:
            short, long = (asked(path, **one) for path in (WITHDRAWALS, f"{WITHDRAWALS}/"))
            assert short.status_code >= 400
            assert (short.status_code, short.json()) == (long.status_code, long.json())
            # A body that is not whole when it is refused ends the connection, which is a matter of packets.
            assert {*short.headers} ^ {*long.headers} <= {"connection"}
        same = {"Idempotency-Key": new_key()}
        first, again = asked(WITHDRAWALS, headers=same), asked(f"{WITHDRAWALS}/", headers=same)
        assert (first.status_code, first.json()) == (again.status_code, again.json())
        assert again.headers["idempotent-replayed"] == "true"


def test_an_encoded_body_is_not_taken_for_what_it_is_not(front: Front):
    with front.http(front.key()) as client:
        for encoding, status in (("gzip", 415), ("br", 415), ("identity", 202)):
            headers = {"Idempotency-Key": new_key(), "Content-Encoding": encoding}
            answer = client.post(WITHDRAWALS, json=body("acc-none"), headers=headers)
            assert answer.status_code == status, encoding


@pytest.mark.parametrize(
    ("content", "media_type", "status", "kind"),
    [
        (b"", JSON, 400, "malformed"),
        (b"{", JSON, 400, "malformed"),
        (b"\xff\xfe", JSON, 400, "malformed"),
        (b'{"account_id": "a", "account_id": "b"}', JSON, 400, "malformed"),
        (b'{"account_id": NaN}', JSON, 400, "malformed"),
        (b'{"account_id": Infinity}', JSON, 400, "malformed"),
        (b'{"x": ' + b"[" * 10_000, JSON, 400, "malformed"),
        (b'{"x": ' * 2_000 + b"1" + b"}" * 2_000, JSON, 400, "malformed"),
        (b"9" * 10_000, JSON, 400, "malformed"),
        (b'{"amount": -' + b"9" * 10_000 + b"}", JSON, 400, "malformed"),
        (b"[]", JSON, 422, "invalid"),
        (b"null", JSON, 422, "invalid"),
        (b"{}", JSON, 422, "invalid"),
        (b"x" * 17_000, JSON, 413, "too-large"),
        (b"{}", "text/plain", 415, "unsupported-media-type"),
        (b"{}", "application/x-www-form-urlencoded", 415, "unsupported-media-type"),
        (b"{}", "multipart/form-data; boundary=x", 415, "unsupported-media-type"),
        (b"{}", "", 415, "unsupported-media-type"),
    ],
)
def test_a_body_that_cannot_be_read_is_said_to_be_so(front: Front, content, media_type, status, kind):
    with front.http(front.key()) as client:
        headers = {"Idempotency-Key": new_key(), "Content-Type": media_type}
        said = problem(client.post(WITHDRAWALS, content=content, headers=headers), status, kind)
    assert "sys." not in said
    assert "Python" not in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"amount": 1}, "amount"),
        ({"amount": "0"}, "more than zero"),
        ({"amount": "-1"}, "more than zero"),
        ({"amount": "1.001"}, "more than two decimals"),
        ({"amount": "9" * 1_000}, "over the limit"),
        ({"amount": "1e2"}, "not a number"),
        ({"currency": "XXX"}, "currency"),
        ({"currency": None}, "currency"),
        ({"account_id": ""}, "account"),
        ({"account_id": "a b"}, "account"),
        ({"account_id": "a\0b"}, "account"),
        ({"account_id": "a" * 65}, "account"),
        ({"account_id": 1}, "account_id"),
        ({"payment_id": "7"}, "payment_id"),
        ({"payment_id": "00000000-0000-0000-0000-000000000000"}, "nil"),
        ({"payment_id": "ffffffff-ffff-ffff-ffff-ffffffffffff"}, "max"),
        ({"amount_minor": 1}, "amount_minor"),
    ],
    ids=str,
)
def test_a_request_that_no_service_would_accept_is_refused_with_what_is_wrong(front: Front, changed, said):
    with front.http(front.key()) as client:
        answer = client.post(
            WITHDRAWALS, json={**body("acc-1"), **changed}, headers={"Idempotency-Key": new_key()}
        )
    assert said in problem(answer, 422, "invalid")


def test_an_amount_and_a_currency_are_read_as_people_write_them_and_answered_plainly(front: Front):
    with front.http(front.key()) as client:
        key, plain = new_key(), {"amount": "100.50", "currency": "USD"}
        for written in ({"amount": " +0100.5000 ", "currency": " usd "}, plain, {"amount": "100.5"}):
            answer = client.post(WITHDRAWALS, json={**body("acc-1"), **written}, headers={"Idempotency-Key": key})
            assert answer.status_code == 202, answer.text
            assert plain.items() <= answer.json().items()
        assert answer.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (None, "key-missing"),
        ("", "key-missing"),
        ("a b", "malformed"),
        ("k" * 256, "malformed"),
        ('""', "malformed"),
    ],
)
def test_an_idempotency_key_is_needed_and_is_plain(front: Front, key, kind):
    headers = {"Idempotency-Key": key} if key is not None else {}
    with front.http(front.key()) as client:
        problem(client.post(WITHDRAWALS, json=body("acc-1"), headers=headers), 400, kind)


def test_every_answer_has_the_headers_that_browsers_need_to_be_told(front: Front):
    with front.http(front.key()) as client:
        for answer in (client.get(WITHDRAWALS), client.get("/nothing"), client.delete(WITHDRAWALS)):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_one_request_that_is_wrong_fails_alone(front: Front):
    account = front.open_account()

    async def at_once():
        async with httpx.AsyncClient(base_url=front.stack.state.api_url, timeout=WAIT_S) as client:
            client.headers["Authorization"] = f"Bearer {front.key()}"
            amounts = ["1.00" if n % 5 else "nonsense" for n in range(50)]
            posts = (
                client.post(WITHDRAWALS, json=body(account, amount), headers={"Idempotency-Key": new_key()})
                for amount in amounts
            )
            return amounts, await asyncio.gather(*posts)

    amounts, answers = asyncio.run(at_once())
    assert [answer.status_code for answer in answers] == [202 if one == "1.00" else 422 for one in amounts]


def test_clients_that_send_nothing_hold_up_nobody(front: Front):
    place = urlsplit(front.stack.state.api_url)
    key = front.key()
    head = f"POST {WITHDRAWALS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: {JSON}\r\n"
    stories = (b"", b"POST /v1", head.encode(), f"{head}Content-Length: 100\r\n\r\n{{".encode())
    silent = []
    try:
        for n in range(200):
            client = socket.create_connection((place.hostname, place.port))
            client.sendall(stories[n % len(stories)])
            silent.append(client)
        with front.http(key) as client:
            assert ask(client, front.open_account()).status_code == 202
        late = silent[3]
        late.settimeout(WAIT_S)
        answer = late.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 408")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "urn:settle:problem:too-slow"
    finally:
        for client in silent:
            client.close()


def test_a_huge_body_is_refused_before_it_is_sent(front: Front):
    place = urlsplit(front.stack.state.api_url)
    with socket.create_connection((place.hostname, place.port), timeout=WAIT_S) as client:
        client.sendall(
            f"POST {WITHDRAWALS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {front.key()}\r\n"
            f"Idempotency-Key: k\r\nContent-Type: {JSON}\r\nContent-Length: 100000000000\r\n\r\n".encode()
        )
        assert client.recv(65_536).startswith(b"HTTP/1.1 413")


def test_a_caller_that_comes_too_often_or_stays_too_often_is_told_when_to_come_again(tmp_path):
    slow = running_with_api(tmp_path / "data", SETTLE_API_RATE="20", SETTLE_API_STREAMS="2")
    with slow as front, front.http(front.key("busy")) as busy, front.http(front.key("other")) as other:
        check_streams(front)

        def one_of_many() -> httpx.Response | None:
            with ThreadPoolExecutor(60) as pool:  # at once: one after the other may be rarer than that
                answers = [*pool.map(lambda _: busy.get(WITHDRAWALS), range(60))]
            return next((answer for answer in answers if answer.status_code != 200), None)

        refused = wait_until(one_of_many, "one of many at once is refused")
        problem(refused, 429, "too-many-requests")
        assert int(refused.headers["retry-after"]) > 0
        assert other.get(WITHDRAWALS).status_code == 200


def check_streams(front: Front) -> None:
    """Two streams of a caller are open at the most, of whichever kind; those of others do not count."""

    def status(client: httpx.Client, path: str, stack: ExitStack) -> int:
        answer = stack.enter_context(client.stream("GET", path, headers={"Accept": "text/event-stream"}))
        if answer.status_code == 429:
            answer.read()
            assert "2 streams open" in answer.text
            assert int(answer.headers["retry-after"]) > 0
        return answer.status_code

    with (
        ExitStack() as stack,
        front.http(front.key("many", "viewer")) as many,
        front.http(front.key("few")) as few,
    ):
        first = stack.enter_context(ExitStack())
        assert status(many, "/v1/events", first) == 200
        assert status(many, "/console/stream", stack) == 200
        assert status(many, "/v1/events", stack) == 429
        assert status(many, "/console/stuck/stream", stack) == 429
        assert status(few, "/v1/events", stack) == 200
        first.close()
        wait_until(lambda: status(many, "/v1/events", stack) == 200, "there is room again")


def operations():
    """Each documented operation, with text that no database can hold wherever it takes text."""
    for path, methods in json.loads(openapi.document())["paths"].items():
        for method, about in methods.items():
            given = {one["name"]: one["schema"] for one in about.get("parameters", ()) if one["in"] == "path"}
            place = path
            for name, schema in given.items():
                place = place.replace(
                    f"{{{name}}}", str(UUID(int=1)) if schema.get("format") == "uuid" else "x%00y"
                )
            if "text/event-stream" not in about["responses"].get("200", {}).get("content", {}):
                yield method, place, [one["name"] for one in about.get("parameters", ()) if one["in"] == "query"]


@pytest.mark.parametrize(("method", "path", "query"), operations(), ids=lambda one: str(one)[:60])
def test_text_that_no_database_can_hold_is_refused_and_not_a_failure(front: Front, method, path, query):
    names = ("reason", "caller", "account_id", "currency", "amount", "role", "id", "service", "topic")
    with front.http(front.key("root", "admin")) as client:
        for texts in ({}, *({name: "x\0y"} for name in query)):
            bodies = [{}, dict.fromkeys(names, "x\x00y"), {"reason": "x\0y", "ids": ["x\0y"], "names": ["x\0y"]}]
            for one in bodies if method == "post" else [None]:
                headers = {"Idempotency-Key": new_key(), "Accept": "application/json"}
                answer = client.request(method, path, params=texts, json=one, headers=headers)
                assert answer.status_code < 500, answer.text


@pytest.mark.parametrize(
    "header", [("Idempotency-Key", "another"), ("Authorization", "Bearer another"), ("Content-Type", "text/plain")]
)
def test_a_header_that_says_two_things_is_refused(front: Front, header):
    """Which of them holds would be another program's guess."""
    headers = [
        ("Authorization", f"Bearer {front.key()}"),
        ("Idempotency-Key", "one"),
        ("Content-Type", "application/json"),
        header,
    ]
    with front.http() as http:
        answer = http.post(
            WITHDRAWALS, content=b'{"account_id":"a","amount":"1","currency":"USD"}', headers=headers
        )
    assert answer.status_code == 400
    assert header[0].lower() in answer.json()["detail"]


@pytest.mark.parametrize(
    ("header", "content"), [("Transfer-Encoding: chunked", b"no chunk"), ("Content-Length: 100", b"{")]
)
def test_a_body_that_breaks_off_is_the_clients_fault(front: Front, header, content):
    """And not ours, for which somebody would be woken."""
    said = front.stack.data / "logs" / "api.log"
    before = said.stat().st_size
    url = urlsplit(front.stack.state.api_url)
    head = (
        f"POST {WITHDRAWALS} HTTP/1.1\r\nHost: settle\r\nAuthorization: Bearer {front.key()}\r\n"
        f"Idempotency-Key: {new_key()}\r\nContent-Type: {JSON}\r\n{header}\r\n\r\n"
    )
    with socket.create_connection((url.hostname, url.port), timeout=WAIT_S) as client:
        client.sendall(head.encode() + content)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1_000).startswith(b"HTTP/1.1 400")
    assert "a request fails" not in said.read_text()[before:]


WRONG: dict[str, list[object]] = {
    "string": [1, True, ["x"]],
    "integer": ["1", 1.5, True],
    "number": ["1", "1.5", True],
    "boolean": ["true", 1, 0],
    "array": ["x", {}],
}
"""Of each type, values of others, which a lenient reader would take."""


def fields():
    """Each documented field of a body, with values of other types."""
    document = json.loads(openapi.document())
    for path, methods in document["paths"].items():
        for media in methods.get("post", {}).get("requestBody", {}).get("content", {}).values():
            schema = next(one for one in (media["schema"], *media["schema"].get("anyOf", ())) if "$ref" in one)
            about = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            for name, field in about["properties"].items():
                for value in WRONG.get(field.get("type"), ()):
                    yield path.replace("{payment_id}", str(UUID(int=1))), name, value


@pytest.mark.parametrize(("path", "name", "value"), fields(), ids=str)
def test_a_field_of_another_type_is_refused_and_not_converted(front: Front, path, name, value):
    with front.http(front.key("root", "admin")) as client:
        answer = client.post(path, json={name: value}, headers={"Idempotency-Key": new_key()})
    assert problem(answer, 422, "invalid").startswith(f"{name}: Expected"), answer.text
