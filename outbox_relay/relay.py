"""The relay: its sources, in this process or spread over several, the health pages, and an orderly shutdown."""

import threading
from collections import Counter
from collections.abc import Sequence

import tracing
from broker import security
from outbox_relay import health
from outbox_relay.plan import plan
from outbox_relay.process import Carrier, carry, configure_logs, stop_on_signals
from outbox_relay.settings import RelaySettings
from outbox_relay.source import source_name
from outbox_relay.source_settings import SourceSettings
from outbox_relay.threads import Named, Threads
from outbox_relay.workers import Workers


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
    settings, sources = made.settings, named(made.sources)
    security.check(settings.kafka_bootstrap)
    configure_logs()
    owns_process = stop is None
    stop = stop or threading.Event()
    carrier: Carrier
    if min(settings.relay_processes, len(sources)) == 1:
        carrier = Threads(sources, stop)
    else:
        carrier = Workers(sources, settings.relay_processes, stop)
    if owns_process:
        stop_on_signals(stop)
        tracing.configure("relay")
    pages = health.serve(settings.http_host, settings.http_port, carrier.reports) if settings.http_port else None
    try:
        carry(carrier, stop)
    finally:
        stop.set()
        if pages is not None:
            pages.close()
        if owns_process:
            tracing.shutdown()


def named(sources: Sequence[SourceSettings]) -> tuple[Named, ...]:
    """The sources with their names, each of which there is once."""
    names = [one.name or source_name(one.dsn, one.outbox) for one in sources]
    times = Counter(names)
    # The same database name on several servers: number them in the order given.
    each = (
        name if times[name] == 1 else f"{name}-{names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    )
    return tuple(zip(each, sources, strict=True))
