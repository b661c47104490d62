"""The requests of the API's clients, as they may be repeated, and what is refused before one is sent."""

import logging
import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
import msgspec
from opentelemetry import propagate
from uuid_utils.compat import uuid7

from contracts.production import HTTP, is_local, is_production, trusted
from producers.errors import InvalidRequestError

PATH = "/v1/withdrawals"

TIMEOUT_S = 10.0

STREAM_TIMEOUT_S = 45.0
"""For the next piece of a stream: the API sends something every 15 s."""

log = logging.getLogger(__name__)

_TOKEN = re.compile(r"[\x21-\x7e]+")
_IDEMPOTENCY_KEY = re.compile(r"[\x21\x23-\x7e]{1,255}")
"""Without the quotes in which the header may have it: to the API they are no part of the key."""


class Call(msgspec.Struct, frozen=True):
    """A request that may be repeated as it is."""

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: Mapping[str, str] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What a client of httpx takes beside method and path."""
        return {"headers": self.headers, "json": self.body}


def client(url: str, key: str) -> dict[str, Any]:
    """The arguments of a client of httpx that asks the API with a key.

    Where others could read the key on the way, that is a warning in the log, and refused in production.

    Raises:
        InvalidRequestError: that is no URL, or no API key, or the key is refused to go there.
        EnvironmentRefusedError: ``SETTLE_ENV`` or ``SETTLE_TRUSTED_NETWORK`` is wrong.
    """
    found, headers = base_url(url), authorization(key)
    if is_open(found):
        if is_production():
            raise InvalidRequestError(
                f"{url} is without TLS: others can read the API key on the way, so use https://"
            )
        log.warning("%s is without TLS: others can read the API key on the way", url)
    return {"base_url": found, "headers": headers}


def is_open(url: httpx.URL) -> bool:
    """Whether others can read what is sent there: without TLS, beyond loopback and networks that are trusted.

    Raises:
        EnvironmentRefusedError: ``SETTLE_TRUSTED_NETWORK`` is wrong.
    """
    return url.scheme == "http" and not is_local(url.host) and HTTP not in trusted()


def base_url(url: str) -> httpx.URL:
    """The API's URL.

    Raises:
        InvalidRequestError: it is none that can be asked, or has a user or password, which would replace the key.
    """
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidRequestError(f"{url!r} is no URL such as https://settle.example: {error}") from None
    if found.scheme not in ("http", "https") or not found.host:
        raise InvalidRequestError(f"{url!r} is no URL such as https://settle.example")
    if found.userinfo:
        raise InvalidRequestError("the API's URL has no user and no password: who asks is known by the API key")
    return found


def authorization(key: str) -> dict[str, str]:
    """The header that says who asks.

    Raises:
        InvalidRequestError: no API key is like that. The text does not have it: what a library below says of a
            header that cannot be sent would.
    """
    if not _TOKEN.fullmatch(key):
        why = "it is empty" if not key else "it has a space, a line break or another character that none has"
        raise InvalidRequestError(f"that is no API key: {why}")
    return {"Authorization": f"Bearer {key}"}


def request(
    account_id: str, amount: str, currency: str, payment_id: UUID | None, idempotency_key: str | None
) -> Call:
    """Ask for a withdrawal; without an idempotency key with a new one.

    Raises:
        InvalidRequestError: the idempotency key is none. An empty one is not taken for a new one: whoever has it
            by mistake would withdraw once more with each repeat.
    """
    key = idempotency_key if idempotency_key is not None else str(uuid7())
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequestError(
            f"an Idempotency-Key is 1 to 255 visible ASCII characters, no quote, and not {key[:255]!r}"
        )
    body = {"account_id": account_id, "amount": amount, "currency": currency}
    if payment_id is not None:
        body["payment_id"] = str(payment_id)
    headers = {"Idempotency-Key": key}
    propagate.inject(headers)  # a span of the caller's becomes the parent of the withdrawal's
    return Call("POST", PATH, headers, body)


def status(payment_id: UUID) -> Call:
    """Where a withdrawal stands."""
    return Call("GET", f"{PATH}/{payment_id}")


def cancellation(payment_id: UUID, reason: str | None) -> Call:
    """Ask to cancel a withdrawal."""
    return Call("POST", f"{PATH}/{payment_id}/cancel", body={"reason": reason} if reason is not None else None)


def events_path(payment_id: UUID) -> str:
    """Where a withdrawal's events are."""
    return f"{PATH}/{payment_id}/events"


def stream(after: int) -> dict[str, Any]:
    """The arguments of a request for a stream that goes on after an event."""
    place = {"Last-Event-ID": str(after)} if after else {}
    timeout = httpx.Timeout(TIMEOUT_S, read=STREAM_TIMEOUT_S)
    return {"headers": {"Accept": "text/event-stream", **place}, "timeout": timeout}


def why_unsent(error: httpx.RequestError) -> str:
    """Why a request got no answer, in one line; without what a header was, which may be the key."""
    if isinstance(error, httpx.LocalProtocolError):
        return type(error).__name__
    return f"{type(error).__name__}: {error}".rstrip(": ")
