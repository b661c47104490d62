"""``settle nudge PAYMENT_ID``: republishes the events that a stuck withdrawal lacks."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from cli import settings
from cli.errors import BadInputError, CommandError
from cli.hold_up import look, unknown
from cli.settings import DataOption
from cli.text import say
from contracts.services import NAMES


def nudge(
    payment_id: Annotated[
        UUID, typer.Argument(metavar="PAYMENT_ID", help="As `settle stuck` lists it.", show_default=False)
    ],
    data: DataOption = None,
) -> None:
    """Republish the event that a withdrawal's next step acts on and those that a service lacks; harmless."""
    from operations import lost
    from operations.republish import find, republish
    from processors.saga.status import find_status
    from producers.settings import ProducerSettings

    dsns = {name: settings.dsn(name, data) for name in NAMES}
    status = find_status(dsns["saga"], payment_id)
    if status is not None and status.finished:
        raise BadInputError(f"withdrawal {payment_id} is finished: {status.state}; there is nothing to nudge")
    bootstrap = settings.kafka_bootstrap(data)
    found = find(dsns, bootstrap, lambda one: lost.lacking(one) | lost.acted_on(one), payment_ids=[payment_id])
    if not found and status is None:
        raise unknown(payment_id, status, data)
    if not found:
        waits = look(payment_id, status, data)
        raise CommandError(f"no service lacks an event of {payment_id}; it waits for {waits.words}")
    dead = republish(dsns, bootstrap, found, ProducerSettings().delivery_timeout_s)
    for one in dead:
        say(
            f"{one.event_type} could not be published: `settle outbox dead list` says why, and "
            f"`settle outbox dead retry {one.message_id}` puts it back"
        )
    for one in found:
        if one in dead:
            continue
        say(f"republished on {one.topic}: {one.event_type}")
    say(f"it waits for {look(payment_id, status, data).words}")
