"""``settle cancel PAYMENT_ID``: cancels a withdrawal that is not paid yet."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from cli import settings
from cli.errors import BadInputError, CommandError
from cli.hold_up import look, unknown
from cli.settings import DataOption
from cli.text import say

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
    from operations.cancel import CANCELLED
    from operations.cancel import cancel as ask
    from operations.errors import FinishedError
    from processors.saga.status import Status, find_status
    from producers.cancel import request_cancel
    from producers.settings import ProducerSettings

    def request(status: Status) -> None:
        request_cancel(settings.kafka_bootstrap(data), status, ProducerSettings().delivery_timeout_s)

    dsn = settings.dsn("saga", data)
    try:
        done = ask(dsn, payment_id, request, timeout)
    except FinishedError as error:
        raise BadInputError(str(error)) from None
    if done.status is None:
        raise unknown(payment_id, find_status(dsn, payment_id), data)
    if done.answer is None:
        waits = look(payment_id, done.status, data, also_acts_on=frozenset({CANCEL_REQUEST}))
        raise CommandError(
            f"not decided after {timeout:g} s, but the request stays in force; "
            f"the withdrawal waits for {waits.words}"
        )
    if done.answer != CANCELLED:
        raise CommandError(f"not cancelled: {done.answer}")
    found = done.status
    amount = f"{format_amount(found.amount_minor, found.currency)} {found.currency}"
    where = "is back on" if found.finished else "goes back to"
    say(f"cancelled: {amount} {where} {found.account_id}")
