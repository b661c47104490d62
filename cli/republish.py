"""``settle republish``: republishes events that Kafka has lost."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli import settings
from cli.confirm import YesOption, confirm
from cli.remote import LONG_S, ApiOption, WhyOption, ask, portions, reason
from cli.settings import DataOption
from cli.text import say, say_json
from contracts.services import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from operations.lost import Lost

LIMIT = 10_000
"""Withdrawals of one run."""


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
    limit: Annotated[int, typer.Option(min=1, max=LIMIT, help="Withdrawals at the most.")] = LIMIT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be published, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As --dry-run, each event as JSON.")] = False,
    yes: YesOption = False,
    api: ApiOption = None,
    why: WhyOption = None,
    data: DataOption = None,
) -> None:
    """Republish what Kafka lost and a service needs, from the services' own tables; safe to repeat."""
    from processors.runtime.settings import ServiceSettings

    because = "" if api is None or dry_run or as_json else reason(why)
    began = since.replace(tzinfo=UTC) if since else None
    quiet_s = quiet if quiet is not None else ServiceSettings().stuck_s
    system = _Api(api, because, everything) if api is not None else _System(data, everything)
    found, lost = system.find(payment, began, quiet_s, limit)
    if as_json:
        say_json([as_fields(one) for one in found])
        return
    _say_lost(lost)
    if not found:
        say("there is no such withdrawal" if everything else "no service lacks an event that another one knows of")
        return
    withdrawals = len({one.payment_id for one in found})
    _print_summary(found)
    if withdrawals == limit:
        more = ", or raise --limit" if limit < LIMIT else ""
        say(f"these are of the first {limit:,} withdrawals; run this again for the others{more}")
    for service, topic, lag in system.lag():
        say(f"{service} has {counted(lag, 'record')} of {topic} yet to read; some of these may be among them")
    if dry_run:
        return
    events, of = counted(len(found), "event"), counted(withdrawals, "withdrawal")
    confirm(f"publish {events} of {of} again", yes=yes)
    handed, dead = system.republish(found)
    if dead:
        say(f"{counted(dead, 'event')} could not be published before: `settle outbox dead list` says why")
    say(f"{counted(handed, 'event')} of {of} handed to the relay; `settle stuck` shows what still stands")


class _System:
    """The services' databases and Kafka, where events are looked for and published again."""

    def __init__(self, data: Path | None, everything: bool) -> None:
        self._dsns = settings.dsns(NAMES, data)
        self._bootstrap = settings.kafka_bootstrap(data)
        self._everything = everything

    def find(
        self, payment_ids: list[UUID] | None, since: datetime | None, quiet_s: float, limit: int
    ) -> tuple[list[Lost], list[UUID] | None]:
        """The events, by withdrawal and in the order in which they happened; and what is published by name alone.

        These are requests that only the API has; None where that cannot be told, as the saga service is behind.
        """
        from operations import lost
        from operations.lost_requests import lost_unless_behind
        from operations.republish import find

        found = find(
            self._dsns,
            self._bootstrap,
            lost.everything if self._everything else lost.lacking,
            payment_ids=payment_ids,
            since=since,
            quiet_s=quiet_s,
            limit=limit,
        )
        return found, [] if payment_ids else lost_unless_behind(self._dsns, self._bootstrap, since)

    def lag(self) -> list[tuple[str, str, int]]:
        """What services have yet to read: service, topic and records."""
        from operations.lag import consumer_lag

        return consumer_lag(self._bootstrap)

    def republish(self, found: Sequence[Lost]) -> tuple[int, int]:
        """How many of these events, and no others, are handed to the relay, and how many are dead rows."""
        from operations.republish import republish
        from producers.settings import ProducerSettings

        dead = republish(self._dsns, self._bootstrap, found, ProducerSettings().delivery_timeout_s)
        return len(found) - len(dead), len(dead)


class _Api:
    """The same through the API."""

    def __init__(self, url: str, why: str, everything: bool) -> None:
        self._url, self._why, self._everything = url, why, everything

    def find(
        self, payment_ids: list[UUID] | None, since: datetime | None, quiet_s: float, limit: int
    ) -> tuple[list[Lost], list[UUID] | None]:
        import msgspec

        from operations.lost import Lost

        asked: dict[str, Any] = {
            "since": since.isoformat() if since is not None else None,
            "quiet_s": quiet_s,
            "every_event": self._everything,
        }
        found: list[Any] = []
        requests: list[UUID] | None = []
        # By ascending payment ID, as one look for all of them.
        for some in portions(sorted(set(payment_ids))) if payment_ids else [None]:
            left = limit - len({one["payment_id"] for one in found})
            if left > 0:
                asked |= {"payment_ids": [str(one) for one in some] if some is not None else None, "limit": left}
                answer = ask(self._url, "POST", "/v1/republish/preview", asked, patience_s=LONG_S)
                found += answer["events"]
                requests = msgspec.convert(answer.get("lost_requests", []), list[UUID] | None)
        events = msgspec.convert([one | {"made_again": not one["original"]} for one in found], list[Lost])
        return events, requests

    def lag(self) -> list[tuple[str, str, int]]:
        steps = ask(self._url, "GET", "/v1/steps")["steps"]
        return sorted((one["service"], one["topic"], one["lag"]) for one in steps if one["lag"])

    def republish(self, found: Sequence[Lost]) -> tuple[int, int]:
        handed = dead = 0
        for some in portions(list(dict.fromkeys(one.payment_id for one in found))):
            chosen = frozenset(some)
            asked = {
                "payment_ids": [str(one) for one in some],
                "message_ids": [str(one.message_id) for one in found if one.payment_id in chosen],
                "every_event": self._everything,
                "reason": self._why,
            }
            done = ask(self._url, "POST", "/v1/republish", asked, patience_s=LONG_S)["events"]
            dead += sum(one["dead"] for one in done)
            handed += sum(not one["dead"] for one in done)
        return handed, dead


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


def _say_lost(payment_ids: Sequence[UUID] | None) -> None:
    """Name the requests that only the API has: somebody may have discarded them, so none is published unnamed."""
    if payment_ids is None:
        say("requests that the API accepted were not looked for, as the saga service is far behind")
    elif payment_ids:
        requests = counted(len(payment_ids), "request")
        say(f"{requests} that the API accepted are lost, and published only by name:")
        for payment_id in payment_ids:
            say(f"  settle nudge {payment_id}")
        say("or `settle republish --payment PAYMENT_ID`; `settle cancel PAYMENT_ID` has one never paid")


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
