"""Spans and metrics of requests: what surrounds a handler, so that the handler reads as what happens to money."""

import random
import time
from functools import cache, lru_cache

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from prometheus_client import Counter, Gauge, Histogram

import tracing
from contracts.events import WithdrawalRequested
from producers.spans import start_root
from tracing import attributes as names

REQUESTS = Counter("settle_http_requests_total", "Requests answered", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "settle_http_request_seconds",
    "Time from a request's head to the end of its answer, seconds",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
STREAMS = Gauge("settle_http_streams", "Streams of events that are open")
OPEN_PAGES = Gauge("settle_console_pages", "Pages that are open and live")
LOOKS = Counter("settle_console_looks_total", "Looks for all who have a page open", ["look"])
BATCH_REQUESTS = Histogram(
    "settle_api_batch_requests",
    "Requests that shared a transaction",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
)

UNKNOWN = "unknown"
"""The route of a request for a path that does not exist: paths are the caller's, and without number."""

_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
"""What every answer says to browsers, unless it says otherwise itself."""
_LAST = (b"connection", b"close")
"""After a body in chunks: what follows may be a part of it by a Content-Length that was sent too, which the server
passes over (RFC 9112, 6.1)."""
_TLS_HEADER = (b"strict-transport-security", b"max-age=31536000")


def measured(app: ASGIApp) -> ASGIApp:
    """The same application, with metrics, and with the security headers in every answer."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [*message["headers"]]
                in_chunks = any(name == b"transfer-encoding" for name, _ in scope["headers"])
                message["headers"] = own + _further(tuple(name for name, _ in own), scope["scheme"], in_chunks)
            await send(message)

        try:
            await app(scope, receive, send_on)
        finally:
            route = scope.get("path_template") or UNKNOWN
            count, seconds = _series(str(scope.get("method")) if route != UNKNOWN else "", route, status)
            count.inc()
            seconds.observe(time.perf_counter() - started)

    return answer


@lru_cache
def _further(said: tuple[bytes, ...], scheme: str, in_chunks: bool) -> list[tuple[bytes, bytes]]:
    """What an answer with headers of these names says besides."""
    names = {name.lower() for name in said}
    further = [*_HEADERS, *([_TLS_HEADER] if scheme == "https" else []), *([_LAST] if in_chunks else [])]
    return [header for header in further if header[0] not in names]


@cache
def _series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """The series of a route's requests with one status; to look them up by labels takes longer than to count."""
    return REQUESTS.labels(method, route, str(status)), REQUEST_SECONDS.labels(route)


class AskedSpans:
    """The spans of a request for a withdrawal: its root below the caller's span, and the HTTP request.

    They are exported only if the request began a withdrawal: a repeat belongs to the trace of the first.

    Args:
        request: what is asked for.
        caller: the context that came with the HTTP request, if one did.
        route: of the HTTP request.
        scheme: ``http`` or ``https``.
    """

    def __init__(
        self, request: WithdrawalRequested, caller: tracing.TraceContext, route: str, scheme: str
    ) -> None:
        self._spans: tuple[Span, ...] = ()
        if not (tracing.is_sampled(caller) if caller.traceparent else tracing.sample()):
            self.context = _unsampled(caller)
            return
        root = start_root(request, caller)
        served = tracing.start_span(
            f"POST {route}",
            SpanKind.SERVER,
            parent=tracing.context_of(root),
            attributes={
                names.HTTP_REQUEST_METHOD: "POST",
                names.HTTP_ROUTE: route,
                names.URL_PATH: route,
                names.URL_SCHEME: scheme,
                names.PAYMENT_ID: str(request.payment_id),
            },
        )
        self._spans = (served, root)
        self.context = tracing.context_of(served)
        """The context in the outbox row: the relay's span is a child of the HTTP request's."""

    def accepted(self, status: int) -> None:
        """End the spans: the request began a withdrawal."""
        for span in self._spans:
            span.set_attribute(names.HTTP_RESPONSE_STATUS_CODE, status)
            span.end()

    def failed(self, status: int, reason: str) -> None:
        """End the spans with error status: whether the request began a withdrawal is not known."""
        for span in self._spans:
            span.set_attribute(names.HTTP_RESPONSE_STATUS_CODE, status)
            span.set_attribute(names.ERROR_TYPE, str(status))
            span.set_status(Status(StatusCode.ERROR, reason))
            span.end()


def _unsampled(caller: tracing.TraceContext) -> tracing.TraceContext:
    """A context of its own in the caller's trace, or in a new one."""
    if caller.trace_id is None:
        return tracing.new_unsampled()
    own = f"00-{caller.trace_id}-{random.getrandbits(64) or 1:016x}-00"
    return tracing.TraceContext(own, caller.tracestate)
