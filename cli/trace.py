"""``settle trace PAYMENT_ID|check``: the trace of a withdrawal in Jaeger, and whether traces are whole."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from typer.core import TyperGroup

from cli import settings
from cli.errors import FAILED, BadInputError, CommandError
from cli.hold_up import unknown
from cli.remote import NOT_FOUND, ApiOption, RefusedError, ask
from cli.settings import DataOption
from cli.withdrawal import find

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from operations.traces import Checked, Trace

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
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Draw the trace of a withdrawal as a tree, and say where Jaeger shows it."""
    from cli.screen import Screen, styled
    from cli.trace_tree import as_tree
    from operations.trace_check import HOPS
    from operations.traces import POLL_S

    look, link = _by_api(api, payment_id, jaeger) if api is not None else _by_jaeger(payment_id, jaeger, data)
    deadline = time.monotonic() + wait
    while (found := look()).trace_id and found.missing is not None and time.monotonic() <= deadline:
        time.sleep(POLL_S)
    if found.trace_id is None:
        raise BadInputError(f"withdrawal {payment_id} has no trace: its request came without a trace context")
    if not found.spans:
        raise CommandError(
            f"Jaeger at {link} knows no trace {found.trace_id}: "
            "was the withdrawal traced, and do its services export?"
        )
    console = Screen()
    console.print(as_tree(found.spans))
    if found.missing is not None:
        console.print(styled(("not whole", "bold red"), f": {found.missing}"))
    elif found.state in HOPS:
        console.print(styled(("whole", "green"), f": every hop of a withdrawal that is {found.state}, no orphan"))
    console.print(f"{link}/trace/{found.trace_id}", soft_wrap=True)


@app.command()
def check(
    last: Annotated[int, typer.Option("--last", min=1, help="How many withdrawals, the newest.")] = 100,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Only those that Jaeger knows: where not all are traced.")
    ] = False,
    wait: WaitOption = 30.0,
    jaeger: JaegerOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Verify that no hop of the newest finished withdrawals is missing and no span is an orphan."""
    from cli.screen import Screen, styled
    from operations.traces import check as look_at
    from operations.traces import jaeger_url, until_whole

    def look(trace_ids: list[str] | None) -> list[Checked]:
        if api is not None:
            return _check_by_api(api, last, sampled, trace_ids)
        return look_at(dsn, url, last, sampled=sampled, trace_ids=trace_ids)

    url, dsn = jaeger or jaeger_url(), "" if api is not None else settings.dsn("saga", data)
    if api is not None:
        _refuse_other(jaeger)
    withdrawals = until_whole(look, wait)
    if not withdrawals:
        raise CommandError("there is no finished withdrawal to look at")
    faults = [one for one in withdrawals if one.missing is not None]
    spans = sum(one.spans for one in withdrawals if one.missing is None)
    outcomes = Counter(one.state for one in withdrawals)
    ways = ", ".join(f"{count:,} {state}" for state, count in sorted(outcomes.items()))
    console = Screen()
    number = len(withdrawals)
    console.print(f"{number:,} withdrawals ({ways}), {spans:,} spans")
    for one in faults[:NAMED_MAX]:
        console.print(styled(("not whole", "bold red"), f": {one.payment_id} {one.state}"))
        console.print(f"  trace {one.trace_id}: {one.missing}" if one.trace_id else f"  {one.missing}")
    if len(faults) > NAMED_MAX:
        console.print(f"and {len(faults) - NAMED_MAX:,} more")
    whole = number - len(faults)
    style = "bold red" if faults else "green"
    console.print(styled((f"{whole:,} of {number:,} traces are whole", style), f" ({whole / number:.1%})"))
    if faults:
        raise typer.Exit(FAILED)


def _by_jaeger(payment_id: UUID, jaeger: str | None, data: Path | None) -> tuple[Callable[[], Trace], str]:
    """What looks for the trace of a withdrawal, and where a browser finds Jaeger."""
    from operations.traces import jaeger_link, jaeger_url, trace_of

    found = find(payment_id, data, None)
    if found is None:
        raise unknown(payment_id, found, data)
    url = jaeger or jaeger_url()
    return partial(trace_of, url, found), jaeger_link(url)


def _by_api(api: str, payment_id: UUID, jaeger: str | None) -> tuple[Callable[[], Trace], str]:
    import msgspec

    from operations.traces import Trace
    from tracing.collector import CollectedSpan

    _refuse_other(jaeger)
    path = f"/v1/withdrawals/{payment_id}/trace"
    try:
        link: str = ask(api, "GET", path)["jaeger"]
    except RefusedError as refused:
        if refused.kind != NOT_FOUND:
            raise
        raise unknown(payment_id, None, None, api) from None

    def look() -> Trace:
        answer = ask(api, "GET", path)
        return msgspec.convert(answer | {"spans": [CollectedSpan(**one) for one in answer["spans"]]}, Trace)

    return look, link


def _check_by_api(api: str, last: int, sampled: bool, trace_ids: list[str] | None) -> list[Checked]:
    import msgspec

    from operations.traces import Checked

    found = ask(api, "GET", "/v1/traces", last=last, sampled=sampled, trace_id=trace_ids)
    return msgspec.convert(found["withdrawals"], list[Checked])


def _refuse_other(jaeger: str | None) -> None:
    if jaeger is not None:
        raise BadInputError("with --api, the API asks the Jaeger that it knows: leave out --jaeger")
