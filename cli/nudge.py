"""How is a withdrawal that stands still set going again? ``settle nudge PAYMENT_ID``."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from cli import settings
from cli.errors import BadInputError, CommandError
from cli.settings import DataOption

DATABASES = ("saga", "account", "payment", "notification")


def nudge(
    payment_id: Annotated[
        UUID, typer.Argument(metavar="PAYMENT_ID", help="As `settle stuck` lists it.", show_default=False)
    ],
    data: DataOption = None,
) -> None:
    """Say again what the waiting step of a withdrawal needs to hear; harmless when repeated."""
    from audit.nudge import to_say_again
    from audit.stuck import waiting
    from processors.saga.status import read
    from producers.publish import publish
    from producers.settings import ProducerSettings

    dsns = {name: settings.dsn(name, data) for name in DATABASES}
    found = read(dsns["saga"], payment_id)
    if found is None:
        raise BadInputError(f"no withdrawal {payment_id} is known; a new one is known once its request was read")
    if found.finished:
        raise BadInputError(f"withdrawal {payment_id} is finished: {found.state}; there is nothing to nudge")
    bootstrap, timeout_s = settings.kafka_bootstrap(data), ProducerSettings().delivery_timeout_s
    messages = to_say_again(dsns, bootstrap, payment_id)
    if not messages:
        raise CommandError(f"no service has anything to say again; {payment_id} waits for {found.waiting_for}")
    publish(bootstrap, messages, timeout_s)
    for message in messages:
        print(f"said again on {message.topic}: {message.event_type}")
    print(f"it waits for {found.waiting_for}")
    pending = waiting(dsns, [payment_id]).get(payment_id)
    if pending is not None:
        print(f"which is in hand: {pending.in_words()}")
