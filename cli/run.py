"""``settle run account``: one service run alone, configured by environment variables."""

import socket
from typing import Annotated

import typer

from cli.errors import BadInputError, CommandError
from cli.extras import require
from contracts import failpoints
from contracts.services import NAMES, PROVIDER

RELAY = "relay"
CHOICES = (*NAMES, RELAY, PROVIDER)


def run(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help=f"{', '.join(CHOICES)}.", show_default=False)],
) -> None:
    """Run one service until SIGTERM or Ctrl-C; environment variables configure it."""
    if service not in CHOICES:
        raise BadInputError(f"there is no service {service!r}: it is one of {', '.join(CHOICES)}")
    failpoints.arm_from_environment()
    if service == RELAY:
        from outbox_relay.relay import run_relay
        from outbox_relay.settings import RelaySettings

        relay_settings = RelaySettings()
        _check_address(relay_settings.http_host, relay_settings.http_port)
        run_relay(relay_settings)
        return
    require("services", f"run {service}")
    from processors.runtime.settings import ServiceSettings
    from tracing.setup import TracingSettings

    settings = ServiceSettings()
    TracingSettings()  # a variable that makes no sense is said before anything starts
    _check_address(settings.http_host, settings.http_port)
    if service == PROVIDER:
        from processors.payment.provider.service import run_provider

        run_provider(settings)
    else:
        from processors.runtime.worker import run_service

        run_service(service)


def _check_address(host: str, port: int) -> None:
    """Whether a service may listen there; from within a server the answer would be a traceback."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise CommandError(
            f"nothing can listen on SETTLE_HTTP_HOST={host}, SETTLE_HTTP_PORT={port}: {error.strerror}"
        ) from None
