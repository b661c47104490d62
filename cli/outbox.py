"""How do the outboxes stand, and which rows can never be published? ``settle outbox status|dead``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import settings
from cli.confirm import YesOption
from cli.errors import BadInputError
from cli.settings import DataOption
from cli.text import say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from outbox_relay.dead import DeadRow
    from outbox_relay.status import OutboxStatus

SOURCES = ("account", "payment", "notification", "saga")

app = typer.Typer(help="See how the outboxes stand; mend rows that cannot be published.", no_args_is_help=True)
dead_app = typer.Typer(help="Rows that Kafka will never take, put aside.", no_args_is_help=True)
app.add_typer(dead_app, name="dead")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def status(as_json: JsonOption = False, data: DataOption = None) -> None:
    """Show each outbox: its slot, how far the relay is behind, and how large the table is."""
    from outbox_relay.status import outbox_status

    found = [outbox_status(connection, name) for name, connection in _connections(data)]
    if as_json:
        say_json([asdict(one) for one in found])
        return
    _print_status(found)


@dead_app.command(name="list")
def list_(as_json: JsonOption = False, data: DataOption = None) -> None:
    """List the rows that were put aside, the oldest first."""
    from outbox_relay.dead import dead_rows

    found = [(name, row) for name, connection in _connections(data) for row in dead_rows(connection)]
    if as_json:
        fields = [{"source": name, **asdict(row), "died_at": row.died_at.isoformat()} for name, row in found]
        say_json(fields)
        return
    _print_dead(found)


@dead_app.command()
def retry(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="As `list` shows them.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    yes: YesOption = False,
    data: DataOption = None,
) -> None:
    """Put rows back at the end of their outbox, once the cause is mended: the relay tries them again."""
    from outbox_relay.dead import retry as put_back

    if bool(ids) == everything:
        raise BadInputError("name the rows as `settle outbox dead list` shows them, or pass --all")
    ids = ids or _agreed(yes, data)
    done = [row_id for _, connection in _connections(data) for row_id in put_back(connection, ids)]
    say(f"{len(done):,} row{'s' if len(done) != 1 else ''} put back")
    if unknown := [row_id for row_id in ids if row_id not in done and not everything]:
        raise BadInputError(f"not among the dead rows: {', '.join(unknown)}")


def _agreed(yes: bool, data: Any) -> list[str]:
    """All rows of now, once a person has seen how many and said yes; what comes later was not seen."""
    from cli.confirm import confirm
    from cli.screen import Grid, Screen
    from outbox_relay.dead import dead_rows

    found = [(name, row) for name, connection in _connections(data) for row in dead_rows(connection)]
    if found and not yes:
        table = Grid()
        for name in ("rows", "outbox", "why"):
            table.add_column(name, justify="right" if name == "rows" else "left", overflow="fold")
        for (name, reason), count in Counter((name, row.reason) for name, row in found).most_common():
            table.add_row(f"{count:,}", name, reason)
        Screen().print(table)
        confirm(f"put {len(found):,} row{'s' if len(found) != 1 else ''} back", yes=yes)
    return [row.id for _, row in found]


def _connections(data: Any) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """Each source's database, one after the other."""
    import psycopg

    from outbox_relay.source import source_name

    for name in SOURCES:
        dsn = settings.dsn(name, data)
        with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
            yield source_name(dsn), connection


def _print_status(found: list[OutboxStatus]) -> None:
    from rich.filesize import decimal

    from cli.screen import Grid, Screen

    table = Grid()
    for name in ("outbox", "relay", "behind", "log kept", "rows", "table", "dead"):
        table.add_column(name, justify="left" if name in ("outbox", "relay") else "right")
    for one in found:
        relay = "none yet" if one.slot is None else "reads" if one.active else "away"
        if one.wal_status == "lost":
            relay = "slot lost"
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
    if any(one.dead_rows for one in found):
        console.print("`settle outbox dead list` says why rows could not be published")


def _print_dead(found: list[tuple[str, DeadRow]]) -> None:
    from rich.filesize import decimal

    from cli.screen import Grid, Screen, lines, styled
    from processors.runtime.utc import in_utc

    console = Screen()
    if found:
        table = Grid()
        table.add_column("row", no_wrap=True)
        table.add_column("why", overflow="fold")
        for name, row in found:
            size = decimal(row.payload_bytes)
            table.add_row(
                lines(row.id, styled((f"{name}, {row.type}, {size}", "dim"))),
                lines(row.reason, styled((f"{in_utc(row.died_at):%F %T} UTC", "dim"))),
            )
        console.print(table)
    console.print(f"{len(found):,} dead row{'s' if len(found) != 1 else ''}")
