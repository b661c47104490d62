"""The confirmation prompt before an action that cannot be undone."""

import sys
from typing import Annotated

import typer

from cli.errors import BadInputError, CommandError
from cli.text import say

YesOption = Annotated[bool, typer.Option("--yes", help="Do it without being asked.")]


def confirm(what: str, *, yes: bool) -> None:
    """Return if a person confirms, or has confirmed with ``--yes``.

    Args:
        what: the action, as in the question: ``redrive 12 dead letters``.
        yes: whether it was confirmed on the command line.

    Raises:
        BadInputError: there is no terminal to ask at.
        CommandError: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadInputError(f"to {what} without a terminal to ask at, pass --yes")
    say(f"{what}? [y/N] ", end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was done")
