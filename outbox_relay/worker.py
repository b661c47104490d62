"""A worker process of the relay: it carries the sources that its supervisor hands to it, and tells how they are.

Started by :mod:`outbox_relay.workers` alone. The connection between both is also what ties their lives together: a
worker whose supervisor is gone, however that died, ends in order.
"""

import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import structlog

import tracing
from contracts import failpoints
from contracts.redaction import guard_tracebacks, remember_passwords
from contracts.variables import remember_secrets
from outbox_relay.process import carry, configure_logs, stop_on_signals
from outbox_relay.source_settings import SourceSettings
from outbox_relay.threads import Threads

_log = structlog.get_logger(__name__)


def run(connection: "Connection[Any, Any]") -> None:
    """Carry the sources that come first on a connection, and answer each further message with their reports.

    Args:
        connection: to the supervisor.
    """
    guard_tracebacks()
    remember_secrets()
    configure_logs()
    failpoints.arm_from_environment()
    try:
        sources: tuple[SourceSettings, ...] = connection.recv()
    except (EOFError, OSError):
        return  # the supervisor was gone before it had said anything
    for one in sources:
        remember_passwords(one.dsn)
    stop = threading.Event()
    stop_on_signals(stop, quietly=True)
    tracing.configure("relay")
    threads = Threads(sources, stop)
    threading.Thread(target=_answer, args=(connection, threads, stop), name="supervisor", daemon=True).start()
    try:
        carry(threads, stop)
    finally:
        stop.set()
        tracing.shutdown()


def _answer(connection: "Connection[Any, Any]", threads: Threads, stop: threading.Event) -> None:
    try:
        while True:
            connection.recv()
            connection.send(threads.reports())
    except (EOFError, OSError):
        if not stop.is_set():
            stop.set()
            _log.warning("the relay's supervisor is gone: stopping")


if __name__ == "__main__":
    run(Connection(int(sys.argv[1])))
