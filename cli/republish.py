"""``settle republish``: republishes events that Kafka has lost."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from uuid import UUID

import typer

from cli import settings
from cli.confirm import YesOption, confirm
from cli.errors import BadInputError, CommandError
from cli.remote import LONG_S, ApiOption, WhyOption, ask, portions, reason
from cli.settings import DataOption
from cli.text import complain, say, say_json
from contracts.services import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from operations.lost import Lost, Preview

LIMIT = 10_000
"""Withdrawals of one run."""

LISTED = 20
"""Lost requests that are listed at the most."""

BEHIND = "requests that the API accepted were not looked for, as the saga service is far behind"


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
    lost_requests: Annotated[
        bool,
        typer.Option(
            "--lost-requests",
            help="Instead, the requests that only the API has; also rows of its outbox that were discarded.",
        ),
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

    if lost_requests and payment:
        raise BadInputError("--lost-requests is all of them: one that --payment names is republished anyway")
    because = "" if api is None or dry_run or as_json else reason(why)
    began = since.replace(tzinfo=UTC) if since else None
    quiet_s = quiet if quiet is not None else ServiceSettings().stuck_s
    choice = _Choice(everything, lost_requests)
    system = _Api(api, because, choice) if api is not None else _System(data, choice)
    looked = system.find(payment, began, quiet_s, limit)
    found, withdrawals = looked.events, len({one.payment_id for one in looked.events})
    tell = complain if as_json else say
    if lost_requests and looked.lost_requests_total is None:
        raise CommandError(BEHIND)
    if not lost_requests:
        _tell_of_lost(looked, limit, tell)
    if as_json:
        _tell_of_rest(looked, withdrawals, limit, choice, tell)
        say_json([as_fields(one) for one in found])
        return
    if not found:
        say(choice.nothing(quiet_s))
        return
    _print_summary(found)
    _tell_of_rest(looked, withdrawals, limit, choice, tell)
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


class _Choice(NamedTuple):
    """Which events are looked for."""

    everything: bool
    lost_requests: bool

    def nothing(self, quiet_s: float) -> str:
        """What to say where there are none."""
        if self.lost_requests:
            return f"no request that the API accepted more than {quiet_s:g} s ago is lost"
        none = "no service lacks an event that another one knows of"
        return "there is no such withdrawal" if self.everything else none


class _System:
    """The services' databases and Kafka, where events are looked for and published again."""

    def __init__(self, data: Path | None, choice: _Choice) -> None:
        self._dsns = settings.dsns(NAMES, data)
        self._bootstrap = settings.kafka_bootstrap(data)
        self._choice = choice

    def find(self, payment_ids: list[UUID] | None, since: datetime | None, quiet_s: float, limit: int) -> Preview:
        """What would be republished, and the requests that only the API has."""
        from operations import lost
        from operations.republish import preview

        return preview(
            self._dsns,
            self._bootstrap,
            lost.everything if self._choice.everything else lost.lacking,
            payment_ids=payment_ids,
            since=since,
            quiet_s=quiet_s,
            limit=limit,
            only_lost_requests=self._choice.lost_requests,
        )

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

    def __init__(self, url: str, why: str, choice: _Choice) -> None:
        self._url, self._why, self._choice = url, why, choice

    def find(self, payment_ids: list[UUID] | None, since: datetime | None, quiet_s: float, limit: int) -> Preview:
        import msgspec

        from operations.lost import Lost, Preview

        asked: dict[str, Any] = {
            "since": since.isoformat() if since is not None else None,
            "quiet_s": quiet_s,
            "every_event": self._choice.everything,
        }
        if self._choice.lost_requests:
            asked["lost_requests"] = True
        found: list[Any] = []
        requests: list[UUID] | None = []
        total: int | None = 0
        # By ascending payment ID, as one look for all of them.
        for some in portions(sorted(set(payment_ids))) if payment_ids else [None]:
            left = limit - len({one["payment_id"] for one in found})
            if left > 0:
                asked |= {"payment_ids": [str(one) for one in some] if some is not None else None, "limit": left}
                answer = ask(self._url, "POST", "/v1/republish/preview", asked, patience_s=LONG_S)
                found += answer["events"]
                requests = msgspec.convert(answer.get("lost_requests", []), list[UUID] | None)
                total = answer.get("lost_requests_total", len(requests) if requests is not None else None)
        events = msgspec.convert([one | {"made_again": not one["original"]} for one in found], list[Lost])
        return Preview(events, requests, total)

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
                "every_event": self._choice.everything,
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


def _tell_of_lost(looked: Preview, limit: int, tell: Callable[[str], None]) -> None:
    """Name the requests that only the API has: somebody may have discarded them, so none is published unnamed."""
    if looked.lost_requests is None or looked.lost_requests_total is None:
        tell(BEHIND)
    elif looked.lost_requests:
        requests = counted(looked.lost_requests_total, "request")
        tell(f"lost, and published only by name or with --lost-requests: {requests} that the API accepted")
        listed = looked.lost_requests[: min(limit, LISTED)]
        for payment_id in listed:
            tell(f"  settle nudge {payment_id}")
        if more := looked.lost_requests_total - len(listed):
            tell(f"  and {more:,} more")
        tell("`settle cancel PAYMENT_ID` has one never paid")


def _tell_of_rest(
    looked: Preview, withdrawals: int, limit: int, choice: _Choice, tell: Callable[[str], None]
) -> None:
    """Say what is not among the events, and of lost requests, what may be."""
    others = f"run this again for the others{', or raise --limit' if limit < LIMIT else ''}"
    if not choice.lost_requests:
        if withdrawals == limit:
            tell(f"these are of the first {limit:,} withdrawals; {others}")
        return
    total = looked.lost_requests_total or 0
    if withdrawals < total:
        tell(f"these are {withdrawals:,} of {total:,} lost requests; {others}")
    if withdrawals:
        tell("what was discarded (`settle outbox dead discard`) is among them, unless it was cancelled as well")


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
