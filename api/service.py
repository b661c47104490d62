"""The process of the API: ``settle run api``. One event loop; health pages from a thread, as of every service."""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
import uvloop
from cryptography import x509
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from prometheus_client import REGISTRY

import tracing
from api.app import make_app
from api.batching import STOPPING
from api.front import Front
from api.listening import Listening, connections_possible, end_when_full
from api.settings import ApiSettings
from contracts.health import AddressError, HealthServer, Page, check_address
from contracts.services import API
from processors.runtime import metrics
from processors.runtime.garbage import collect_rarely
from processors.runtime.logs import configure_logs
from processors.runtime.readiness import LOOK_AGAIN_S, LOOK_EVERY_S, Readiness

CONNECTIONS_MAX = 4_096
"""Connections at a time, most of them streams of events that are silent."""

HEADERS_MS_MAX = 10_000
"""How long the head of a request may take to arrive."""

HEADERS_BYTES_MAX = 32 * 1024
THREADS = 64
"""For functions of ``operations``, which wait for a database or Kafka; each kind has a limit of its own."""

STOP_S = 10
"""How long answers under way may take when the process stops. Streams end sooner, by themselves."""

log = structlog.get_logger()


def run_api(
    settings: ApiSettings,
    make_front: Callable[[ApiSettings], Front] = Front,
    further: Sequence[HTTPRouteHandler] = (),
) -> None:
    """Take requests until SIGTERM or SIGINT, then answer those under way and leave.

    Args:
        settings: of this process.
        make_front: makes what the handlers share, on the event loop.
        further: handlers beside the API's own.

    Raises:
        AddressError: an address cannot be had.
    """
    try:
        check_address(settings.api_host, settings.api_port)
    except AddressError as error:
        reason = str(error).rpartition(": ")[2]
        raise AddressError(f"nothing can listen on SETTLE_API_LISTEN={settings.api_listen}: {reason}") from None
    configure_logs(API)
    logging.getLogger("_granian").setLevel(logging.ERROR)  # what it does is what this module says
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, make_front, further))


async def _serve(
    settings: ApiSettings, make_front: Callable[[ApiSettings], Front], further: Sequence[HTTPRouteHandler]
) -> None:
    tracing.configure(API)
    # Python's own choice is six on two cores, which one look at the whole system would take.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "api"))
    front = make_front(settings)
    front.start()
    readiness = Readiness(settings.dsn(API), API)
    readiness.beat()
    server = _server(settings, make_app(front, further))
    collect_rarely()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        front.is_stopping = True
        server.stop()  # type: ignore[no-untyped-call]  # Granian has no types there

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    pages = _pages(settings, front, readiness) if settings.http_port else None
    looking, watching = loop.create_task(_look(readiness)), loop.create_task(end_when_full())
    certificate = settings.api_tls_certificate
    if certificate is not None and (ended := expired_at(certificate)) is not None:
        log.warning("the certificate has expired", file=str(certificate), expired_at=str(ended))
    try:
        log.info("service starts", listens=settings.api_listen, tls=certificate is not None)
        await server.serve()
    except TimeoutError:
        log.warning("answers under way are cut off", after_s=STOP_S)
        loop.set_exception_handler(_but_of_cut_off)
    finally:
        looking.cancel()
        watching.cancel()
        if pages is not None:
            pages.close()
        await readiness.close()
        await front.close()
        tracing.shutdown()


def _but_of_cut_off(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of a callback, but not that Granian tells its end to a future that the time limit cancelled."""
    if not isinstance(context.get("exception"), asyncio.InvalidStateError):
        loop.default_exception_handler(context)


def _server(settings: ApiSettings, app: ASGIApp) -> Listening:
    connections = connections_possible(CONNECTIONS_MAX)
    if connections < CONNECTIONS_MAX:
        log.warning("few files may be open, so few connections", connections=connections, remedy="ulimit -n 8192")
    server = Listening(
        app,
        address=settings.api_host,
        port=settings.api_port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADERS_MS_MAX, max_buffer_size=HEADERS_BYTES_MAX),
        websockets=False,
        backlog=CONNECTIONS_MAX,
        backpressure=connections,
        log_enabled=False,
        ssl_cert=settings.api_tls_certificate,
        ssl_key=settings.api_tls_key,
    )
    server.workers_kill_timeout = STOP_S
    return server


def expired_at(certificate: Path) -> datetime | None:
    """When the certificate in a file expired, the first where there is a chain; None if it has not."""
    try:
        ends = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except ValueError:  # OpenSSL, which has taken it, is less strict
        return None
    return ends if ends < datetime.now(UTC) else None


def _pages(settings: ApiSettings, front: Front, readiness: Readiness) -> HealthServer:
    def alive() -> Page:
        return Page(503, f"{readiness.hangs}\n") if readiness.hangs else Page(200, "ok\n")

    def ready() -> Page:
        waits_for = (STOPPING,) if front.is_stopping else readiness.waits_for
        return Page(503, "".join(f"{reason}\n" for reason in waits_for)) if waits_for else Page(200, "ok\n")

    return HealthServer(settings.http_host, settings.http_port, alive, ready, REGISTRY)


async def _look(readiness: Readiness) -> None:
    """Keep the readiness up to date. Kafka is not asked for: what is stored reaches it through the relay."""

    async def needs_no_kafka() -> None:
        return None

    while True:
        await readiness.look(needs_no_kafka)
        metrics.READY.set(not readiness.waits_for)
        await asyncio.sleep(LOOK_AGAIN_S if readiness.waits_for else LOOK_EVERY_S)
