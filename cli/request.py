"""``settle request --account acc-1 --amount 100.00``: withdraws money."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli.client import open_client
from cli.errors import BadInputError, CommandError
from cli.hold_up import look
from cli.remote import ApiOption, ask
from cli.settings import DataOption
from cli.text import say, say_json
from cli.withdrawal import looking

if TYPE_CHECKING:
    from pathlib import Path

    from operations.waits import Waits
    from processors.saga.status import Status, Step

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
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Withdraw money; print the payment ID and the trace ID."""
    from contracts.money import parse_amount, parse_currency

    asked_at = datetime.now(UTC)
    if api is not None:
        receipt = _by_api(api, account, amount, currency, payment_id)
    else:
        receipt = _by_kafka(data, account, amount, currency, payment_id)
    withdrawal = UUID(receipt["payment_id"])
    if not as_json:
        say(f"payment ID  {withdrawal}")
        say(f"trace ID    {receipt['trace_id']}")
    if not wait:
        if as_json:
            say_json(receipt)
        return

    def show(step: Step) -> None:
        if not as_json:
            say(f"{(step.at - asked_at).total_seconds():+8.3f} s  {step.event}")

    with _or_else(receipt, as_json=as_json), looking(withdrawal, data, api) as find:
        status = _follow(find, timeout, show)
    if status is not None:
        _refuse_other_contents(status, account, parse_amount(amount, currency), parse_currency(currency))
    waits = None
    if status is None or not status.finished:
        with _or_else(receipt | _status_fields(status, None), as_json=as_json):
            waits = look(withdrawal, status, data, api, account_id=account)
    if as_json:
        say_json(receipt | _status_fields(status, waits))
    elif status is not None and waits is None:
        say(_outcome(status))
    if waits is not None:
        raise CommandError(
            f"withdrawal {withdrawal} is not finished after {timeout:g} s; it waits for {waits.words}"
        )


@contextmanager
def _or_else(standing: dict[str, Any], *, as_json: bool) -> Iterator[None]:
    """Where what is asked further fails or is interrupted, print as JSON what stands."""
    try:
        yield
    except BaseException:
        if as_json:
            say_json(standing)
        raise


def _by_kafka(
    data: Path | None, account: str, amount: str, currency: str, payment_id: str | None
) -> dict[str, Any]:
    """Where Kafka stored the request."""
    with open_client(data) as client:
        receipt = client.request(account, amount, currency=currency, payment_id=payment_id)
    return {
        "payment_id": str(receipt.payment_id),
        "trace_id": receipt.trace_id,
        "topic": receipt.topic,
        "partition": receipt.partition,
        "offset": receipt.offset,
    }


def _by_api(api: str, account: str, amount: str, currency: str, payment_id: str | None) -> dict[str, Any]:
    """The same where the API stored it, whose relay publishes it later; with its payment ID as the key."""
    from uuid_utils.compat import uuid7

    from contracts.topics import WITHDRAWAL_REQUESTS

    named = payment_id or str(uuid7())
    wanted = {"account_id": account, "amount": amount, "currency": currency, "payment_id": named}
    try:
        accepted = ask(api, "POST", "/v1/withdrawals", wanted, key=named)
    except BadInputError:
        raise
    except CommandError as error:
        raise CommandError(f"{error}; repeating it with --payment-id {named} is safe") from None
    return {
        "payment_id": accepted["payment_id"],
        "trace_id": accepted["trace_id"],
        "topic": WITHDRAWAL_REQUESTS.name,
        "partition": None,
        "offset": None,
    }


def _follow(find: Callable[[], Status | None], timeout_s: float, show: Callable[[Step], None]) -> Status | None:
    """Show each step once, until the withdrawal is finished or the time is up; returns the last status."""
    deadline = time.monotonic() + timeout_s
    shown: set[str] = set()
    while True:
        status = find()
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
