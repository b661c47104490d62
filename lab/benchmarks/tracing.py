"""The cost of tracing: throughput with none, one in a hundred and all withdrawals traced, on one stack.

Sampling is decided where a request is made, so only the load generator changes between the runs: every
service exports to the same collector all the time. The runs take turns, in another order each round, and each
begins and ends with nothing under way; so that changes of the machine's speed affect all three alike.
"""

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import httpx
import psutil
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich import box
from rich.console import Console
from rich.table import Table

import tracing
from contracts.services import READ_BY
from lab.benchmarks.load import FINISH_S, Window, in_turn, load, measure, open_all, trace
from lab.benchmarks.machine import write
from operations.audit.run import run as run_audit
from stack.supervisor import SERVICES, Stack
from tracing.collector import SpanCollector

RESULTS = Path(__file__).parent / "results" / "tracing.json"

RATIOS = (0.0, 0.01, 1.0)

COST_MAX = 0.03
"""What one traced withdrawal in a hundred may cost."""

ALL_TRACED_MIN = 1_000
"""Withdrawals a second that go through with all of them traced."""

UNDER_WAY_MAX = {0.0: 20_000, 0.01: 20_000, 1.0: 4_000}
"""Withdrawals under way at the most: some seconds' worth, or a window would only see the queue fill."""


def main(
    window: Annotated[float, typer.Option(min=1, help="Length of a window, seconds.")] = 8.0,
    ramp: Annotated[float, typer.Option(min=1, help="Load before each window, seconds.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="Windows at each ratio.")] = 4,
    output: Annotated[Path, typer.Option("--json", help="Where to write the figures.")] = RESULTS,
) -> None:
    """Measure what tracing costs, on an embedded stack."""
    console = Console(highlight=False)
    runs: dict[float, list[Run]] = {ratio: [] for ratio in RATIOS}
    with tempfile.TemporaryDirectory(prefix="settle-bench-") as folder, SpanCollector(spans_max=0) as collector:
        environment = {"SETTLE_MAILER": "off", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        with Stack(Path(folder), services=SERVICES, environment=environment) as stack:
            open_all(stack)
            console.print(f"load for {ramp + window:.0f} s to warm up, then {rounds} rounds of three runs as long")
            _run(stack, collector, 0.0, ramp, window)
            for number in range(rounds):
                for ratio in in_turn(RATIOS, number):
                    run = _run(stack, collector, ratio, ramp, window)
                    runs[ratio].append(run)
                    console.print(
                        f"  round {number + 1}: {ratio:.0%} traced, {run.rate:,.0f}/s, {run.cpu_us:.0f} µs"
                    )
            spans = {service: _spans(stack, service) for service in READ_BY}
            audit = run_audit(stack.state.dsns, stack.state.kafka_bootstrap, FINISH_S)
    result = {
        "withdrawals_per_second": {f"{ratio:g}": [round(r.rate) for r in found] for ratio, found in runs.items()},
        "cpu_us_per_withdrawal": {f"{ratio:g}": [round(r.cpu_us) for r in found] for ratio, found in runs.items()},
        "cost_of_one_in_a_hundred": {
            "throughput": _cost([r.rate for r in runs[0.0]], [r.rate for r in runs[0.01]]),
            "cpu": _cost([1 / r.cpu_us for r in runs[0.0]], [1 / r.cpu_us for r in runs[0.01]]),
        },
        "spans": spans,
        "audit_ok": audit.ok,
        "withdrawals": audit.withdrawals,
        "cores": psutil.cpu_count(),
    }
    write(output, result)
    _print(console, runs, result)
    console.print(f"written to {output}")
    if not audit.ok:
        console.print([check for check in audit.checks if not check.ok])
        raise typer.Exit(1)


class Run(NamedTuple):
    """What was measured once.

    Attributes:
        rate: completed withdrawals a second, at steady state.
        cpu_us: of all processes, the load generator and the collector of spans among them, for one withdrawal.
    """

    rate: float
    cpu_us: float


def _run(stack: Stack, collector: SpanCollector, ratio: float, ramp_s: float, window_s: float) -> Run:
    """Put load on the stack, look at a window at its end, and wait until all is finished."""
    trace(collector.endpoint, ratio)
    whole = Window(stack)
    with load(stack, under_way_max=UNDER_WAY_MAX[ratio]):
        time.sleep(ramp_s)
        measured = measure(stack, window_s)
    tracing.shutdown()
    whole.close()
    return Run(measured.rate, sum(whole.cost_us.values()))


def _spans(stack: Stack, service: str) -> dict[str, int]:
    """How many spans of a service the collector took, and how many were dropped."""
    page = httpx.get(f"http://127.0.0.1:{stack.state.http[service]}/metrics", timeout=10, trust_env=False)
    samples = [s for f in text_string_to_metric_families(page.raise_for_status().text) for s in f.samples]
    return {
        kind: round(sum(sample.value for sample in samples if sample.name == f"settle_spans_{kind}_total"))
        for kind in ("exported", "dropped")
    }


def _cost(without: Sequence[float], with_: Sequence[float]) -> dict[str, float]:
    """The slowdown as a share: by rounds, so that a slow minute counts on both sides."""
    costs = [1 - b / a for a, b in zip(without, with_, strict=True)]
    return {
        "mean": round(statistics.fmean(costs), 4),
        "standard_error": round(statistics.stdev(costs) / len(costs) ** 0.5, 4) if len(costs) > 1 else 0.0,
        "min": round(min(costs), 4),
        "max": round(max(costs), 4),
    }


def _print(console: Console, runs: Mapping[float, Sequence[Run]], result: Mapping[str, Any]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("traced", "withdrawals/s (median)", "lowest", "highest", "CPU a withdrawal"):
        table.add_column(column, justify="right")
    for ratio, found in runs.items():
        rates = [run.rate for run in found]
        figures = (f"{value:,.0f}" for value in (statistics.median(rates), min(rates), max(rates)))
        table.add_row(f"{ratio:.0%}", *figures, f"{statistics.median(run.cpu_us for run in found):,.0f} µs")
    console.print(table)
    for what, cost in result["cost_of_one_in_a_hundred"].items():
        console.print(
            f"one in a hundred costs {cost['mean']:.1%} ± {2 * cost['standard_error']:.1%} of {what} "
            f"(single rounds {cost['min']:.1%} to {cost['max']:.1%}; wanted: {COST_MAX:.0%})"
        )
    median = statistics.median(run.rate for run in runs[1.0])
    console.print(f"all traced: {median:,.0f}/s (wanted: {ALL_TRACED_MIN:,})")
    taken, lost = (sum(spans[kind] for spans in result["spans"].values()) for kind in ("exported", "dropped"))
    console.print(f"spans of the four services: {taken:,} taken by the collector, {lost:,} dropped")
    console.print(f"audit of all {result['withdrawals']:,}: {'ok' if result['audit_ok'] else 'OFF'}")


if __name__ == "__main__":
    typer.run(main)
