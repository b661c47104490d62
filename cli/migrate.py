"""``settle migrate``: the schemas, which must exist before the services start."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import settings
from cli.settings import DataOption
from cli.text import say


def migrate(
    grant: Annotated[
        bool,
        typer.Option(
            "--grant",
            help="Also grant the roles of deploy/postgres/roles.sql their rights, and no more. Where that was done"
            " before, it is done again by itself.",
        ),
    ] = False,
    data: DataOption = None,
) -> None:
    """Migrate every database to the newest schema; safe to repeat."""
    from operations.grants import grant as let_work
    from operations.grants import is_granted
    from operations.migrations import VERSIONS
    from operations.migrations import migrate as bring_up

    for database, dsn in settings.dsns(VERSIONS, data).items():
        bring_up(database, dsn)
        if grants := grant or is_granted(dsn):
            let_work(database, dsn)
        say(f"{database}: schema is up to date" + (", roles may do their work" if grants else ""))
