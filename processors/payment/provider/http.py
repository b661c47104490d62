"""An HTTP client of a payment provider: bounded connections, a time limit per call and a circuit breaker.

Every call carries the payment ID as its idempotency key. Only an answer with the outcome of a payment counts: all
else (no connection, no answer in time, a status other than 200, a body that is invalid or endless) leaves the
outcome unknown, and the call is retried.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from uuid import UUID

import httpx
import msgspec
import structlog
from opentelemetry.trace import Span, SpanKind

from contracts.foreign import UNREADABLE
from contracts.text import REASON_MAX, REFERENCE_MAX, clean
from processors.payment.gateway import Charge, Declined, NotTried, Outcome, Paid, Unavailable, Voided
from processors.runtime import metrics
from processors.runtime.breaker import Breaker
from processors.runtime.calls import BUDGET_S, Calls
from processors.runtime.hops import fail, spans
from processors.runtime.logs import fields_of
from processors.runtime.settings import ServiceSettings
from tracing import attributes as names

RETRY_AFTER_S_MAX = 300.0
"""The longest ``Retry-After`` honoured: after this time the provider is called anyway."""

TOO_MANY_REQUESTS = 429

LIMITED_S = 1.0
"""How long no call is made after a rate limit that may be one payment's or one account's; a probe follows."""

LIMITED_ACCOUNTS = 5
"""Accounts that meet a rate limit, with nothing else answered between, before all keep its ``Retry-After``."""

ANSWER_BYTES_MAX = 64 * 1024
"""An answer has some hundred bytes; a longer one is ignored."""

PORTS = {"http": 80, "https": 443}


class Answer(msgspec.Struct):
    """The body of every answer with the outcome of a payment."""

    status: str
    reference: str | None = None
    reason: str | None = None


log = structlog.get_logger()

_ANSWER = msgspec.json.Decoder(Answer)


class HttpProvider:
    """A payment gateway to the provider at ``SETTLE_PROVIDER_URL``."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._timeout_s = settings.provider_timeout_s
        self._breaker = Breaker(settings.retry_backoff_s)
        self._calls = Calls(settings.provider_connections, BUDGET_S, self._breaker)
        self._url = str(settings.provider_url)
        self._public_url = httpx.URL(self._url).copy_with(username="", password="")  # as spans show it
        self._tls = httpx.create_ssl_context()
        metrics.CIRCUIT_OPEN.labels("provider").set_function(lambda: not self._breaker.is_closed)
        # Whose calls met a rate limit since a call was last answered.
        self._limited: set[str] = set()
        # One client per connection: a pool scans all of its connections for each request.
        self._idle: list[httpx.AsyncClient] = []
        self.round_s_max = BUDGET_S + self._timeout_s

    async def open(self) -> None:
        """Do nothing: the first call connects."""

    def capacity(self, at_most: int) -> int:
        """All, one probe, or none, depending on the circuit breaker."""
        return self._calls.capacity(at_most)

    async def charge(self, charges: Sequence[Charge], *, probe: bool) -> Mapping[UUID, Outcome]:
        """``POST /charges`` for each."""
        return await self._each("/charges", charges, probe)

    async def void(self, charges: Sequence[Charge]) -> Mapping[UUID, Outcome]:
        """``POST /voids`` for each."""
        return await self._each("/voids", charges, True)

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            await self._idle.pop().aclose()

    async def _each(self, path: str, charges: Sequence[Charge], probe: bool) -> dict[UUID, Outcome]:
        async def call(charge: Charge) -> Outcome:
            return await self._post(path, charge)

        answers = await self._calls.each(call, charges, probe=probe)
        return {c.payment_id: answer or NotTried() for c, answer in zip(charges, answers, strict=True)}

    @contextmanager
    def _call(self, path: str, charge: Charge) -> Iterator[Span | None]:
        """One call as a span, where its withdrawal is traced."""
        about: dict[str, str | int] = {
            names.HTTP_REQUEST_METHOD: "POST",
            names.URL_FULL: str(self._public_url).rstrip("/") + path,
            names.URL_TEMPLATE: path,
            names.SERVER_ADDRESS: self._public_url.host,
            names.SERVER_PORT: self._public_url.port or PORTS[self._public_url.scheme],
        }
        with spans([charge.context], f"POST {path}", SpanKind.CLIENT, about) as hops:
            yield hops.get(0)

    async def _post(self, path: str, charge: Charge) -> Outcome:
        # One time limit for the whole call, instead of one for each part.
        client = (
            self._idle.pop()
            if self._idle
            else httpx.AsyncClient(base_url=self._url, verify=self._tls, timeout=None, trust_env=False)  # noqa: S113 the whole call is limited
        )
        try:
            with self._call(path, charge) as span:
                async with asyncio.timeout(self._timeout_s):
                    response, body = await _ask(client, path, charge)
                _note_status(span, response.status_code)
            return self._understand(charge.account_id, response, body)
        except TimeoutError:
            self._breaker.failed()
            return Unavailable("provider_timeout")
        except httpx.HTTPError as error:
            self._breaker.failed()
            return Unavailable(f"provider_unreachable: {type(error).__name__}")
        except Exception as error:
            # A bug of ours must not make the payment fail: its outcome would stay unknown.
            log.exception("a call to the provider failed", **fields_of(charge.context, charge.payment_id))
            self._breaker.failed()
            return Unavailable(f"provider_call_failed: {type(error).__name__}")
        finally:
            self._idle.append(client)

    def _understand(self, account_id: str, response: httpx.Response, body: bytes | None) -> Outcome:
        retry_after_s = _retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))
        if response.status_code == TOO_MANY_REQUESTS:
            self._rest(account_id, retry_after_s or LIMITED_S)
            return Unavailable("provider_rate_limit", retry_after_s, counts=False)
        outcome = _outcome(response.status_code, body)
        if isinstance(outcome, Unavailable):
            self._breaker.failed()
            return Unavailable(outcome.reason, retry_after_s)
        self._limited.clear()
        self._breaker.succeeded()
        return outcome

    def _rest(self, account_id: str, pause_s: float) -> None:
        """Make no call after a rate limit; for as long as it asks only once enough accounts have met it."""
        if len(self._limited) < LIMITED_ACCOUNTS:
            self._limited.add(account_id)
        is_everyones = len(self._limited) == LIMITED_ACCOUNTS
        self._breaker.retry_after(pause_s if is_everyones else min(pause_s, LIMITED_S))


async def _ask(client: httpx.AsyncClient, path: str, charge: Charge) -> tuple[httpx.Response, bytes | None]:
    """An answer and its body; None for one that is longer than :data:`ANSWER_BYTES_MAX`.

    Nothing is decompressed: a few bytes could become any number of them.
    """
    fields = {
        "Content-Type": "application/json",
        "Idempotency-Key": str(charge.payment_id),
        "Accept-Encoding": "identity",
    }
    async with client.stream("POST", path, content=_body(charge), headers=fields) as response:
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > ANSWER_BYTES_MAX:
                return response, None
        return response, bytes(body)


def _body(charge: Charge) -> bytes:
    return msgspec.json.encode(
        {
            "payment_id": charge.payment_id,
            "account_id": charge.account_id,
            "amount_minor": charge.amount_minor,
            "currency": charge.currency,
        }
    )


def _note_status(span: Span | None, status: int) -> None:
    if span is not None:
        span.set_attribute(names.HTTP_RESPONSE_STATUS_CODE, status)
        if status >= httpx.codes.BAD_REQUEST:
            fail(span, str(status), f"HTTP {status}")


def _outcome(status: int, body: bytes | None) -> Outcome:
    if status != httpx.codes.OK:
        return Unavailable(f"provider_error_{status}")
    if body is None:
        return Unavailable("provider_answer_too_long")
    try:
        answer = _ANSWER.decode(body)
    except UNREADABLE:
        return Unavailable("provider_answer_unreadable")
    match answer:
        case Answer("paid", str(reference)):
            return Paid(clean(reference, REFERENCE_MAX))
        case Answer("declined", _, str(reason)):
            return Declined(clean(reason, REASON_MAX))
        case Answer("voided"):
            return Voided()
    return Unavailable("provider_answer_unreadable")


def _retry_after_s(header: str | None, now: datetime) -> float:
    """Seconds to wait, from a number of seconds or a date (RFC 9110, 10.2.3); 0 without a readable one."""
    if header is None:
        return 0.0
    try:
        if header.strip().isdigit():
            wait_s = float(header)
        else:
            wait_s = (parsedate_to_datetime(header) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)
