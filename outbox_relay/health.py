"""The relay's health over HTTP: whether it is alive, whether every source streams, and the numbers.

The numbers are read from the sources when asked for, so counting costs them nothing.
"""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from outbox_relay.errors import RelayError
from outbox_relay.source import Source, State

Read = Callable[[Source], float]


class SourceMetrics(Collector):
    """The sources' numbers as Prometheus metrics, by source."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Read every source."""
        yield self._counter("events_published", "acknowledged by Kafka", lambda s: s.published_rows)
        yield self._counter("bytes_published", "of record values, acknowledged", lambda s: s.published_bytes)
        yield self._counter("rows_removed", "published rows taken out of the table", lambda s: s.removed_rows)
        yield self._counter(
            "rows_recovered", "published from the table, as the log did not bring them", lambda s: s.recovered_rows
        )
        yield self._counter("reconnects", "times the source began again", lambda s: s.reconnects)
        yield self._gauge("unacknowledged", "records on their way to Kafka", lambda s: s.unacknowledged)
        yield self._gauge("lag_seconds", "age of the oldest unacknowledged commit", lambda s: s.lag_s)
        yield self._gauge("lag_bytes", "of log that is not confirmed", lambda s: s.gauges["lag_bytes"])
        yield self._gauge(
            "slot_retained_bytes", "of log that the slot keeps", lambda s: s.gauges["slot_retained_bytes"]
        )
        yield self._gauge("dead_rows", "rows that can never be published", lambda s: s.gauges["dead_rows"])
        yield self._gauge(
            "confirmed_lsn", "log position before which all is published", lambda s: s.ledger.confirmed_lsn
        )
        yield self._gauge("active", "1 while the source reads", lambda s: s.state is State.READING)
        yield self._gauge("covered", "0 while the log does not bring all rows", lambda s: s.gap is None)
        yield self._gauge("standby", "1 while another relay reads the outbox", lambda s: s.state is State.STANDBY)
        yield self._waits()

    def _waits(self) -> Metric:
        family = HistogramMetricFamily(
            "settle_relay_ack_seconds", "from commit to acknowledgement", labels=["source"]
        )
        for source in self._sources:
            counts = list(accumulate(source.waits.counts))
            bounds = [*(str(bound) for bound in source.waits.BOUNDS_S), "+Inf"]
            family.add_metric([source.name], list(zip(bounds, counts, strict=True)), source.waits.sum_s)
        return family

    def _counter(self, name: str, text: str, read: Read) -> Metric:
        return self._fill(CounterMetricFamily(f"settle_relay_{name}", text, labels=["source"]), read)

    def _gauge(self, name: str, text: str, read: Read) -> Metric:
        return self._fill(GaugeMetricFamily(f"settle_relay_{name}", text, labels=["source"]), read)

    def _fill(self, family: CounterMetricFamily | GaugeMetricFamily, read: Read) -> Metric:
        for source in self._sources:
            family.add_metric([source.name], read(source))
        return family


class HealthServer:
    """A small HTTP server in a thread of its own: ``/healthz``, ``/readyz``, ``/metrics``.

    Args:
        host, port: where to listen; port 0 takes a free one.
        sources: whose health it is.

    Raises:
        RelayError: the address is taken or not ours.
    """

    def __init__(self, host: str, port: int, sources: Sequence[Source]) -> None:
        registry = CollectorRegistry()
        registry.register(SourceMetrics(sources))
        self._server = _listen(host, port, _handler(sources, registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, family: socket.AddressFamily, address: Any, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = family
        super().__init__(address, handler)


def _listen(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> _Server:
    """A server on the first of the host's addresses, of whatever family, that can be had."""
    refused: OSError | None = None
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                return _Server(family, address, handler)
            except OSError as error:
                refused = refused or error
    except OSError as error:
        refused = error
    reason = refused.strerror if refused is not None else "it has no address"
    raise RelayError(f"nothing can listen on SETTLE_HTTP_HOST={host}, SETTLE_HTTP_PORT={port}: {reason}")


def not_ready(sources: Sequence[Source]) -> list[str]:
    """A line for each source that should read and does not, or not all, with the reason."""
    troubled = [source for source in sources if source.state not in (State.READING, State.STANDBY)]
    lines = [f"{source.name}: {source.reason}" for source in troubled]
    gaps = [f"{source.name}: {source.gap}" for source in sources if source.gap and source not in troubled]
    return lines + gaps


def _standby(sources: Sequence[Source]) -> list[str]:
    """A line for each source that another relay reads: whoever stands by is ready to take over."""
    return [f"{source.name}: {source.reason}" for source in sources if source.state is State.STANDBY]


def _handler(sources: Sequence[Source], registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/healthz":
                self._answer(200, b"alive\n")
            elif self.path == "/readyz":
                lines = not_ready(sources)
                text = "\n".join([*(lines or ["ready"]), *_standby(sources), ""])
                self._answer(503 if lines else 200, text.encode())
            elif self.path == "/metrics":
                self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
            else:
                self._answer(404, b"/healthz, /readyz and /metrics are here\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Probes are not news."""

    return Handler
