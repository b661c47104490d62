"""``settle failpoints``: the list of failpoints."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.text import say_json


def failpoints(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: meaning by name.")] = False,
) -> None:
    """List the places where SETTLE_FAILPOINT=NAME[:COUNT] ends a process, for tests of crashes."""
    from cli.screen import Grid, Screen
    from contracts.failpoints import EXIT_CODE, FAILPOINTS

    if as_json:
        say_json(FAILPOINTS)
        return
    table = Grid()
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("there")
    for name, meaning in FAILPOINTS.items():
        table.add_row(name, meaning)
    console = Screen()
    console.print(table)
    console.print(
        f"SETTLE_FAILPOINT=NAME[:COUNT] ends a process at the COUNT-th time, with exit code {EXIT_CODE}."
    )
    console.print("In `settle up` a part dies there once: it is started again without it.")
