"""``settle outbox status|dead|slot``: outboxes, quarantined rows and replication slots."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import settings
from cli.confirm import YesOption, confirm
from cli.errors import BadInputError, one_line
from cli.remote import ApiOption, WhyOption, ask, portions, reason
from cli.settings import DataOption
from cli.text import complain, say, say_json
from contracts.services import NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from operations.outboxes import Action, Dead, Done
    from outbox_relay.status import OutboxStatus


app = typer.Typer(help="Show the outboxes; retry or discard rows that cannot be published.", no_args_is_help=True)
dead_app = typer.Typer(help="Quarantined rows: those that Kafka will never accept.", no_args_is_help=True)
app.add_typer(dead_app, name="dead")
slot_app = typer.Typer(help="The slots, which keep the log for the relay.", no_args_is_help=True)
app.add_typer(slot_app, name="slot")

KAFKA_ANSWER_S = 5.0

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="As `list` shows them.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="All rows that are dead now.")]


@app.command()
def status(as_json: JsonOption = False, api: ApiOption = None, data: DataOption = None) -> None:
    """Show each outbox: its slot, how far the relay is behind, how large the table is, and what it waits for."""
    found = _of_api(api) if api else _of_system(data)
    if as_json:
        say_json([asdict(one) for one in found])
        return
    _print_status(found)


def _of_api(api: str) -> list[OutboxStatus]:
    import msgspec

    from outbox_relay.status import OutboxStatus

    return msgspec.convert(ask(api, "GET", "/v1/outboxes")["outboxes"], list[OutboxStatus])


def _of_system(data: Path | None) -> list[OutboxStatus]:
    from confluent_kafka import KafkaException

    from broker.provision import existing_topics
    from operations.outboxes import statuses

    topics, bootstrap = None, settings.kafka_bootstrap(data)
    try:
        topics = existing_topics(bootstrap, KAFKA_ANSWER_S)
    except KafkaException as error:
        complain(f"{one_line(error)}; whether a topic is missing is not known")
    return statuses(_dsns(data), topics)


@dead_app.command(name="list")
def list_(as_json: JsonOption = False, api: ApiOption = None, data: DataOption = None) -> None:
    """List the quarantined rows, the oldest first."""
    from processors.runtime.utc import in_utc

    found = _dead(data, api)
    if as_json:
        fields = [
            {
                "source": one.source,
                "name": one.row.name,
                **asdict(one.row),
                "died_at": in_utc(one.row.died_at).isoformat(),
            }
            for one in found
        ]
        say_json(fields)
        return
    _print_dead(found)


@dead_app.command()
def retry(
    ids: NamesArgument = None,
    everything: AllOption = False,
    yes: YesOption = False,
    api: ApiOption = None,
    why: WhyOption = None,
    data: DataOption = None,
) -> None:
    """Put rows back at the end of their outbox, once the cause is fixed: the relay publishes them again."""
    because = reason(why) if api is not None else ""
    rows = _chosen("put {} back into the outbox", ids, everything, yes, data, api)
    _report("put back", _act("retry", rows, because, data, api))


@dead_app.command()
def discard(
    ids: NamesArgument = None,
    everything: AllOption = False,
    yes: YesOption = False,
    api: ApiOption = None,
    why: WhyOption = None,
    data: DataOption = None,
) -> None:
    """Delete rows for good: their events are never published, and withdrawals that need them stay unfinished."""
    because = reason(why) if api is not None else ""
    rows = _chosen("discard {} for good", ids, everything, yes, data, api)
    _report("discarded", _act("discard", rows, because, data, api))


def _dead(data: Path | None, api: str | None) -> list[Dead]:
    if api is None:
        from operations.outboxes import all_dead

        return all_dead(_dsns(data))
    import msgspec

    from operations.outboxes import Dead

    found = ask(api, "GET", "/v1/outboxes/dead-rows")["rows"]
    return msgspec.convert([one | {"row": one} for one in found], list[Dead])


def _chosen(
    would: str, ids: list[str] | None, everything: bool, yes: bool, data: Path | None, api: str | None
) -> list[Dead]:
    """The dead rows that are named, or all that exist when the command starts, once a person has confirmed."""
    if bool(ids) == everything:
        raise BadInputError("name the rows as `settle outbox dead list` shows them, or pass --all")
    chosen = [one for one in _dead(data, api) if everything or {one.row.name, one.row.id} & set(ids or ())]
    known = {name for one in chosen for name in (one.row.name, one.row.id)}
    if unknown := [row_id for row_id in ids or () if row_id not in known]:
        raise BadInputError(f"not among the dead rows: {', '.join(unknown)}")
    if everything and chosen:
        _print_dead(chosen)
        confirm(would.format(_rows(len(chosen))), yes=yes)
    return chosen


def _act(action: Action, rows: list[Dead], because: str, data: Path | None, api: str | None) -> list[Done]:
    """What came of each of these rows, and of no other."""
    import msgspec

    from operations.outboxes import DeadName, Done, act

    names = [DeadName(one.service, one.row.number) for one in rows]
    if api is None:
        return act(_dsns(data), action, names)
    found: list[Any] = []
    for some in portions(names):
        asked = {"rows": msgspec.to_builtins(some), "reason": because}
        found += ask(api, "POST", f"/v1/outboxes/dead-rows/{action}", asked)["results"]
    return msgspec.convert(found, list[Done])


def _report(was: str, done: list[Done]) -> None:
    errors = [f"number {one.name.number} of {one.name.service}: {one.error}" for one in done if one.error]
    say(f"{_rows(len(done) - len(errors))} {was}")
    if errors:
        more = f"; and {len(errors) - 1:,} more" if len(errors) > 1 else ""
        raise BadInputError(f"not {was}: {errors[0]}{more}")


@slot_app.command()
def drop(
    source: Annotated[str, typer.Argument(help=f"Which outbox: {', '.join(NAMES)}.", show_default=False)],
    api: ApiOption = None,
    why: WhyOption = None,
    data: DataOption = None,
) -> None:
    """Drop a slot that no relay reads any more, so that the server can remove its log.

    A relay that reads the log makes a new one when it starts, and finds in the table what the topics lack.
    """
    from operations.outboxes import drop as drop_slot

    if source not in NAMES:
        raise BadInputError(f"no outbox {source}; there are {', '.join(NAMES)}")
    if api is not None:
        name = ask(api, "POST", f"/v1/outboxes/{source}/drop-slot", {"reason": reason(why)})["slot"]
    else:
        name, is_dropped = drop_slot(settings.dsn(source, data))
        if not is_dropped:
            raise BadInputError(f"there is no slot {name}")
    say(f"slot {name} is dropped")


def _rows(count: int) -> str:
    return f"{count:,} row{'s' if count != 1 else ''}"


def _dsns(data: Path | None) -> dict[str, str]:
    return settings.dsns(NAMES, data)


def _print_status(found: list[OutboxStatus]) -> None:
    from rich.filesize import decimal

    from cli.screen import Grid, Screen

    table = Grid()
    for name in ("outbox", "relay", "behind", "log kept", "rows", "table", "dead"):
        table.add_column(name, justify="left" if name in ("outbox", "relay") else "right")
    for one in found:
        relay = "reads" if one.active else "none yet" if one.slot is None else "away"
        if one.paused is not None:
            relay = "paused"
        elif one.wal_status == "lost":
            relay = "slot lost"
        elif one.missing_topics and not one.active:
            relay = "waits"
        sizes = (one.lag_bytes, one.retained_bytes)
        table.add_row(
            one.source,
            relay,
            *("–" if size is None else decimal(size) for size in sizes),
            f"{one.rows:,}",
            decimal(one.table_bytes),
            f"{one.dead_rows:,}",
        )
    console = Screen()
    console.print(table)
    for one in found:
        if one.paused is not None:
            say(f"{one.source}: {one.paused}; `outbox-relay resume` has it go on")
        if one.gap is not None:
            console.print(f"{one.source}: {one.gap}")
        if one.missing_topics:
            topics = ", ".join(one.missing_topics)
            exist = "does not exist" if len(one.missing_topics) == 1 else "do not exist"
            say(f"{one.source}: waits for topic {topics}, which {exist}: `settle topics` creates Settle's own")
    if any(one.dead_rows for one in found):
        console.print("`settle outbox dead list` says why rows could not be published")


def _print_dead(found: list[Dead]) -> None:
    from rich.filesize import decimal

    from cli.screen import Grid, Screen, lines, styled
    from processors.runtime.utc import in_utc

    console = Screen()
    if found:
        table = Grid()
        table.add_column("row", no_wrap=True)
        table.add_column("why", overflow="fold")
        for one in found:
            row = one.row
            size = "tombstone" if row.payload_bytes is None else decimal(row.payload_bytes)
            about = f"{one.source}, {row.type or 'NULL'}, {size}"
            table.add_row(
                lines(row.name, styled((about, "dim"))),
                lines(row.reason, styled((f"{in_utc(row.died_at):%F %T} UTC", "dim"))),
            )
        console.print(table)
    console.print(f"{len(found):,} dead row{'s' if len(found) != 1 else ''}")
