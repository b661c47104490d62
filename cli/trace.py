"""``settle trace PAYMENT_ID|check``: the trace of a withdrawal in Jaeger, and whether traces are whole."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from typer.core import TyperGroup

from cli import settings
from cli.errors import FAILED, BadInputError, CommandError
from cli.hold_up import unknown
from cli.settings import DataOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from processors.saga.status import Ended

POLL_S = 0.5
NAMED_MAX = 20
"""Incomplete traces that are listed; the rest is counted."""

JaegerOption = Annotated[
    str | None,
    typer.Option(help="Jaeger's address.", show_default="SETTLE_JAEGER_URL, or http://127.0.0.1:16686"),
]
WaitOption = Annotated[
    float, typer.Option(min=0, help="How long spans may take to arrive, seconds: they travel in batches.")
]


class _DefaultToShow(TyperGroup):
    """``settle trace PAYMENT_ID`` is ``settle trace show PAYMENT_ID``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["show", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_DefaultToShow,
    help="See the trace of a withdrawal; check that traces are whole.",
    no_args_is_help=True,
    subcommand_metavar="PAYMENT_ID | COMMAND [ARGS]...",
)


@app.command()
def show(
    payment_id: Annotated[
        UUID, typer.Argument(metavar="PAYMENT_ID", help="As `settle request` printed it.", show_default=False)
    ],
    wait: WaitOption = 10.0,
    jaeger: JaegerOption = None,
    data: DataOption = None,
) -> None:
    """Draw the trace of a withdrawal as a tree, and say where Jaeger shows it."""
    from cli.screen import Screen, styled
    from cli.trace_tree import as_tree
    from operations.trace_check import HOPS, what_is_missing
    from processors.saga.status import find_status
    from tracing.jaeger import traces

    found = find_status(settings.dsn("saga", data), payment_id)
    if found is None:
        raise unknown(payment_id, found, data)
    if found.trace_id is None:
        raise BadInputError(f"withdrawal {payment_id} has no trace: its request came without a trace context")
    url, trace_id = jaeger or settings.jaeger_url(), found.trace_id
    deadline = time.monotonic() + wait
    while True:
        spans = traces(url, [trace_id]).get(trace_id, [])
        missing = what_is_missing(spans, found.state, found.reason) if found.state in HOPS else None
        if missing is None or time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    if not spans:
        raise CommandError(
            f"Jaeger at {url} knows no trace {trace_id}: was the withdrawal traced, and do its services export?"
        )
    console = Screen()
    console.print(as_tree(spans))
    if missing is not None:
        console.print(styled(("not whole", "bold red"), f": {missing}"))
    elif found.state in HOPS:
        console.print(styled(("whole", "green"), f": every hop of a withdrawal that is {found.state}, no orphan"))
    console.print(f"{settings.jaeger_link(url)}/trace/{trace_id}", soft_wrap=True)


@app.command()
def check(
    last: Annotated[int, typer.Option("--last", min=1, help="How many withdrawals, the newest.")] = 100,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Only those that Jaeger knows: where not all are traced.")
    ] = False,
    wait: WaitOption = 30.0,
    jaeger: JaegerOption = None,
    data: DataOption = None,
) -> None:
    """Verify that no hop of the newest finished withdrawals is missing and no span is an orphan."""
    from cli.screen import Screen, styled
    from processors.saga.status import ended
    from producers.spans import ROOT
    from tracing.jaeger import latest

    url, dsn = jaeger or settings.jaeger_url(), settings.dsn("saga", data)
    if sampled:
        known = list(latest(url, "settle-producer", ROOT, last))
        withdrawals = ended(dsn, len(known), known)
    else:
        withdrawals = ended(dsn, last)
    if not withdrawals:
        raise CommandError("there is no finished withdrawal to look at")
    faults, spans = _faults(url, withdrawals, wait)
    outcomes = Counter(one.state for one in withdrawals)
    ways = ", ".join(f"{count:,} {state}" for state, count in sorted(outcomes.items()))
    console = Screen()
    number = len(withdrawals)
    console.print(f"{number:,} withdrawals ({ways}), {spans:,} spans")
    for one, fault in faults[:NAMED_MAX]:
        console.print(styled(("not whole", "bold red"), f": {one.payment_id} {one.state}"))
        console.print(f"  trace {one.trace_id}: {fault}" if one.trace_id else f"  {fault}")
    if len(faults) > NAMED_MAX:
        console.print(f"and {len(faults) - NAMED_MAX:,} more")
    whole = number - len(faults)
    style = "bold red" if faults else "green"
    console.print(styled((f"{whole:,} of {number:,} traces are whole", style), f" ({whole / number:.1%})"))
    if faults:
        raise typer.Exit(FAILED)


def _faults(url: str, withdrawals: Sequence[Ended], wait_s: float) -> tuple[list[tuple[Ended, str]], int]:
    """The withdrawals whose trace is not whole when the time is up, with the reason; and the number of spans."""
    from operations.trace_check import what_is_missing
    from tracing.jaeger import traces

    deadline = time.monotonic() + wait_s
    open_, seen = list(withdrawals), 0
    while True:
        found = traces(url, [one.trace_id for one in open_ if one.trace_id])
        faults = []
        for one in open_:
            spans = found.get(one.trace_id or "", [])
            fault = what_is_missing(spans, one.state, one.reason)
            if fault is None:
                seen += len(spans)
            else:
                faults.append((one, fault))
        open_ = [one for one, _ in faults]
        if not faults or time.monotonic() > deadline:
            return faults, seen
        time.sleep(POLL_S)
