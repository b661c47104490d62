"""``settle stuck``: withdrawals without progress."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli import settings
from cli.hold_up import complain_unasked, report_unasked
from cli.remote import LONG_S, ApiOption, ask
from cli.settings import DataOption
from cli.text import complain, say_json
from contracts.services import NAMES

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from cli.screen import Grid
    from operations.stuck import Stuck


def stuck(
    older_than: Annotated[
        float | None,
        typer.Option(min=0, help="Without an event for so long, seconds.", show_default="SETTLE_STUCK_S, or 60"),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at the most, the oldest first.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """List the withdrawals that make no progress, and what each waits for."""
    import msgspec

    from cli.screen import Screen
    from processors.runtime.settings import ServiceSettings

    older_than_s = older_than if older_than is not None else ServiceSettings().stuck_s
    found, idle, is_whole = _of_api(api, older_than_s, limit) if api else _of_system(data, older_than_s, limit)
    if "saga" in idle:
        complain("the saga service does not run: withdrawals that it has not read are not listed")
    if as_json:
        say_json(msgspec.to_builtins(found))
        return
    console = Screen()
    if not found:
        console.print(
            f"nothing is stuck: every withdrawal has ended, or had an event in the last {older_than_s:g} s"
            if is_whole and "saga" not in idle
            else "nothing is known to be stuck, but not everything could be asked"
        )
        return
    console.print(as_table(found, datetime.now(UTC)))
    more = f" (the oldest {limit}; --limit shows more)" if len(found) == limit else ""
    noun = "withdrawal" if len(found) == 1 else "withdrawals"
    console.print(
        f"{len(found)} {noun} without an event for {older_than_s:g} s{more}; "
        "`settle nudge ID` republishes what it waits for"
    )


def _of_system(data: Path | None, older_than_s: float, limit: int) -> tuple[list[Stuck], Collection[str], bool]:
    """The withdrawals, services that do not run, and whether everything could be asked."""
    from operations.stuck import stuck as find

    dsns = settings.dsns(NAMES, data)
    found, holds = find(dsns, settings.kafka_bootstrap(data), older_than_s, limit)
    report_unasked(holds.unasked)
    return found, holds.idle, not holds.unasked


def _of_api(api: str, older_than_s: float, limit: int) -> tuple[list[Stuck], Collection[str], bool]:
    """The same from the API."""
    import msgspec

    from operations.stuck import Stuck

    answer = ask(api, "GET", "/v1/stuck", patience_s=LONG_S, older_than_s=older_than_s, limit=limit)
    for what, why in answer["unasked"].items():
        complain_unasked(what, why)
    return msgspec.convert(answer["withdrawals"], list[Stuck]), answer["idle"], not answer["unasked"]


def as_table(found: list[Stuck], now: datetime) -> Grid:
    """Two lines a withdrawal: what it is, and below it what it waits for."""
    from cli.screen import Grid, lines, styled
    from contracts.money import format_amount

    table = Grid()
    table.add_column("payment ID, and what it waits for", min_width=40)
    table.add_column("state")
    table.add_column("amount", justify="right")
    table.add_column("for", justify="right")
    for one in found:
        about = [styled((one.payment_id, "bold")), styled(one.waiting_for or "")]
        if one.pending is not None:
            about.append(styled((one.pending.in_words(), "dim")))
        amount = ""
        if one.amount_minor is not None and one.currency is not None:
            amount = f"{format_amount(one.amount_minor, one.currency)} {one.currency}"
        waited = _for((now - one.since).total_seconds()) if one.since is not None else ""
        table.add_row(lines(*about), one.state, amount, waited)
    return table


def _for(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
