"""The API's Python clients: what is refused before it is sent, how long one is asked, and what errors say."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from producers import api as producers_api
from producers.api import PAUSES_S, ApiClient, AsyncApiClient, Event
from producers.errors import InvalidRequestError, NotAnsweredError, RefusedError
from tests.clock import Clock

KEY = "settle_0123456789ab_secret"
URL = "http://settle.example"


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


both = pytest.mark.parametrize("kind", [ApiClient, AsyncApiClient])


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
