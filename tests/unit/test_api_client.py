"""The API's Python clients: what is refused before it is sent, and that no error has the key."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from producers.api import ApiClient, AsyncApiClient
from producers.errors import InvalidRequestError, NotAnsweredError

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


@pytest.mark.parametrize("key", ["", "a b", "é", "line\n", "x" * 256])
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
