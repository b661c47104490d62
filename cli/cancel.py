"""``settle cancel PAYMENT_ID``: cancels a withdrawal that is not paid yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli import settings
from cli.errors import BadInputError, CommandError
from cli.hold_up import look, unknown
from cli.remote import ApiOption, WhyOption, ask, reason
from cli.settings import DataOption
from cli.text import complain, say
from cli.withdrawal import looking
from contracts.services import API

if TYPE_CHECKING:
    from pathlib import Path

    from contracts.events import Withdrawal
    from processors.saga.status import Status


def cancel(
    payment_id: Annotated[
        UUID, typer.Argument(metavar="PAYMENT_ID", help="As `settle request` printed it.", show_default=False)
    ],
    timeout: Annotated[float, typer.Option(min=0, help="How long to wait for the decision, seconds.")] = 30.0,
    api: ApiOption = None,
    why: WhyOption = None,
    data: DataOption = None,
) -> None:
    """Ask the payment service to cancel a withdrawal that is not paid yet; print what it decided."""
    from contracts.money import format_amount
    from operations.cancel import CANCELLED
    from operations.cancel import cancel as carry_out
    from operations.errors import FinishedError

    because = {"reason": reason(why)} if api is not None else None

    def request(status: Status | None) -> None:
        if api is None:
            _request(payment_id, status, data)
        elif status is None:
            raise unknown(payment_id, None, data, api)
        else:
            ask(api, "POST", f"/v1/withdrawals/{payment_id}/cancel", because)

    try:
        with looking(payment_id, data, api) as find:
            done = carry_out(find, request, timeout)
    except FinishedError as error:
        raise BadInputError(str(error)) from None
    if done.answer is None:
        complain(f"not decided after {timeout:g} s, but the request stays in force")
        if not done.is_recorded:  # of a lost request no event will ever tell
            void = "the payment service is asked to void it: unless it is paid by then, it never is"
            raise CommandError(f"the saga service does not know the withdrawal; {void}")
        waits = look(payment_id, done.status, data, api, is_cancelled=True)
        raise CommandError(f"the withdrawal waits for {waits.words}")
    if done.answer != CANCELLED:
        raise CommandError(f"not cancelled: {done.answer}")
    found = done.status
    assert found is not None
    amount = f"{format_amount(found.amount_minor, found.currency)} {found.currency}"
    where = "is back on" if found.finished else "goes back to"
    say(f"cancelled: {amount} {where} {found.account_id}")


def _request(payment_id: UUID, status: Status | None, data: Path | None) -> None:
    """Request a cancellation: with the contents that the API stored where the saga service lacks the request.

    Raises:
        BadInputError: neither of them has it.
    """
    from processors.saga.decide import INCOMPLETE
    from producers.cancel import request_cancel
    from producers.settings import ProducerSettings

    withdrawal: Withdrawal | None = status
    if status is None or status.state == INCOMPLETE:
        withdrawal = _accepted(payment_id, data)
    if withdrawal is None:
        raise unknown(payment_id, status, data)
    request_cancel(settings.kafka_bootstrap(data), withdrawal, ProducerSettings().delivery_timeout_s)


def _accepted(payment_id: UUID, data: Path | None) -> Withdrawal | None:
    """A withdrawal as the API accepted it; None where it has not, or there is no API."""
    from contracts.postgres import session
    from operations.stuck import lost_ones

    if not settings.there([API], data):
        return None
    with session(settings.dsn(API, data)) as connection:
        return next(iter(lost_ones(connection, {payment_id: False})), None)
