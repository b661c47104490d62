"""``settle republish``: republishes events that Kafka has lost."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli import settings
from cli.confirm import YesOption, confirm
from cli.settings import DataOption
from cli.text import say, say_json
from contracts.services import READ_BY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from operations.lost import Lost

LIMIT = 10_000


def republish(
    payment: Annotated[
        list[UUID] | None,
        typer.Option(metavar="PAYMENT_ID", help="Only of this withdrawal; repeat for more.", show_default="all"),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"],
            metavar="TIME",
            help="Only of withdrawals that began then (UTC) or later, such as 2026-11-28T10:00:00.",
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--every-event", help="Also what every service has: for other readers of the topics."),
    ] = False,
    quiet: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Leave out what changed in the last so many seconds: it may be in flight.",
            show_default="SETTLE_STUCK_S, or 60",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Withdrawals at the most.")] = LIMIT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be published, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As --dry-run, each event as JSON.")] = False,
    yes: YesOption = False,
    data: DataOption = None,
) -> None:
    """Republish what Kafka lost and a service needs, from the services' own tables; safe to repeat."""
    from operations import lost
    from operations.lag import consumer_lag
    from operations.republish import find
    from operations.republish import republish as put_into_outboxes
    from processors.runtime.settings import ServiceSettings
    from producers.settings import ProducerSettings

    dsns = {name: settings.dsn(name, data) for name in READ_BY}
    bootstrap = settings.kafka_bootstrap(data)
    found = find(
        dsns,
        bootstrap,
        lost.everything if everything else lost.lacking,
        payment_ids=payment,
        since=since.replace(tzinfo=UTC) if since else None,
        quiet_s=quiet if quiet is not None else ServiceSettings().stuck_s,
        limit=limit,
    )
    if as_json:
        say_json([as_fields(one) for one in found])
        return
    if not found:
        say("there is no such withdrawal" if everything else "no service lacks an event that another one knows of")
        return
    withdrawals = len({one.payment_id for one in found})
    _print_summary(found)
    if withdrawals == limit:
        say(f"these are of the first {limit:,} withdrawals; run this again for the others, or raise --limit")
    for service, topic, lag in consumer_lag(bootstrap):
        say(f"{service} has {counted(lag, 'record')} of {topic} yet to read; some of these may be among them")
    if dry_run:
        return
    events, of = counted(len(found), "event"), counted(withdrawals, "withdrawal")
    confirm(f"publish {events} of {of} again", yes=yes)
    dead = put_into_outboxes(dsns, bootstrap, found, ProducerSettings().delivery_timeout_s)
    if dead:
        say(f"{counted(len(dead), 'event')} could not be published before: `settle outbox dead list` says why")
    events = counted(len(found) - len(dead), "event")
    say(f"{events} of {of} handed to the relay; `settle stuck` shows what still stands")


def counted(number: int, noun: str) -> str:
    """A number of things, as text."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def as_fields(one: Lost) -> dict[str, object]:
    """What ``--json`` prints of an event."""
    return {
        "payment_id": str(one.payment_id),
        "topic": one.topic,
        "event_type": one.event_type,
        "message_id": str(one.message_id),
        "original": not one.made_again,
        "key": one.key,
        "body": one.body,
    }


def _print_summary(found: Sequence[Lost]) -> None:
    from cli.screen import Grid, Screen

    table = Grid()
    table.add_column("topic", style="bold")
    table.add_column("event")
    table.add_column("originals", justify="right")
    table.add_column("made again from tables", justify="right")
    kinds = Counter((one.topic, one.event_type, one.made_again) for one in found)
    for topic, event_type in dict.fromkeys((topic, event_type) for topic, event_type, _ in kinds):
        table.add_row(
            topic, event_type, f"{kinds[topic, event_type, False]:,}", f"{kinds[topic, event_type, True]:,}"
        )
    Screen().print(table)
