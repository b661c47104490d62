"""``settle run SERVICE``: runs one service, configured by environment variables."""

from typing import Annotated

import typer

from cli.errors import BadInputError
from cli.extras import require
from contracts import failpoints
from contracts.services import API, NAMES, PROVIDER

RELAY = "relay"
CHOICES = (*NAMES, RELAY, PROVIDER)


def run(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help=f"{', '.join(CHOICES)}.", show_default=False)],
) -> None:
    """Run one service until SIGTERM or Ctrl-C; environment variables configure it."""
    if service not in CHOICES:
        raise BadInputError(f"there is no service {service!r}: it is one of {', '.join(CHOICES)}")
    require("relay" if service == RELAY else "services", f"run {service}")
    failpoints.arm_from_environment()
    if service == RELAY:
        from outbox_relay.relay import run_relay
        from outbox_relay.settings import RelaySettings

        run_relay(RelaySettings())
        return
    from broker import security
    from contracts.health import check_address
    from processors.runtime.settings import ServiceSettings
    from tracing.setup import TracingSettings

    settings = ServiceSettings()
    TracingSettings()  # an invalid variable is reported before anything starts
    security.check(settings.kafka_bootstrap)
    # Inside a server the error would be a traceback.
    check_address(settings.http_host, settings.http_port)
    if service == PROVIDER:
        from processors.payment.provider.service import run_provider

        run_provider(settings)
    elif service == API:
        from api.service import run_api
        from api.settings import ApiSettings

        run_api(ApiSettings())
    else:
        from processors.runtime.worker import run_service

        run_service(service)
