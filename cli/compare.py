"""``settle compare``: measures the ways to withdraw money, and recommends one by need."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import BadInputError
from cli.signals import on_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.screen import Grid, Screen
    from lab.comparison.compare import Plan
    from lab.comparison.results import Comparison
    from lab.comparison.sheets import Sheet
    from stack.supervisor import Stack

COUNT_MAX = 1_000_000
CLIENTS_MAX = 12
"""Two-phase commit needs four connections a client, and the stack's server has a hundred."""


def compare(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer of everything: about a minute.")] = False,
    count: Annotated[int | None, typer.Option(min=20, max=COUNT_MAX, help="Withdrawals of the load.")] = None,
    clients: Annotated[int | None, typer.Option(min=1, max=CLIENTS_MAX, help="Clients at once.")] = None,
    accounts: Annotated[int | None, typer.Option(min=1, max=10_000, help="Accounts in turn.")] = None,
    hot_account: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the load on one account alone.")
    ] = 0.0,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only this approach; repeat for more.", show_default="all")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures.", dir_okay=False)] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write the tables as a document.", dir_okay=False)
    ] = None,
    chart_file: Annotated[Path | None, typer.Option("--chart", help="Draw a PNG.", dir_okay=False)] = None,
) -> None:
    """Run five ways to withdraw money (and a naive one) under the same load and faults, on a stack of its own."""
    from cli.screen import Screen
    from lab.comparison.compare import FULL, QUICK
    from lab.comparison.specs import SPECS
    from stack.supervisor import SERVICES, Stack

    _check(only or [], list(SPECS), (json_file, markdown_file, chart_file))
    plan = QUICK if quick else FULL
    plan = plan._replace(
        withdrawals=count or plan.withdrawals,
        clients=clients or plan.clients,
        accounts=accounts or plan.accounts,
        hot_account=hot_account,
    )
    on_end()
    console = Screen()
    # The injected faults make services restart; that need not be reported.
    quiet = lambda _: None  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="settle-compare-") as folder:
        console.print("starting Kafka, PostgreSQL and the services…", style="dim")
        with Stack(Path(folder), services=SERVICES, environment={"SETTLE_MAILER": "off"}, note=quiet) as stack:
            names = [name for name in SPECS if not only or name in only]
            found = run_on(stack, plan, names, console)
    show(found, console)
    write(found, json_file, markdown_file, chart_file)
    for file in filter(None, (json_file, markdown_file, chart_file)):
        console.print(f"written: {file}", style="dim", soft_wrap=True)


def run_on(stack: Stack, plan: Plan, names: Sequence[str], console: Screen) -> Comparison:
    """Measure on a running stack, and print progress."""
    from cli.screen import styled
    from lab.comparison import compare as lab

    with console.status("") as status:

        def note(line: str) -> None:
            if console.is_terminal:
                status.update(styled((line, "dim")))
            else:
                console.print(line, style="dim")

        return lab.compare(stack, plan, names, note)


def show(found: Comparison, console: Screen) -> None:
    """Print tables and advice."""
    from rich.padding import Padding

    from cli.screen import styled
    from lab.comparison.sheets import sheets

    for sheet in sheets(found):
        console.print()
        console.print(sheet.title, style="bold")
        if sheet.note:
            console.print(sheet.note, style="dim")
        console.print(_table(sheet))
    if found.advice:
        console.print()
        console.print("What to take", style="bold")
    for one in found.advice:
        console.print()
        console.print(styled(f"{one.need}: ", (one.title, "bold green")))
        console.print(Padding(styled((one.why, "dim")), (0, 0, 0, 2)))
    console.print()
    console.print(f"{found.machine}; took {found.took_s:.0f} s", style="dim")


def write(found: Comparison, json_file: Path | None, markdown_file: Path | None, chart_file: Path | None) -> None:
    """Write the files that were asked for."""
    import os

    import msgspec

    from lab.comparison import markdown

    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    if chart_file is not None:
        from lab.comparison.chart import draw

        draw(found, chart_file)
    if markdown_file is not None:
        picture = os.path.relpath(chart_file, markdown_file.parent) if chart_file is not None else None
        markdown.write(markdown_file, markdown.markdown(found, picture))


def _check(only: list[str], known: list[str], files: tuple[Path | None, ...]) -> None:
    """Check names and files before minutes of work."""
    for name in only:
        if name not in known:
            raise BadInputError(f"there is no approach {name!r}: it is one of {', '.join(known)}")
    for file in filter(None, files):
        if not file.resolve().parent.is_dir():
            raise BadInputError(f"{file} cannot be written: there is no folder {file.resolve().parent}")
    if files[2] is not None and files[2].suffix.lower() != ".png":
        raise BadInputError(f"{files[2]}: a chart is written as PNG, so its name must end in .png")


def _table(sheet: Sheet) -> Grid:
    from cli.screen import Grid, styled

    table = Grid(padding=(0, 1))
    for number, name in enumerate(sheet.header):
        first = number == 0
        table.add_column(
            name,
            justify="left" if first or sheet.words else "right",
            style="bold" if first else "",
            no_wrap=first,
            overflow="fold",
        )
    for row, cells in enumerate(sheet.rows):
        table.add_row(
            *(
                styled((cell, "bold red")) if (row, column) in sheet.alarms else cell
                for column, cell in enumerate(cells)
            )
        )
    return table
