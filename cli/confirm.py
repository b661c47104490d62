"""The question before something that cannot be taken back."""

import sys
from typing import Annotated

import typer

from cli.errors import BadInputError, CommandError
from cli.text import say

YesOption = Annotated[bool, typer.Option("--yes", help="Do it without being asked.")]


def confirm(what: str, *, yes: bool) -> None:
    """Go on if a person says so, or has said so.

    Args:
        what: would be done, as a question's beginning: ``redrive 12 dead letters``.
        yes: whether it was said on the command line.

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
