"""What every process of the relay does alike: its log, its signals, and an orderly end."""

import signal
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Protocol

import structlog

from contracts import standard_error
from contracts.redaction import hide_line
from outbox_relay.report import Report

_log = structlog.get_logger(__name__)


class Carrier(Protocol):
    """What carries sources: :class:`outbox_relay.threads.Threads`, or :class:`outbox_relay.workers.Workers`."""

    def start(self) -> None:
        """Begin."""

    def reports(self) -> Sequence[Report]:
        """The report of each source."""

    def join(self) -> Sequence[str]:
        """Wait for the end of all, once they are told; the names of those that have not ended in time."""


def carry(carrier: Carrier, stop: threading.Event) -> None:
    """Carry sources until told to stop, and then end them in order."""
    carrier.start()
    stop.wait()
    stuck = carrier.join()
    if stuck:
        _log.warning("sources did not end in time; their last rows are published again", sources=stuck)


def stop_on_signals(stop: threading.Event, *, quietly: bool = False) -> None:
    """Set an event on SIGTERM and SIGINT, and say so, unless another process of the relay does."""

    # A handler may be interrupted by the next signal, and neither the log nor an event can be entered twice by one
    # thread; this queue can.
    received: SimpleQueue[int] = SimpleQueue()

    def stop_on_each() -> None:
        while True:
            number = received.get()
            stop.set()  # before the line, which may wait for whoever reads it
            if not quietly:
                _log.info("stopping", signal=signal.Signals(number).name)

    threading.Thread(target=stop_on_each, name="signals", daemon=True).start()
    signal.signal(signal.SIGTERM, lambda number, _frame: received.put(number))
    signal.signal(signal.SIGINT, lambda number, _frame: received.put(number))


def configure_logs() -> None:
    """A line for each event on standard error, without passwords."""
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
        logger_factory=structlog.PrintLoggerFactory(standard_error.for_logs()),
    )
