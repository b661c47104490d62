"""``settle audit``: proof that no money is lost or doubled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli import settings
from cli.errors import FAILED, CommandError
from cli.remote import ApiOption, WhyOption, ask, reason
from cli.settings import DataOption
from cli.text import say_json
from contracts.services import DATABASES

if TYPE_CHECKING:
    from rich.text import Text

    from cli.screen import Grid
    from operations.audit.run import Audit


POLL_S = 0.5


def audit(
    wait: Annotated[
        float, typer.Option(min=0, help="How long withdrawals under way may take to end, seconds.")
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    api: ApiOption = None,
    why: WhyOption = None,
    data: DataOption = None,
) -> None:
    """Prove from all databases that no money is lost or doubled; fail if anything is off."""
    import msgspec

    from cli.screen import Screen
    from operations.audit.run import run

    if api is not None:
        found = _by_api(api, wait, reason(why))
    else:
        dsns = settings.dsns(DATABASES, data)
        found = run(dsns, settings.kafka_bootstrap(data), wait)
    if as_json:
        say_json(msgspec.to_builtins(found))
    else:
        console = Screen()
        console.print(as_table(found))
        console.print(in_words(found))
        if found.dead_letters:
            console.print(dead_letters_in_words(found))
    if not found.ok:
        raise typer.Exit(FAILED)


def _by_api(api: str, wait_s: float, why: str) -> Audit:
    """The result of an audit that the API runs, and keeps."""
    import msgspec

    from operations.audit.run import Audit

    started = ask(api, "POST", "/v1/audits", {"reason": why, "wait_s": wait_s})
    while (one := ask(api, "GET", f"/v1/audits/{started['audit_id']}"))["state"] == "running":
        time.sleep(POLL_S)
    if one["result"] is None:
        raise CommandError(f"the audit is {one['state']}" + (f": {one['error']}" if one["error"] else ""))
    return msgspec.convert(one["result"], Audit)


def as_table(found: Audit) -> Grid:
    """One line a check."""
    from cli.screen import Grid, styled

    table = Grid()
    table.add_column("check", style="bold")
    table.add_column("")
    table.add_column("what was found", overflow="fold")
    for check in found.checks:
        table.add_row(check.name, styled(("ok", "green") if check.ok else ("OFF", "bold red")), check.detail)
    return table


def in_words(found: Audit) -> Text:
    """The verdict in one line."""
    from cli.screen import styled

    outcomes = ", ".join(f"{count:,} {state}" for state, count in sorted(found.outcomes.items()))
    about = f"{found.withdrawals:,} withdrawals" + (f" ({outcomes})" if outcomes else "")
    if found.ok:
        return styled(("the audit holds", "green"), f": {about}, no cent lost or doubled")
    return styled(("the audit does not hold", "bold red"), f": {about}")


def dead_letters_in_words(found: Audit) -> str:
    """The dead letters that wait for a person, of whichever service."""
    count = sum(found.dead_letters.values())
    services = ", ".join(f"{service} {number:,}" for service, number in sorted(found.dead_letters.items()))
    noun = "dead letter waits" if count == 1 else "dead letters wait"
    return f"{count:,} {noun} to be redriven or discarded (refused by {services}): `settle dead-letters list`"
