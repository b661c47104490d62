"""The parts of each approach, clients and workers, made by name from addresses."""

import os
import threading
from collections.abc import Callable, Mapping

from lab.approaches.withdrawal import Approach

Addresses = Mapping[str, str]
"""Database URLs by role, ``kafka``, and where they matter ``aggregate`` (of its topic) and ``poll_every_s``."""

Run = Callable[[threading.Event], None]


Make = Callable[[Addresses], Approach]


def client(name: str, at: Addresses) -> Approach:
    """A client of the approach of that name."""
    return _CLIENTS[name]()(at)


def maker(name: str) -> Make:
    """What makes such clients, with its imports done."""
    return _CLIENTS[name]()


def worker(name: str, at: Addresses) -> Run:
    """The worker of that name; call it with the event that ends it."""
    return _WORKERS[name](at)


# Imported when made: a process that withdraws from the monolith needs no Kafka.


def _monolith() -> Make:
    from lab.approaches.monolith import Monolith

    return lambda at: Monolith(at["everything"])


def _two_phase_commit() -> Make:
    from lab.approaches.two_phase_commit import TwoPhaseCommit

    return lambda at: TwoPhaseCommit(at)


def _saga() -> Make:
    from lab.approaches.saga import Saga

    return lambda at: Saga(at["kafka"], at["saga"])


def _event_sourcing() -> Make:
    from lab.approaches.event_sourcing import EventSourced

    return lambda at: EventSourced(at["account"], at["payment"])


def _outbox_polling() -> Make:
    from lab.approaches.outbox import Outbox

    return lambda at: Outbox(at["account"], at["aggregate"])


def _outbox_wal() -> Make:
    from lab.approaches.outbox import OutboxByRelay

    return lambda at: OutboxByRelay(at["account"], at["payment"], at["aggregate"])


def _naive() -> Make:
    from lab.approaches.naive import Naive

    return lambda at: Naive(at["account"], at["kafka"], at["aggregate"])


def _polling_worker(at: Addresses) -> Run:
    from lab.approaches.outbox import PollingWorker

    return PollingWorker(at["account"], at["kafka"], float(at["poll_every_s"])).run


def _relay(at: Addresses) -> Run:
    from outbox_relay.relay import run_relay
    from outbox_relay.settings import RelaySettings

    # Its log while a database is taken away on purpose is expected.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    settings = RelaySettings(relay_sources=at["account"], kafka_bootstrap=at["kafka"])
    return lambda stop: run_relay(settings, stop)


def _payment_service(at: Addresses) -> Run:
    from lab.approaches.outbox import PaymentService

    return PaymentService(at["payment"], at["kafka"], at["aggregate"]).run


def _naive_payment_service(at: Addresses) -> Run:
    from lab.approaches.naive import NaivePaymentService

    return NaivePaymentService(at["payment"], at["kafka"], at["aggregate"]).run


_CLIENTS: dict[str, Callable[[], Make]] = {
    "monolith": _monolith,
    "two_phase_commit": _two_phase_commit,
    "saga": _saga,
    "event_sourcing": _event_sourcing,
    "outbox_polling": _outbox_polling,
    "outbox_wal": _outbox_wal,
    "naive": _naive,
}
_WORKERS: dict[str, Callable[[Addresses], Run]] = {
    "polling worker": _polling_worker,
    "relay": _relay,
    "payment service": _payment_service,
    "naive payment service": _naive_payment_service,
}
