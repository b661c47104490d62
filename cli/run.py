"""How is one service run alone? ``settle run account``, configured by environment variables."""

from enum import StrEnum
from typing import Annotated

import typer

import failpoints


class ServiceName(StrEnum):
    """What can be run."""

    ACCOUNT = "account"
    PAYMENT = "payment"
    NOTIFICATION = "notification"
    SAGA = "saga"
    RELAY = "relay"
    PROVIDER = "provider"


def run(
    service: Annotated[ServiceName, typer.Argument(help="Which one.", metavar="SERVICE", show_default=False)],
) -> None:
    """Run one service until SIGTERM or Ctrl-C; environment variables configure it."""
    failpoints.arm_from_environment()
    if service is ServiceName.RELAY:
        from outbox_relay.relay import run_relay
        from outbox_relay.settings import RelaySettings

        run_relay(RelaySettings())
    elif service is ServiceName.PROVIDER:
        from processors.payment.provider.service import run_provider
        from processors.runtime.settings import ServiceSettings

        run_provider(ServiceSettings())
    else:
        from processors.runtime.worker import run_service

        run_service(service.value)
