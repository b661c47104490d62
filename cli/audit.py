"""Is the money all there? ``settle audit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import settings
from cli.errors import FAILED
from cli.settings import DataOption

if TYPE_CHECKING:
    from rich.table import Table

    from audit.run import Audit

DATABASES = ("account", "payment", "notification", "saga", "provider")


def audit(
    wait: Annotated[
        float, typer.Option(min=0, help="How long withdrawals under way may take to end, seconds.")
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    data: DataOption = None,
) -> None:
    """Prove from all databases that no money is lost or doubled; fail if anything is off."""
    import msgspec
    from rich.console import Console

    from audit.run import run

    dsns = {database: settings.dsn(database, data) for database in DATABASES}
    found = run(dsns, settings.kafka_bootstrap(data), wait)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        console = Console(highlight=False)
        console.print(as_table(found))
        console.print(in_words(found))
    if not found.ok:
        raise typer.Exit(FAILED)


def as_table(found: Audit) -> Table:
    """One line a check."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", style="bold")
    table.add_column("")
    table.add_column("what was found", overflow="fold")
    for check in found.checks:
        table.add_row(check.name, "[green]ok[/]" if check.ok else "[bold red]OFF[/]", check.detail)
    return table


def in_words(found: Audit) -> str:
    """The verdict as a line."""
    outcomes = ", ".join(f"{count:,} {state}" for state, count in sorted(found.outcomes.items()))
    about = f"{found.withdrawals:,} withdrawals" + (f" ({outcomes})" if outcomes else "")
    if found.ok:
        return f"[green]the audit holds[/]: {about}, no cent lost or doubled"
    return f"[bold red]the audit does not hold[/]: {about}"
