"""The API's Python clients: what is refused before it is sent, how long one is asked, and what errors say."""

import asyncio
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, aclosing, closing, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from producers import api as producers_api
from producers.api import PAUSES_S, Accepted, ApiClient, AsyncApiClient, Event, Status
from producers.errors import InvalidRequestError, NotAnsweredError, RefusedError
from tests.clock import Clock

KEY = "settle_0123456789ab_secret"
URL = "http://settle.example"

both = pytest.mark.parametrize("kind", [ApiClient, AsyncApiClient])


@pytest.mark.parametrize("key", ["", f"{KEY}\n", f" {KEY}", f"{KEY}é", f"{KEY} {KEY}", f"{KEY}\x00"])
@pytest.mark.parametrize("kind", [ApiClient, AsyncApiClient])
def test_what_cannot_be_a_key_is_refused_at_once_and_not_shown(kind: Any, key: str) -> None:
    with pytest.raises(InvalidRequestError, match="no API key") as refused:
        kind(URL, key)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "settle.example:8000", "127.0.0.1:8000", "ftp://settle.example", "http://"])
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no URL such as"):
        ApiClient(url, KEY)


@both
def test_a_user_in_the_url_would_replace_the_key_and_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidRequestError, match="no user and no password") as refused:
        kind("https://somebody:secret@settle.example", KEY)
    assert "secret" not in str(refused.value)


@both
def test_in_production_a_key_does_not_go_where_others_can_read_it(
    kind: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kind(URL, KEY)
    assert [(line.levelname, KEY in line.getMessage()) for line in caplog.records] == [("WARNING", False)]
    monkeypatch.setenv("SETTLE_ENV", "production")
    with pytest.raises(InvalidRequestError, match="without TLS: others can read the API key on the way"):
        kind(URL, KEY)
    for url in ("https://settle.example", "http://127.0.0.1:8000", "http://localhost:8000"):
        kind(url, KEY)
    monkeypatch.setenv("SETTLE_TRUSTED_NETWORK", "http")
    kind(URL, KEY)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("key", ["", "a b", "é", "line\n", "x" * 256, 'a"b', '"a"'])
def test_what_is_no_idempotency_key_is_refused_and_none_is_made_instead(key: str) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(500)

    api = ApiClient(URL, KEY, transport=httpx.MockTransport(answer))
    with api, pytest.raises(InvalidRequestError, match="1 to 255 visible ASCII"):
        api.request("acc-1", "1.00", idempotency_key=key)
    assert not sent


def test_a_header_that_cannot_be_sent_is_not_in_the_error() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError(f"Illegal header value {request.headers['authorization']!r}")

    api = ApiClient(URL, KEY, give_up_s=0, transport=httpx.MockTransport(refuse))
    with api, pytest.raises(NotAnsweredError, match=r"does not answer: LocalProtocolError$"):
        api.status(uuid4())


UNREADABLE = [b"<h1>", b'{"account_id": "\xff"}', b'{"title": "\xff"}', b'{"other": ' + b"[" * 100_000]


@pytest.mark.parametrize("body", UNREADABLE, ids=range(len(UNREADABLE)))
def test_an_answer_that_cannot_be_read_is_refused_in_one_line(body: bytes) -> None:
    for status, says in ((200, "somebody else than the API answers at settle.example"), (400, "HTTP 400, ")):
        transport = httpx.MockTransport(lambda _, status=status: httpx.Response(status, content=body))
        with ApiClient(URL, KEY, transport=transport) as api, pytest.raises(RefusedError, match=says) as refused:
            api.status(uuid4())
        assert refused.value.status == status


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clients' clock."""
    clock = Clock()
    monkeypatch.setattr(producers_api, "time", clock)
    monkeypatch.setattr(producers_api, "asyncio", SimpleNamespace(sleep=clock.asleep))
    return clock


class Sent(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A stream that consists of these parts, and then breaks."""

    def __init__(self, parts: Callable[[], Iterator[bytes]]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts()
        raise httpx.ReadError("broken")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


def streaming(parts: Callable[[], Iterator[bytes]], kind: str = "text/event-stream") -> httpx.Response:
    return httpx.Response(200, headers={"content-type": kind}, stream=Sent(parts))


def followed(kind: type[ApiClient | AsyncApiClient], answer: Callable[[], httpx.Response]) -> list[Event]:
    """The events of a withdrawal, as one client or the other gives them."""
    transport = httpx.MockTransport(lambda _: answer())
    if kind is ApiClient:
        with ApiClient(URL, KEY, transport=transport) as api:
            return list(api.events(uuid4()))

    async def follow() -> list[Event]:
        async with AsyncApiClient(URL, KEY, transport=transport) as api:
            return [event async for event in api.events(uuid4())]

    return asyncio.run(follow())


@both
def test_a_stream_that_breaks_after_heartbeats_is_asked_for_again(kind: Any, clock: Clock) -> None:
    asked = 0

    def heartbeats() -> Iterator[bytes]:
        for _ in range(5):
            clock.sleep(15)
            yield b": nothing new\n\n"

    def answer() -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked in (2, 3):  # it starts anew
            raise httpx.ConnectError("refused")
        return httpx.Response(204) if asked == 5 else streaming(heartbeats)

    assert followed(kind, answer) == []
    assert asked == 5


@both
def test_who_takes_long_over_an_event_goes_on_after_it(kind: Any, clock: Clock) -> None:
    event = Event(1, uuid4(), uuid4(), "MoneyDeducted", {}, datetime.now(UTC))

    def sent() -> Iterator[bytes]:
        yield b"id: 1\ndata: %b\n\n" % msgspec.json.encode(event)
        clock.sleep(300)  # until the next piece is asked for

    answers = [streaming(sent), httpx.Response(204)]
    assert followed(kind, lambda: answers.pop(0)) == [event]


@both
def test_a_server_that_ends_each_stream_at_once_is_asked_with_growing_pauses(kind: Any, clock: Clock) -> None:
    answers = [*(streaming(lambda: iter(())) for _ in range(30)), httpx.Response(204)]
    assert followed(kind, lambda: answers.pop(0)) == []
    assert clock.now_s == pytest.approx(sum(PAUSES_S) + PAUSES_S[-1] * (30 - len(PAUSES_S)))
    assert clock.now_s > producers_api.GIVE_UP_S


@both
def test_a_page_instead_of_a_stream_is_no_answer(kind: Any, clock: Clock) -> None:
    pages = [streaming(lambda: iter((b"<h1>proxy</h1>",)), "text/html") for _ in range(50)]
    with pytest.raises(NotAnsweredError, match="text/html"):
        followed(kind, pages.pop)
    assert clock.now_s <= producers_api.GIVE_UP_S


@both
def test_a_message_that_is_no_event_is_refused_in_one_line(kind: Any, clock: Clock) -> None:
    with pytest.raises(RefusedError, match=r"somebody else than the API answers at settle\.example"):
        followed(kind, lambda: streaming(lambda: iter((b'data: {"id": 1}\n\n',))))


@both
def test_an_answer_that_cannot_be_decoded_is_asked_for_again_with_the_same_key(kind: Any, clock: Clock) -> None:
    keys: list[str] = []
    body = {
        "payment_id": str(uuid4()),
        "account_id": "acc-1",
        "amount": "1.00",
        "currency": "USD",
        "requested_at": "2026-12-01T00:00:00Z",
        "trace_id": "0" * 32,
    }

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:  # a proxy on the way says that it has packed what it has not
            return httpx.Response(202, headers={"content-encoding": "gzip"}, stream=Sent(lambda: iter([b"{}"])))
        return httpx.Response(202, json=body)

    transport = httpx.MockTransport(answer)

    async def ask() -> Accepted:
        async with AsyncApiClient(URL, KEY, transport=transport) as api:
            return await api.request("acc-1", "1.00")

    if kind is ApiClient:
        with ApiClient(URL, KEY, transport=transport) as api:
            accepted = api.request("acc-1", "1.00")
    else:
        accepted = asyncio.run(ask())
    assert str(accepted.payment_id) == body["payment_id"]
    assert len(keys) == 2
    assert len({*keys}) == 1


@both
def test_a_stream_that_cannot_be_decoded_is_asked_for_again(kind: Any, clock: Clock) -> None:
    packed = httpx.Response(
        200,
        headers={"content-type": "text/event-stream", "content-encoding": "gzip"},
        stream=Sent(lambda: iter([b"id: 1\n\n"])),
    )
    answers = [packed, httpx.Response(204)]
    assert followed(kind, lambda: answers.pop(0)) == []


PACKED = {"content-type": "text/event-stream", "content-encoding": "gzip"}


@both
def test_who_never_gets_a_stream_that_can_be_decoded_is_told_so(kind: Any, clock: Clock) -> None:
    bad = [httpx.Response(200, headers=PACKED, stream=Sent(lambda: iter([b"id: 1\n\n"]))) for _ in range(50)]
    with pytest.raises(NotAnsweredError, match="does not answer"):
        followed(kind, bad.pop)
    assert clock.now_s <= producers_api.GIVE_UP_S


@both
def test_what_cannot_be_decoded_after_an_event_is_asked_for_again(kind: Any, clock: Clock) -> None:
    def sent() -> Iterator[bytes]:
        pack = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        yield pack.compress(b"id: 1\ndata: %b\n\n" % msgspec.json.encode(EVENT))
        yield pack.flush(zlib.Z_SYNC_FLUSH)
        clock.sleep(2 * producers_api.GIVE_UP_S)
        yield b"no gzip" * 100

    answers = [httpx.Response(200, headers=PACKED, stream=Sent(sent)), httpx.Response(204)]
    assert followed(kind, lambda: answers.pop(0)) == [EVENT]


STREAMS = 120
"""More than the connections that httpx gives a client by default."""


@contextmanager
def serving() -> Iterator[str]:
    """The URL of an API that begins each stream with an event and does not end it, and knows of one withdrawal."""
    ends = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_stream = self.path.endswith("/events")
            body = msgspec.json.encode(EVENT if is_stream else STATUS)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
            self.end_headers()
            self.wfile.write(b"id: 1\ndata: %b\n\n" % body if is_stream else body)
            if is_stream:
                ends.wait()

        def log_message(self, *_: object) -> None:
            pass

    class Api(ThreadingHTTPServer):
        request_queue_size = STREAMS
        daemon_threads = True

    with Api(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            ends.set()
            server.shutdown()


EVENT = Event(1, uuid4(), uuid4(), "MoneyDeducted", {}, datetime.now(UTC))
STATUS = Status(uuid4(), "acc-1", "1.00", "USD", "deducted", None, None, None, None, None, None, [])


def test_who_follows_many_withdrawals_can_still_ask() -> None:
    with serving() as url, ExitStack() as stack, ApiClient(url, KEY, give_up_s=0) as api:
        for _ in range(STREAMS):
            events = stack.enter_context(closing(api.events(uuid4())))
            assert next(events) == EVENT
        assert api.status(STATUS.payment_id) == STATUS


def test_who_follows_many_withdrawals_can_still_ask_with_asyncio() -> None:
    async def story(url: str) -> None:
        async with AsyncApiClient(url, KEY, give_up_s=0) as api, AsyncExitStack() as stack:
            for _ in range(STREAMS):
                events = await stack.enter_async_context(aclosing(api.events(uuid4())))
                assert await anext(events) == EVENT
            assert await api.status(STATUS.payment_id) == STATUS

    with serving() as url:
        asyncio.run(story(url))


@both
def test_its_caller_may_limit_its_connections(kind: Any) -> None:
    limited = kind("http://127.0.0.1:8000", KEY, limits=httpx.Limits(max_connections=3))
    assert limited._http._transport._pool._max_connections == 3
