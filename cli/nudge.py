"""``settle nudge PAYMENT_ID``: republishes the events that a stuck withdrawal lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli import settings
from cli.errors import BadInputError, CommandError
from cli.hold_up import look, unknown
from cli.remote import LONG_S, ApiOption, WhyOption, ask, reason
from cli.settings import DataOption
from cli.text import say
from contracts.services import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from operations.waits import Waits


def nudge(
    payment_id: Annotated[
        UUID, typer.Argument(metavar="PAYMENT_ID", help="As `settle stuck` lists it.", show_default=False)
    ],
    api: ApiOption = None,
    why: WhyOption = None,
    data: DataOption = None,
) -> None:
    """Republish the event that a withdrawal's next step acts on and those that a service lacks; harmless."""
    if api is not None:
        _by_api(api, payment_id, reason(why))
        return
    from operations.errors import FinishedError
    from operations.nudge import nudge as republish_for
    from producers.settings import ProducerSettings

    dsns = settings.dsns(NAMES, data)
    bootstrap = settings.kafka_bootstrap(data)
    try:
        done = republish_for(dsns, bootstrap, payment_id, ProducerSettings().delivery_timeout_s)
    except FinishedError as error:
        state = error.status.state
        raise BadInputError(f"withdrawal {payment_id} is finished: {state}; there is nothing to nudge") from None
    if done.status is None and not done.republished and not done.dead:
        raise unknown(payment_id, None, data)
    dead = [(one.event_type, one.message_id) for one in done.dead]
    republished = [(one.topic, one.event_type) for one in done.republished]
    _tell(payment_id, dead, republished, lambda: look(payment_id, done.status, data))


def _by_api(api: str, payment_id: UUID, why: str) -> None:
    done = ask(api, "POST", f"/v1/withdrawals/{payment_id}/nudge", {"reason": why}, patience_s=LONG_S)
    dead = [(one["event_type"], one["message_id"]) for one in done["dead"]]
    republished = [(one["topic"], one["event_type"]) for one in done["republished"]]
    _tell(payment_id, dead, republished, lambda: look(payment_id, None, None, api))


def _tell(
    payment_id: UUID,
    dead: Sequence[tuple[str, object]],
    republished: Sequence[tuple[str, str]],
    look_now: Callable[[], Waits],
) -> None:
    """Print what a nudge has done, before anybody is asked what the withdrawal waits for.

    Args:
        payment_id: of the withdrawal.
        dead: event type and message ID of what could not be published.
        republished: topic and event type of what was.
        look_now: finds what it waits for now.

    Raises:
        CommandError: there was nothing to do.
    """
    if not dead and not republished:
        raise CommandError(f"no service lacks an event of {payment_id}; it waits for {look_now().words}")
    for event_type, message_id in dead:
        say(
            f"{event_type} could not be published: `settle outbox dead list` says why, and "
            f"`settle outbox dead retry {message_id}` puts it back"
        )
    for topic, event_type in republished:
        say(f"republished on {topic}: {event_type}")
    say(f"it waits for {look_now().words}")
