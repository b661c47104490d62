"""``settle load --count 10000``: the load generator."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cli.client import open_client
from cli.environment import InProductionOption, refuse_production
from cli.errors import FAILED, INTERRUPTED
from cli.settings import DataOption
from cli.text import complain

if TYPE_CHECKING:
    from producers.load import LoadReport

LINE_EVERY_S = 1.0


def load(
    count: Annotated[int, typer.Option(help="Withdrawals to make.")],
    rate: Annotated[float | None, typer.Option(help="Messages a second.", show_default="no limit")] = None,
    accounts: Annotated[int, typer.Option(help="How many accounts: acc-1, acc-2, …")] = 100,
    hot_account: Annotated[float, typer.Option(help="Share of them on acc-1 alone, 0 to 1.")] = 0.0,
    duplicates: Annotated[float, typer.Option(help="Share that is sent twice.")] = 0.0,
    declined: Annotated[float, typer.Option(help="Share that the bank declines.")] = 0.0,
    insufficient: Annotated[float, typer.Option(help="Share that asks for too much.")] = 0.0,
    currency: Annotated[str, typer.Option(help="Of the accounts, ISO 4217 code.")] = "USD",
    seed: Annotated[int, typer.Option(help="The same seed makes the same load.")] = 1,
    in_production: InProductionOption = False,
    data: DataOption = None,
) -> None:
    """Make many withdrawals; fail unless Kafka took every one. Not in production."""
    from contracts.money import parse_currency
    from producers.client import LINGER_MS, LINGER_UNDER_LOAD_MS
    from producers.load import HIGH_RATE, check_rate, run_load
    from producers.plan import LoadPlan, plan_load

    plan = LoadPlan(
        count=count,
        accounts=accounts,
        hot_account=hot_account,
        duplicates=duplicates,
        declined=declined,
        insufficient=insufficient,
        seed=seed,
    )
    check_rate(rate)
    code = parse_currency(currency)
    refuse_production("settle load takes money from accounts", anyway=in_production)
    linger_ms = LINGER_MS if rate and rate < HIGH_RATE else LINGER_UNDER_LOAD_MS
    with (
        open_client(data, linger_ms=linger_ms) as client,
        _stopped_by_ctrl_c() as stop,
        _Progress(plan.messages) as progress,
    ):
        report = run_load(client, plan_load(plan), currency=code, rate=rate, stop=stop, on_progress=progress.show)
    _print_table(report)
    if report.first_failure is not None:
        rest = plan.messages - report.sent if report.hopeless else 0
        gave_up = f", {rest:,} not even tried" if rest else ""
        complain(f"{report.failed:,} not delivered{gave_up}; the first: {report.first_failure}")
    if stop.is_set():
        raise typer.Exit(INTERRUPTED)
    if report.failed:
        raise typer.Exit(FAILED)


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one is a KeyboardInterrupt."""
    stop = threading.Event()

    def on_interrupt(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class _Progress:
    """A bar on a terminal, a line a second elsewhere."""

    def __init__(self, messages: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        from cli.screen import Screen

        self._console = Screen()
        self._messages = messages
        self._bar: Progress | None = None
        self._line_at_s = LINE_EVERY_S
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("withdrawals"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[per_second]:,.0f}/s"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=messages, per_second=0.0)

    def __enter__(self) -> _Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, report: LoadReport) -> None:
        """Show the progress."""
        if self._bar is not None:
            done = report.delivered + report.failed
            self._bar.update(self._task, completed=done, per_second=report.per_second)
        elif report.elapsed_s >= self._line_at_s:
            self._line_at_s = report.elapsed_s + LINE_EVERY_S
            self._console.print(
                f"{report.elapsed_s:6.1f} s  {report.delivered:,} of {self._messages:,} delivered, "
                f"{report.failed:,} failed, {report.per_second:,.0f}/s"
            )


def _print_table(report: LoadReport) -> None:
    from cli.screen import Grid, Screen

    table = Grid(head=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in (
        ("sent", f"{report.sent:,}"),
        ("of these again", f"{report.repeats:,}"),
        ("delivered", f"{report.delivered:,}"),
        ("failed", f"{report.failed:,}"),
        ("time", f"{report.elapsed_s:.2f} s"),
        ("per second", f"{report.per_second:,.0f}"),
        ("delivery p50", _in_ms(report.latencies.percentile(0.50))),
        ("delivery p99", _in_ms(report.latencies.percentile(0.99))),
    ):
        table.add_row(name, value)
    Screen().print(table)


def _in_ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:,.1f} ms"
