"""The relay process: a thread per source, the health pages, and an orderly shutdown."""

import signal
import sys
import threading
from queue import SimpleQueue

import structlog

import tracing
from broker import security
from contracts.redaction import hide_line
from outbox_relay import health, polling, wal
from outbox_relay.control.pages import PREFIX, ControlPages
from outbox_relay.names import source_name
from outbox_relay.plan import plan
from outbox_relay.settings import RelaySettings
from outbox_relay.source import Read, Source

READERS: dict[str, Read] = {"wal": wal.stream, "polling": polling.poll}
"""The ways to read an outbox, by the name in ``SETTLE_RELAY_READER``."""

# A source may be connecting, or flushing, when it is stopped.
JOIN_WAIT_S = wal.STOP_WAIT_S + 5.0

_log = structlog.get_logger(__name__)


def run_relay(settings: RelaySettings, stop: threading.Event | None = None) -> None:
    """Relay every source until SIGTERM or SIGINT, then flush, confirm and close.

    Args:
        settings: which databases, which Kafka, or the configuration file that says so.
        stop: ends the relay when set, for callers that own the process: signals and tracing are left alone.

    Raises:
        RelayError: no source is configured, or the configuration file is wrong.
        KafkaSettingsError: nobody can connect to Kafka as the variables say.
        AddressError: the address of the health pages cannot be had.
    """
    made = plan(settings)
    settings, each = made.settings, made.sources
    security.check(settings.kafka_bootstrap)
    _configure_logs()
    owns_process = stop is None
    stop = stop or threading.Event()
    sources = [
        Source(one, one.name or source_name(one.dsn, one.outbox), READERS[one.reader], stop, len(each))
        for one in each
    ]
    if owns_process:
        _stop_on_signals(stop)
        tracing.configure("relay")
    control = ControlPages(each, settings.relay_http_token, lambda: {one.name: one.reason for one in sources})
    more = {PREFIX: control}
    pages = health.serve(settings.http_host, settings.http_port, sources, more) if settings.http_port else None
    try:
        for source in sources:
            source.start()
        stop.wait()
        stuck = [source.name for source in sources if not source.join(JOIN_WAIT_S)]
        if stuck:
            _log.warning("sources did not end in time; their last rows are published again", sources=stuck)
    finally:
        stop.set()
        if pages is not None:
            pages.close()
        if owns_process:
            tracing.shutdown()


def _stop_on_signals(stop: threading.Event) -> None:
    # A handler may be interrupted by the next signal, and neither the log nor an event can be entered twice by one
    # thread; this queue can.
    received: SimpleQueue[int] = SimpleQueue()

    def stop_on_each() -> None:
        while True:
            _log.info("stopping", signal=signal.Signals(received.get()).name)
            stop.set()

    threading.Thread(target=stop_on_each, name="signals", daemon=True).start()
    signal.signal(signal.SIGTERM, lambda number, _frame: received.put(number))
    signal.signal(signal.SIGINT, lambda number, _frame: received.put(number))


def _configure_logs() -> None:
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            hide_line,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
            hide_line,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
