"""``settle demo``: a minute's demonstration with withdrawals through real Kafka and PostgreSQL."""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from cli.errors import FAILED, CommandError
from cli.signals import on_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from cli.screen import Screen
    from operations.audit.run import Audit
    from processors.saga.status import Status
    from producers.client import WithdrawalClient
    from producers.plan import LoadPlan
    from stack.supervisor import Stack
    from tracing.collector import SpanCollector

ACCOUNTS = 100
BALANCE_MINOR = 1_000_000
CURRENCY = "USD"
RATE = 400.0
FINISH_S = 60.0
POLL_S = 0.1
TRACED_SHARE = 0.01

SPANS_S = 10.0

_OUTCOMES = "SELECT state, count(*), sum(amount_minor)::bigint FROM withdrawals GROUP BY state"


class _Seen(NamedTuple):
    """What the demo shows at its end."""

    expected: dict[str, int]
    found: dict[str, tuple[int, int]]
    audit: Audit
    status: Status


def demo(
    count: Annotated[int, typer.Option(min=20, help="Withdrawals to make.")] = 2000,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the data folder, for a look at logs and mails.")
    ] = False,
    secure: Annotated[bool, typer.Option("--secure", help="With TLS, a password for each service, ACLs.")] = False,
) -> None:
    """Run withdrawals end to end on a stack of its own, audit them, and show one of them closely."""
    from cli.screen import Screen, styled
    from stack.supervisor import SERVICES, Stack
    from tracing.collector import SpanCollector

    on_end()
    console = Screen()
    with _folder(keep, console) as folder, SpanCollector() as collector:
        started = time.monotonic()
        console.print(styled(("Settle demo", "bold"), ": real Kafka, real PostgreSQL, four services and a relay"))
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        with Stack(
            folder,
            services=SERVICES,
            environment=environment,
            secure=secure,
            note=lambda line: console.print(line, style="dim"),
        ) as stack:
            console.print(f"everything is up after {time.monotonic() - started:.1f} s")
            seen = _withdraw(stack, collector, count, console)
            _show(seen, collector, console)
    _look_around(folder if keep else None, secure, console)
    endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318"
    console.print()
    console.print("Traces in a browser: start Jaeger (OTLP on 4318, pages on 16686), then")
    console.print(f"  {endpoint} settle up", style="bold")
    console.print(f"  {endpoint} settle request \\", style="bold")
    console.print(
        styled(("      --account acc-1 --amount 100.00 --wait", "bold"), "   (after `settle accounts open`)")
    )
    console.print(styled("and look for ", ("withdraw-money", "bold"), " at http://localhost:16686"))
    if not seen.audit.ok:
        raise typer.Exit(FAILED)
    if {state: found[0] for state, found in seen.found.items()} != seen.expected:
        raise CommandError(f"the outcomes are not those planned: expected {seen.expected}")


def _look_around(folder: Path | None, secure: bool, console: Screen) -> None:
    """Say how to see in the console what the demo has made; None: its folder is gone."""
    from shlex import join

    console.print()
    console.print("Look around in the console, at each withdrawal and account:")
    if folder is None:
        again = ["settle", "demo", "--keep", *(["--secure"] if secure else [])]
        console.print(f"  {join(again)}", style="bold")
        console.print("and then as it says at its end. The data of this one are gone.")
        return
    # A line that is copied is not broken, however narrow the terminal.
    console.print(f"  {join(['settle', 'up', '--data', str(folder)])}", style="bold", soft_wrap=True)
    console.print("and open the link that it prints.")


@contextmanager
def _folder(keep: bool, console: Screen) -> Iterator[Path]:
    if keep:
        folder = Path(tempfile.mkdtemp(prefix="settle-demo-"))
        yield folder
        console.print(f"data, logs and mails are kept in {folder}")
        return
    with tempfile.TemporaryDirectory(prefix="settle-demo-") as name:
        yield Path(name)


def _withdraw(stack: Stack, collector: SpanCollector, count: int, console: Screen) -> _Seen:
    import tracing
    from contracts.money import format_amount
    from operations.audit.run import run
    from operations.trace_check import HOPS
    from processors.account.accounts import open_accounts
    from processors.saga.status import find_status
    from producers.client import WithdrawalClient
    from producers.plan import LoadPlan
    from tracing.setup import TracingSettings

    dsns = stack.state.dsns
    names = [f"acc-{number}" for number in range(1, ACCOUNTS + 1)]
    open_accounts(dsns["account"], names, BALANCE_MINOR, CURRENCY)
    console.print(f"{ACCOUNTS} accounts opened with {format_amount(BALANCE_MINOR, CURRENCY)} {CURRENCY} each")
    # A small share of the load is traced; the last withdrawal always, as its trace is shown.
    plan = LoadPlan(count - 1, accounts=ACCOUNTS, duplicates=0.05, declined=0.05, insufficient=0.05)

    def trace(share: float) -> None:
        settings = TracingSettings(exporter_otlp_endpoint=collector.endpoint, traces_sampler_arg=share)
        tracing.configure("producer", settings=settings)

    def last() -> UUID:
        trace(1.0)
        return client.request("acc-1", "100.00").payment_id

    with WithdrawalClient(stack.state.kafka_bootstrap) as client:
        trace(TRACED_SHARE)
        shown = _load(client, plan, last, dsns["saga"], console)
    tracing.shutdown()
    audit = run(dsns, stack.state.kafka_bootstrap, FINISH_S)
    status = find_status(dsns["saga"], shown)
    assert status is not None
    collector.wait_for(status.trace_id or "", HOPS["completed"].total(), SPANS_S)
    declined, insufficient = round(plan.count * plan.declined), round(plan.count * plan.insufficient)
    expected = {"completed": count - declined - insufficient, "compensated": declined, "rejected": insufficient}
    return _Seen(expected, _outcomes(dsns["saga"]), audit, status)


def _load(
    client: WithdrawalClient, plan: LoadPlan, last: Callable[[], UUID], saga_dsn: str, console: Screen
) -> UUID:
    """Send the load and a last withdrawal, and show their progress; returns the payment ID of the last."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from contracts.postgres import session
    from producers.load import LoadReport, run_load
    from producers.plan import plan_load

    total = plan.count + 1
    console.print(f"{total:,} withdrawals: 5% will be declined, 5% lack funds, 5% are sent twice")
    console.print()
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with session(saga_dsn, autocommit=True) as saga, Progress(*columns, console=console) as progress:
        sent = progress.add_task("sent", total=plan.messages + 1)
        finished = progress.add_task("finished", total=total)

        def follow() -> int:
            row = saga.execute("SELECT count(*) FROM withdrawals WHERE finished_at IS NOT NULL").fetchone()
            done = int(row[0]) if row else 0
            progress.update(finished, completed=done)
            return done

        def wait(number: int) -> None:
            deadline = time.monotonic() + FINISH_S
            while follow() < number and time.monotonic() < deadline:
                time.sleep(POLL_S)

        def on_progress(report: LoadReport) -> None:
            progress.update(sent, completed=report.delivered)
            follow()

        report = run_load(client, plan_load(plan), rate=RATE, on_progress=on_progress)
        if report.first_failure is not None:
            raise report.first_failure
        wait(plan.count)
        shown = last()  # when all others have ended, so that its trace does not show their queue
        progress.update(sent, advance=1)
        wait(total)
    return shown


def _outcomes(saga_dsn: str) -> dict[str, tuple[int, int]]:
    from contracts.postgres import session

    with session(saga_dsn) as connection:
        return {state: (number, minor) for state, number, minor in connection.execute(_OUTCOMES)}


def _show(seen: _Seen, collector: SpanCollector, console: Screen) -> None:
    from cli import audit, status
    from cli.screen import Grid
    from cli.trace_tree import as_tree
    from contracts.money import format_amount

    table = Grid()
    table.add_column("outcome", style="bold")
    table.add_column("withdrawals", justify="right")
    table.add_column("planned", justify="right")
    table.add_column(CURRENCY, justify="right")
    table.add_column("")
    meaning = {
        "completed": "paid, customer told",
        "compensated": "declined, money is back",
        "rejected": "nothing taken",
    }
    for state in {**seen.expected, **seen.found}:
        number, minor = seen.found.get(state, (0, 0))
        planned = seen.expected.get(state, 0)
        table.add_row(state, f"{number:,}", f"{planned:,}", format_amount(minor, CURRENCY), meaning.get(state, ""))
    console.print(table)
    console.print(audit.as_table(seen.audit))
    console.print(audit.in_words(seen.audit))
    console.print()
    console.print("One withdrawal, closely", style="bold")
    console.print(status.as_table(seen.status))
    console.print(status.in_words(seen.status))
    console.print()
    console.print("The same as a trace", style="bold")
    console.print(as_tree(collector.trace(seen.status.trace_id or "")))
