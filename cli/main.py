"""``settle``: the root command, whose subcommands are listed in :mod:`cli.commands`."""

from importlib.metadata import version
from typing import Annotated

import typer

from cli.commands import LazyCommands
from cli.text import say

app = typer.Typer(
    name="settle", cls=LazyCommands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"settle {version('settle')}")
        raise typer.Exit


@app.callback()
def _settle(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Move money between services that do not share a database, and always know where it stands."""
