"""An HTTP server for the health pages of a process: ``/healthz``, ``/readyz`` and ``/metrics``, and what it adds.

The standard library's server in a thread of its own, so that it answers while the rest of the process hangs, and
needs no web framework. A client that is slow or silent holds a connection for a limited time only.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from sys import exc_info
from types import MappingProxyType
from typing import Any, NamedTuple

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from contracts.redaction import hide

CONNECTION_S_MAX = 10.0
"""Time limit from a client's connecting to the last byte it reads; a probe needs some milliseconds."""

CONNECTIONS_MAX = 32
"""Connections at a time, each with a thread of its own. Beyond that the oldest is closed for the newest."""

LOOK_EVERY_S = 0.25
"""How often connections over their time limit, and a request to close, are looked for."""

BODY_BYTES_MAX = 65_536
LENGTH_DIGITS_MAX = 9
"""Of a request for what a process adds."""

TEXT = "text/plain; charset=utf-8"

log = logging.getLogger(__name__)


class AddressError(OSError):
    """An address that nothing can listen on; the text is one line for a person."""


class Page(NamedTuple):
    """A response: the HTTP status, and the text."""

    status: int
    text: str | bytes
    content_type: str = TEXT
    headers: Mapping[str, str] = MappingProxyType({})


class Request(NamedTuple):
    """A request for what a process adds to its health pages.

    Attributes:
        method: as the client says it.
        path: without what follows a question mark, and still with its percent signs.
        headers: by their names in lower case.
        body: all of it.
        client: the address that it comes from.
        listens: the address that it came to, as it was bound.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    client: str
    listens: str


More = Callable[[Request], Page]
"""Answers the requests below a path."""


class HealthServer:
    """Serves the pages until it is closed.

    Args:
        host, port: where to listen; port 0 takes a free one.
        alive: ``/healthz``. Called on a thread of this server, as everything here is.
        ready: ``/readyz``.
        metrics: the registry of ``/metrics``.
        more: what answers below which path (``/v1/``), whatever the method.

    Raises:
        AddressError: the address is taken or not ours.
    """

    def __init__(
        self,
        host: str,
        port: int,
        alive: Callable[[], Page],
        ready: Callable[[], Page],
        metrics: Collector,
        more: Mapping[str, More] = MappingProxyType({}),
    ) -> None:
        pages: Mapping[str, Callable[[str], Page]] = {
            "/healthz": lambda _: alive(),
            "/readyz": lambda _: ready(),
            "/metrics": lambda accept: metrics_page(metrics, accept),
        }
        self._server = _listen(host, port)
        self._server.pages, self._server.more = pages, more
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(LOOK_EVERY_S,), name="health", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering, close open connections, and free the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def check_address(host: str, port: int) -> None:
    """Check that a process started later can listen on an address; port 0 is always free.

    Raises:
        AddressError: the address is taken or not ours.
    """
    _listen(host, port).server_close()


def metrics_page(metrics: Collector, accept: str) -> Page:
    """The metrics page: in OpenMetrics format, which has exemplars, for clients that accept it.

    Args:
        metrics: a registry.
        accept: the request's ``Accept`` header.
    """
    encode, content_type = choose_encoder(accept)
    return Page(200, encode(metrics), content_type)


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        if self._answer_more():
            return
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self._answer(Page(404, "/healthz, /readyz and /metrics are here\n"))
            return
        try:
            answer = page(self.headers.get("Accept", ""))
        except Exception:
            log.exception("the page %s fails", self.path)
            answer = Page(500, "this page fails; the log says why\n")
        self._answer(answer)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        if self._answer_more():
            return
        self._answer(Page(405, "pages are only read: GET or HEAD\n"), Allow="GET, HEAD")

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815

    def _answer_more(self) -> bool:
        """Whether the request is for what the process adds, and is answered."""
        path = self.path.partition("?")[0]
        more = next((one for prefix, one in self.server.more.items() if path.startswith(prefix)), None)
        if more is None:
            return False
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or "transfer-encoding" in headers:
            self._answer(Page(411, "the length of the body is to be said: Content-Length\n"))
        elif len(length) > LENGTH_DIGITS_MAX or int(length) > BODY_BYTES_MAX:
            self._answer(Page(413, f"the body has more than {BODY_BYTES_MAX} bytes\n"))
        else:
            body = self.rfile.read(int(length))
            address = self.server.server_address[0]
            listens = address if isinstance(address, str) else ""
            request = Request(self.command, path, headers, body, self.client_address[0], listens)
            try:
                answer = more(request)
            except Exception:
                log.exception("the page %s fails", path)
                answer = Page(500, "this page fails; the log says why\n")
            self._answer(answer)
        return True

    def _answer(self, page: Page, **headers: str) -> None:
        body = hide(page.text).encode() if isinstance(page.text, str) else page.text
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in {**page.headers, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Do not log requests: probes would fill the log."""


class _Server(ThreadingMixIn, TCPServer):
    # Not HTTPServer: it resolves the host's name (DNS) before it listens.
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 2 * CONNECTIONS_MAX
    pages: Mapping[str, Callable[[str], Page]]
    more: Mapping[str, More]

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self.address_family = family
        self._lock = threading.Lock()
        self._since: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._since) >= CONNECTIONS_MAX:
                self._cut(next(iter(self._since)))
            self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called by the thread that accepts, every :data:`LOOK_EVERY_S`."""
        self._cut_older_than(CONNECTION_S_MAX)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        self._cut_older_than(0.0)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        if not isinstance(exc_info()[1], OSError):  # an OSError is a client that went away or was cut off
            log.exception("a request of %s fails", client_address[0])

    def _cut_older_than(self, limit_s: float) -> None:
        with self._lock:
            for request in [one for one, since in self._since.items() if time.monotonic() - since >= limit_s]:
                self._cut(request)

    def _cut(self, request: socket.socket) -> None:
        """Shut the socket down, so that its thread ends."""
        del self._since[request]
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


def _listen(host: str, port: int) -> _Server:
    """A server on the first of the host's addresses, of whatever family, that can be had."""
    refused: Exception | None = None
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                return _Server(family, address)
            except OSError as error:
                refused = refused or error
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
        refused = error
    reason = getattr(refused, "strerror", None) or str(refused or "it has no address")
    raise AddressError(f"nothing can listen on SETTLE_HTTP_HOST={host}, SETTLE_HTTP_PORT={port}: {reason}")
