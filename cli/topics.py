"""``settle topics``: the topics, which must exist before the services start."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import settings
from cli.errors import BadInputError
from cli.settings import DataOption
from cli.text import say


def topics(
    partitions: Annotated[int, typer.Option(min=1, help="Of each new topic; bounds the instances.")] = 4,
    replication: Annotated[int, typer.Option(min=1, help="Copies of each; 3 in production.")] = 1,
    min_insync: Annotated[
        int, typer.Option(min=1, help="Copies that must have a record before it counts; 2 in production.")
    ] = 1,
    retention_days: Annotated[
        float, typer.Option(min=0, help="How long records are kept; 0 = for ever, as dead letters always are.")
    ] = 7.0,
    data: DataOption = None,
) -> None:
    """Create the topics that are missing, and their dead-letter topics."""
    from broker.provision import ensure_topics
    from contracts.services import all_topic_names
    from contracts.topics import DEAD_LETTERS_HANDLED

    if min_insync > replication:
        raise BadInputError(f"of {replication} copies never {min_insync} are in sync: nothing could be written")
    created = ensure_topics(settings.kafka_bootstrap(data), partitions, replication, min_insync, retention_days)
    for name in (*all_topic_names(), DEAD_LETTERS_HANDLED):
        say(f"{name}: {'created' if name in created else 'is there'}")
