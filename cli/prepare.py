"""What has to be there before the services start? ``settle migrate`` and ``settle topics``."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import settings
from cli.settings import DataOption


def migrate(data: DataOption = None) -> None:
    """Bring every database to the newest schema; harmless when it is there already."""
    from processors.runtime.migrations import VERSIONS
    from processors.runtime.migrations import migrate as bring_up

    for database in VERSIONS:
        bring_up(database, settings.dsn(database, data))
        print(f"{database}: schema is up to date")


def topics(
    partitions: Annotated[int, typer.Option(min=1, help="Of each new topic; bounds the instances.")] = 4,
    replication: Annotated[int, typer.Option(min=1, help="Copies of each; 3 in production.")] = 1,
    data: DataOption = None,
) -> None:
    """Create the topics that are missing, and their dead-letter topics."""
    from contracts.topics import DEAD_LETTERS_HANDLED, all_topic_names
    from processors.runtime.topics import ensure_topics

    created = ensure_topics(settings.kafka_bootstrap(data), partitions, replication)
    for name in (*all_topic_names(), DEAD_LETTERS_HANDLED):
        print(f"{name}: {'created' if name in created else 'is there'}")
