"""``settle gaps list|acknowledge``: records that Kafka deleted before a service had read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import settings
from cli.confirm import YesOption, confirm
from cli.errors import BadInputError
from cli.remote import ApiOption, ask, portions
from cli.settings import DataOption
from cli.text import say, say_json
from contracts.services import READ_BY

if TYPE_CHECKING:
    from pathlib import Path

    from processors.runtime.gaps import NotedGap


app = typer.Typer(help="See what Kafka deleted before a service had read it.", no_args_is_help=True)


@app.command(name="list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """List what each service has missed, the oldest first."""
    import msgspec

    found = _noted(data, api)
    if as_json:
        say_json(msgspec.to_builtins(found))
        return
    if not found:
        say("no service has missed anything")
        return
    _print(found)


@app.command()
def acknowledge(
    note: Annotated[
        str,
        typer.Option("--note", "--why", help="What was done about it; kept with the gaps.", show_default=False),
    ],
    yes: YesOption = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Say what became of the gaps that it shows, so that the audit holds again; asks first."""
    if not note.strip():
        raise BadInputError("--note is empty; say what was done, for the record")
    found = [noted for noted in _noted(data, api) if noted.acknowledged_at is None]
    if found and not yes:
        _print(found)
        confirm(f"acknowledge {_counted(len(found))}", yes=yes)
    # A gap that is noted meanwhile was not shown, and stays.
    count = _acknowledge(found, note, data, api) if found else 0
    say(f"{_counted(count)} acknowledged")


def _counted(count: int) -> str:
    return f"{count:,} gap{'s' if count != 1 else ''}"


def _acknowledge(found: list[NotedGap], note: str, data: Path | None, api: str | None) -> int:
    import msgspec

    from processors.runtime.gaps import acknowledge as note_down

    if api is None:
        return note_down(_dsns(data), found, note)
    names = [{"service": one.service, **msgspec.to_builtins(one.gap)} for one in found]
    asked = ({"gaps": some, "reason": note} for some in portions(names))
    return sum(ask(api, "POST", "/v1/gaps/acknowledge", one)["count"] for one in asked)


def _dsns(data: Path | None) -> dict[str, str]:
    return {service: settings.dsn(service, data) for service in READ_BY}


def _noted(data: Path | None, api: str | None) -> list[NotedGap]:
    from processors.runtime.gaps import NotedGap, noted_gaps

    if api is None:
        return noted_gaps(_dsns(data))
    import msgspec

    return msgspec.convert(ask(api, "GET", "/v1/gaps")["gaps"], list[NotedGap])


def _print(found: list[NotedGap]) -> None:
    from cli.screen import Grid, Screen
    from processors.runtime.utc import in_utc

    table = Grid()
    table.add_column("service", style="bold")
    table.add_column("deleted unread", overflow="fold")
    table.add_column("noticed")
    table.add_column("acknowledged", overflow="fold")
    for noted in found:
        gap = noted.gap
        table.add_row(
            noted.service,
            f"{gap.topic}/{gap.partition}@{gap.first} to {gap.until - 1}",
            f"{in_utc(noted.noticed_at):%F %T} UTC",
            "no" if noted.note is None else noted.note,
        )
    Screen().print(table)
