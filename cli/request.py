"""``settle request --account acc-1 --amount 100.00``: withdraws money."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import settings
from cli.client import open_client
from cli.errors import CommandError
from cli.hold_up import look
from cli.settings import DataOption
from cli.text import say, say_json

if TYPE_CHECKING:
    from operations.waits import Waits
    from processors.saga.status import Status, Step
    from producers.client import Receipt

POLL_EVERY_S = 0.05


def request(
    account: Annotated[str, typer.Option(help="The account to take it from, such as acc-1.")],
    amount: Annotated[str, typer.Option(help="How much, such as 100.00.")],
    currency: Annotated[str, typer.Option(help="ISO 4217 code.")] = "USD",
    payment_id: Annotated[
        str | None, typer.Option(help="UUID, to repeat a request.", show_default="a new one")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the withdrawal to its end.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="How long to follow it, seconds.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    data: DataOption = None,
) -> None:
    """Withdraw money; print the payment ID and the trace ID."""
    from contracts.money import parse_amount, parse_currency

    asked_at = datetime.now(UTC)
    with open_client(data) as client:
        receipt = client.request(account, amount, currency=currency, payment_id=payment_id)
    if not as_json:
        say(f"payment ID  {receipt.payment_id}")
        say(f"trace ID    {receipt.trace_id}")
    if not wait:
        if as_json:
            say_json(_receipt_fields(receipt))
        return

    def show(step: Step) -> None:
        if not as_json:
            say(f"{(step.at - asked_at).total_seconds():+8.3f} s  {step.event}")

    status = _follow(settings.dsn("saga", data), receipt, timeout, show)
    if status is not None:
        _refuse_other_contents(status, account, parse_amount(amount, currency), parse_currency(currency))
    waits = None
    if status is None or not status.finished:
        waits = look(receipt.payment_id, status, data, account_id=account)
    if as_json:
        say_json(_receipt_fields(receipt) | _status_fields(status, waits))
    elif status is not None and waits is None:
        say(_outcome(status))
    if waits is not None:
        raise CommandError(
            f"withdrawal {receipt.payment_id} is not finished after {timeout:g} s; it waits for {waits.words}"
        )


def _follow(dsn: str, receipt: Receipt, timeout_s: float, show: Callable[[Step], None]) -> Status | None:
    """Show each step once, until the withdrawal is finished or the time is up; returns the last status."""
    from contracts.postgres import session
    from processors.saga.status import status_of

    deadline = time.monotonic() + timeout_s
    shown: set[str] = set()
    with session(dsn) as connection:
        while True:
            status = status_of(connection, receipt.payment_id)
            for step in status.steps if status is not None else ():
                if step.event not in shown:
                    shown.add(step.event)
                    show(step)
            if (status is not None and status.finished) or time.monotonic() > deadline:
                return status
            time.sleep(POLL_EVERY_S)


def _refuse_other_contents(status: Status, account: str, amount_minor: int, currency: str) -> None:
    """The payment ID may be an earlier withdrawal's, which is the one followed; ours is refused."""
    from contracts.money import format_amount

    if (status.account_id, status.amount_minor, status.currency) != (account, amount_minor, currency):
        earlier = f"{format_amount(status.amount_minor, status.currency)} {status.currency}"
        raise CommandError(
            f"payment ID {status.payment_id} belongs to another withdrawal: {earlier} from {status.account_id}"
        )


def _outcome(status: Status) -> str:
    reason = f": {status.reason}" if status.reason else ""
    return f"{status.state}{reason} (by {status.finished_by})"


def _receipt_fields(receipt: Receipt) -> dict[str, Any]:
    return {
        "payment_id": str(receipt.payment_id),
        "trace_id": receipt.trace_id,
        "topic": receipt.topic,
        "partition": receipt.partition,
        "offset": receipt.offset,
    }


def _status_fields(status: Status | None, waits: Waits | None) -> dict[str, Any]:
    waiting = {
        "waiting_for": waits.words if waits else None,
        "held_up_by": waits.held_up_by if waits else None,
    }
    if status is None:
        return {"state": None, "finished": False, "finished_by": None, "steps": [], **waiting}
    return {
        "state": status.state,
        "finished": status.finished,
        "finished_by": status.finished_by,
        "reason": status.reason,
        "steps": [{"event": step.event, "at": step.at.isoformat()} for step in status.steps],
        **waiting,
    }
