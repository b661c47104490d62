"""``settle cancel PAYMENT_ID``: cancels a withdrawal that is not paid yet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli import settings
from cli.errors import BadInputError, CommandError
from cli.hold_up import look, unknown
from cli.settings import DataOption
from cli.text import say

if TYPE_CHECKING:
    from processors.saga.status import Status

POLL_EVERY_S = 0.05

CANCELLED = "cancelled"
CANCEL_REQUEST = "CancelRequested"


def cancel(
    payment_id: Annotated[
        UUID, typer.Argument(metavar="PAYMENT_ID", help="As `settle request` printed it.", show_default=False)
    ],
    timeout: Annotated[float, typer.Option(min=0, help="How long to wait for the decision, seconds.")] = 30.0,
    data: DataOption = None,
) -> None:
    """Ask the payment service to cancel a withdrawal that is not paid yet; print what it decided."""
    from contracts.money import format_amount
    from contracts.postgres import session
    from processors.saga.decide import INCOMPLETE
    from processors.saga.status import status_of
    from producers.cancel import request_cancel
    from producers.settings import ProducerSettings

    with session(settings.dsn("saga", data)) as connection:
        found = status_of(connection, payment_id)
        if found is None or found.state == INCOMPLETE:
            raise unknown(payment_id, found, data)
        if found.finished:
            reason = f" ({found.reason})" if found.reason else ""
            raise BadInputError(f"withdrawal {payment_id} is finished: {found.state}{reason}")
        if decided(found) is None:
            delivery_timeout_s = ProducerSettings().delivery_timeout_s
            request_cancel(settings.kafka_bootstrap(data), found, delivery_timeout_s)
        deadline = time.monotonic() + timeout
        while (answer := decided(found)) is None:
            if time.monotonic() > deadline:
                waits = look(payment_id, found, data, also_acts_on=frozenset({CANCEL_REQUEST}))
                raise CommandError(
                    f"not decided after {timeout:g} s, but the request stays in force; "
                    f"the withdrawal waits for {waits.words}"
                )
            time.sleep(POLL_EVERY_S)
            found = status_of(connection, payment_id) or found
    if answer != CANCELLED:
        raise CommandError(f"not cancelled: {answer}")
    amount = f"{format_amount(found.amount_minor, found.currency)} {found.currency}"
    where = "is back on" if found.finished else "goes back to"
    say(f"cancelled: {amount} {where} {found.account_id}")


def decided(status: Status) -> str | None:
    """``cancelled``, or why it is not; None while it is undecided."""
    refusals = [step.reason for step in status.steps if step.event == "CancelRefused"]
    if refusals:
        return refusals[-1]
    if status.state in ("compensating", "compensated") and status.reason is not None:
        return status.reason if status.reason == CANCELLED else f"already_failed: {status.reason}"
    if status.state in ("paid", "completed"):
        return "already_paid"
    return f"rejected: {status.reason}" if status.state == "rejected" else None
