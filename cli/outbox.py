"""How do the outboxes stand, and which rows can never be published? ``settle outbox status|dead``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import settings
from cli.errors import BadInputError
from cli.settings import DataOption

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

    found = [outbox_status(connection) for _, connection in _connections(data)]
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    _print_status(found)


@dead_app.command(name="list")
def list_(as_json: JsonOption = False, data: DataOption = None) -> None:
    """List the rows that were put aside, the oldest first."""
    from outbox_relay.dead import dead_rows

    found = [(name, row) for name, connection in _connections(data) for row in dead_rows(connection)]
    if as_json:
        fields = [{"source": name, **asdict(row), "died_at": row.died_at.isoformat()} for name, row in found]
        print(json.dumps(fields, indent=2))
        return
    _print_dead(found)


@dead_app.command()
def retry(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="As `list` shows them.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    data: DataOption = None,
) -> None:
    """Put rows back at the end of their outbox, once the cause is mended: the relay tries them again."""
    from outbox_relay.dead import retry as put_back

    if bool(ids) == everything:
        raise BadInputError("name the rows as `settle outbox dead list` shows them, or pass --all")
    done = [row_id for _, connection in _connections(data) for row_id in put_back(connection, ids or None)]
    print(f"{len(done):,} row{'s' if len(done) != 1 else ''} put back")
    if unknown := [row_id for row_id in ids or () if row_id not in done]:
        raise BadInputError(f"not among the dead rows: {', '.join(unknown)}")


def _connections(data: Any) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """Each source's database, one after the other."""
    import psycopg

    from outbox_relay.source import source_name

    for name in SOURCES:
        dsn = settings.dsn(name, data)
        with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
            yield source_name(dsn), connection


def _print_status(found: list[OutboxStatus]) -> None:
    from rich import box
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
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
    console = Console(highlight=False)
    console.print(table)
    if any(one.dead_rows for one in found):
        console.print("`settle outbox dead list` says why rows could not be published")


def _print_dead(found: list[tuple[str, DeadRow]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    console = Console(highlight=False)
    if found:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("row", no_wrap=True)
        table.add_column("why", overflow="fold")
        for name, row in found:
            size = decimal(row.payload_bytes)
            table.add_row(
                f"{row.id}\n[dim]{name}, {row.type}, {size}[/]", f"{row.reason}\n[dim]{row.died_at:%F %T}[/]"
            )
        console.print(table)
    console.print(f"{len(found):,} dead row{'s' if len(found) != 1 else ''}")
