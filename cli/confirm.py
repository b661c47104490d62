"""Whether a person means it: asked before what cannot be undone."""

import sys
from typing import Annotated

import typer

from cli.errors import BadInputError, CommandError

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def confirm(what: str, *, yes: bool) -> None:
    """Say what is about to be done, and ask, unless that has been answered already.

    Args:
        what: is about to be done: ``discard 3 rows``.
        yes: the answer that was given on the command line.

    Raises:
        BadInputError: nobody is there to be asked.
        CommandError: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadInputError(f"this would {what}: pass --yes to do it")
    if not typer.confirm(f"This will {what}. Go on?"):
        raise CommandError("nothing was done")
