"""The relay: its sources, in this process or spread over several, the health pages, and an orderly shutdown."""

import threading

import tracing
from broker import security
from outbox_relay import health
from outbox_relay.control.pages import PREFIX, ControlPages
from outbox_relay.plan import plan
from outbox_relay.process import Carrier, carry, configure_logs, stop_on_signals
from outbox_relay.settings import RelaySettings
from outbox_relay.threads import Threads
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
    settings, sources = made.settings, made.sources
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
    control = ControlPages(
        sources, settings.relay_http_token, lambda: {one.name: one.reason for one in carrier.reports()}
    )
    pages = None
    if settings.http_port:
        more = {PREFIX: control}
        pages = health.serve(settings.http_host, settings.http_port, carrier.reports, more)
    try:
        carry(carrier, stop)
    finally:
        stop.set()
        if pages is not None:
            pages.close()
        if owns_process:
            tracing.shutdown()
