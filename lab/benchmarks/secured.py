"""The benchmark of security: throughput and CPU of a secured stack beside one without, in turn in one run.

The secured one speaks TLS to Kafka and PostgreSQL, each service is a Kafka user (SCRAM-SHA-512), ACLs are checked.
Its services reach PostgreSQL by TCP, the others by Unix socket; and its PostgreSQL is another build, with OpenSSL.
"""

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lab.benchmarks.load import FINISH_S, Window, in_turn, load, measure, open_all
from lab.benchmarks.machine import write
from operations.audit.run import run as run_audit
from stack.supervisor import SERVICES, Stack

RESULTS = Path(__file__).parent / "results" / "secured.json"
KINDS = ("plain", "secured")
RAMP_S = 4.0


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Windows of each.")] = 4,
    window: Annotated[float, typer.Option(min=1, help="Length of one window, seconds.")] = 8.0,
    warm_up: Annotated[float, typer.Option(min=0, help="Load on each before the first, seconds.")] = 25.0,
    output: Annotated[Path, typer.Option("--json", help="Where to write the figures.")] = RESULTS,
) -> None:
    """Measure a secured stack and one without, in turn."""
    console = Console(highlight=False)
    windows: dict[str, list[Window]] = {kind: [] for kind in KINDS}
    with ExitStack() as open_stacks:
        stacks = {}
        for kind in KINDS:
            folder = open_stacks.enter_context(tempfile.TemporaryDirectory(prefix=f"settle-bench-{kind}-"))
            environment = {"SETTLE_MAILER": "off"}
            stack = Stack(Path(folder), services=SERVICES, environment=environment, secure=kind == "secured")
            stacks[kind] = open_stacks.enter_context(stack)
        for stack in stacks.values():
            open_all(stack)
            with load(stack):
                time.sleep(warm_up)
        console.print(f"{rounds} rounds: {', '.join(KINDS)}; windows of {window:.0f} s")
        for number in range(rounds):
            for kind in in_turn(KINDS, number):
                with load(stacks[kind]):
                    time.sleep(RAMP_S)
                    windows[kind].append(measure(stacks[kind], window))
        audits = {
            kind: run_audit(stack.state.dsns, stack.state.kafka_bootstrap, FINISH_S)
            for kind, stack in stacks.items()
        }
    result = _figures(windows) | {"audit_ok": all(audit.ok for audit in audits.values())}
    write(output, result)
    _print(console, result)
    console.print(f"written to {output}")
    if not result["audit_ok"]:
        raise typer.Exit(1)


def _figures(windows: dict[str, list[Window]]) -> dict[str, Any]:
    rates = {kind: [one.rate for one in found] for kind, found in windows.items()}
    by_round = [secured / plain for secured, plain in zip(rates["secured"], rates["plain"], strict=True)]
    costs = {
        kind: {
            name: round(statistics.median(one.cost_us.get(name, 0.0) for one in found), 1)
            for name in found[0].cost_us
        }
        for kind, found in windows.items()
    }
    return {
        "withdrawals_per_second": {kind: round(statistics.median(found)) for kind, found in rates.items()},
        "windows": {kind: [round(rate) for rate in found] for kind, found in rates.items()},
        "secured_ratio": round(statistics.median(by_round), 3),
        "secured_ratio_spread": [round(min(by_round), 3), round(max(by_round), 3)],
        "cpu_us_per_withdrawal": costs,
    }


def _print(console: Console, result: dict[str, Any]) -> None:
    low, high = result["secured_ratio_spread"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", style="bold")
    for kind in KINDS:
        table.add_column(kind, justify="right")
    rates, costs = result["withdrawals_per_second"], result["cpu_us_per_withdrawal"]
    table.add_row("completed withdrawals a second", *(f"{rates[kind]:,}" for kind in KINDS))
    for name in costs["plain"]:
        table.add_row(f"CPU a withdrawal: {name}", *(f"{costs[kind].get(name, 0):.0f} µs" for kind in KINDS))
    table.add_row("together", *(f"{sum(costs[kind].values()):.0f} µs" for kind in KINDS))
    console.print(table)
    console.print(f"secured by plain: {result['secured_ratio']:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    typer.run(main)
