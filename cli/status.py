"""``settle status PAYMENT_ID``: the state of a withdrawal, its steps, and what finished it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli.hold_up import look, unknown
from cli.remote import ApiOption
from cli.settings import DataOption
from cli.text import say, say_json
from cli.withdrawal import find

if TYPE_CHECKING:
    from cli.screen import Grid
    from operations.waits import Waits
    from processors.saga.status import Status


def status(
    payment_id: Annotated[
        UUID, typer.Argument(metavar="PAYMENT_ID", help="As `settle request` printed it.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Show the state of a withdrawal: its steps, what it waits for, whether and by what it is finished."""
    from cli.screen import Screen

    found = find(payment_id, data, api)
    if found is None:
        raise unknown(payment_id, found, data, api)
    waits = None if found.finished else look(payment_id, found, data, api)
    if as_json:
        say_json(as_fields(found, waits))
        return
    Screen().print(as_table(found))
    say(in_words(found, waits))


def as_fields(found: Status, waits: Waits | None) -> dict[str, object]:
    """What ``--json`` prints."""
    return {
        "payment_id": str(found.payment_id),
        "state": found.state,
        "finished": found.finished,
        "finished_by": found.finished_by,
        "finished_at": found.finished_at.isoformat() if found.finished_at else None,
        "reason": found.reason,
        "account_id": found.account_id,
        "amount_minor": found.amount_minor,
        "currency": found.currency,
        "steps": [{"event": step.event, "at": step.at.isoformat()} for step in found.steps],
        "waiting_for": waits.words if waits else None,
        "held_up_by": waits.held_up_by if waits else None,
        "trace_id": found.trace_id,
    }


def as_table(found: Status) -> Grid:
    """The steps with their times, the first one first."""
    from cli.screen import Grid, styled
    from contracts.money import format_amount

    amount = f"{format_amount(found.amount_minor, found.currency)} {found.currency}"
    table = Grid(title_justify="left", title_style="")
    table.title = styled(f"{found.payment_id}  {amount} from {found.account_id}")
    table.add_column("event", style="bold")
    table.add_column("at (UTC)")
    table.add_column("after", justify="right")
    for step in found.steps:
        after_ms = (step.at - found.steps[0].at).total_seconds() * 1000
        mark = " ◀ finished" if step.event == found.finished_by else ""
        table.add_row(step.event, f"{step.at:%Y-%m-%d %H:%M:%S.%f}"[:-3], f"{after_ms:,.1f} ms{mark}")
    return table


def in_words(found: Status, waits: Waits | None = None) -> str:
    """The answer as a sentence."""
    reason = f" ({found.reason})" if found.reason else ""
    trace = f"; trace {found.trace_id}" if found.trace_id else ""
    if waits is None:
        return f"{found.state}{reason}: finished by {found.finished_by}{trace}"
    return f"{found.state}{reason}: not finished, waits for {waits.words}{trace}"
