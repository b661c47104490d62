"""Where can a process be told to die? ``settle failpoints``."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def failpoints(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: meaning by name.")] = False,
) -> None:
    """List the places where SETTLE_FAILPOINT=NAME[:COUNT] ends a process, for tests of crashes."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from failpoints import EXIT_CODE, FAILPOINTS

    if as_json:
        print(json.dumps(FAILPOINTS, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("there")
    for name, meaning in FAILPOINTS.items():
        table.add_row(name, meaning)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"SETTLE_FAILPOINT=NAME[:COUNT] ends a process at the COUNT-th time, with exit code {EXIT_CODE}.\n"
        "In `settle up` a part dies there once: it is started again without it."
    )
