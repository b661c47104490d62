"""``settle gaps list|acknowledge``: records that Kafka deleted before a service had read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import settings
from cli.errors import BadInputError
from cli.settings import DataOption
from cli.text import say, say_json
from contracts.services import READ_BY

if TYPE_CHECKING:
    from processors.runtime.gaps import NotedGap


app = typer.Typer(help="See what Kafka deleted before a service had read it.", no_args_is_help=True)


@app.command(name="list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, data: DataOption = None
) -> None:
    """List what each service has missed, the oldest first."""
    import msgspec

    found = _noted(data)
    if as_json:
        say_json(msgspec.to_builtins(found))
        return
    if not found:
        say("no service has missed anything")
        return
    _print(found)


@app.command()
def acknowledge(
    note: Annotated[str, typer.Option(help="What was done about it; kept with the gaps.", show_default=False)],
    data: DataOption = None,
) -> None:
    """Say what became of the gaps that are listed, so that the audit holds again."""
    from processors.runtime.gaps import acknowledge as note_down

    if not note.strip():
        raise BadInputError("--note is empty; say what was done, for the record")
    count = note_down(_dsns(data), [noted for noted in _noted(data) if noted.acknowledged_at is None], note)
    say(f"{count:,} gap{'s' if count != 1 else ''} acknowledged")


def _dsns(data: Any) -> dict[str, str]:
    return {service: settings.dsn(service, data) for service in READ_BY}


def _noted(data: Any) -> list[NotedGap]:
    from processors.runtime.gaps import noted_gaps

    return noted_gaps(_dsns(data))


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
