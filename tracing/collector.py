"""A small OTLP/HTTP receiver of spans inside a process, for where there is no collector.

For the demo, which draws a trace in the terminal, and for tests, which check whole trees. Not a health page server
(``contracts/health.py``): it receives POSTs over persistent connections, and can be made to hang (for tests).
Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

import gzip
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

SPANS_MAX = 1_000_000

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUS_ERROR = 2


class CollectedSpan(NamedTuple):
    """A span as received; times in nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str | None
    service: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    error: str | None
    events: list[str]


class SpanCollector:
    """Listens on a free port of 127.0.0.1 and keeps the spans received, by trace ID; a context manager.

    Args:
        spans_max: spans kept; further ones are dropped, and with 0 requests are not even decoded.
    """

    def __init__(self, spans_max: int = SPANS_MAX) -> None:
        self._spans_max = spans_max
        self._traces: dict[str, list[CollectedSpan]] = defaultdict(list)
        self._count = 0
        self._changed = threading.Condition()
        self._answering = threading.Event()
        self._answering.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._answering.wait()
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if collector._spans_max:
                    collector._take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="otlp", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answering.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """The value for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def trace_ids(self) -> list[str]:
        """The traces received so far."""
        with self._changed:
            return list(self._traces)

    def trace(self, trace_id: str) -> list[CollectedSpan]:
        """The spans of a trace received so far, by start."""
        with self._changed:
            return sorted(self._traces.get(trace_id, ()), key=lambda span: span.start_ns)

    def wait_for(self, trace_id: str, spans: int, timeout_s: float) -> list[CollectedSpan]:
        """The spans of a trace once there are at least ``spans``, or those received when the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._traces.get(trace_id, ())) >= spans, timeout_s)
        return self.trace(trace_id)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Within the block, every request is accepted and none is answered."""
        self._answering.clear()
        try:
            yield
        finally:
            self._answering.set()

    def _take(self, request: ExportTraceServiceRequest) -> None:
        with self._changed:
            for resource in request.resource_spans:
                about = {a.key: _value(a.value) for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        if self._count < self._spans_max:
                            self._count += 1
                            found = _span(span, str(about.get("service.name", "")))
                            self._traces[found.trace_id].append(found)
            self._changed.notify_all()


def event_text(name: str, values: Iterable[object]) -> str:
    """A span event as text: its name and its attribute values."""
    said = ", ".join(str(value) for value in values)
    return f"{name}: {said}" if said else name


def _span(span: Any, service: str) -> CollectedSpan:
    return CollectedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        service=service,
        name=span.name,
        kind=KINDS[span.kind],
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes={a.key: _value(a.value) for a in span.attributes},
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        error=span.status.message or "error" if span.status.code == STATUS_ERROR else None,
        events=[event_text(event.name, [_value(a.value) for a in event.attributes]) for event in span.events],
    )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None
