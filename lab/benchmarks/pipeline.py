"""The benchmark of the whole pipeline: throughput, latency, CPU and bytes per withdrawal, and what changes them.

Throughput is taken at steady state: the load generator keeps a bounded number of withdrawals under way, and what
counts is how many were completed, by the saga's own clock, in each of several windows. Latency is taken at a low
rate: from the moment a request is sent to the commit of its ``WithdrawalCompleted``, as PostgreSQL recorded it.

Machines differ, so figures have references that are measured in the same run: a monolith's transactions by
pgbench, before and after; the bare chain of commits and records that a withdrawal takes; few withdrawals stored
for many; many accounts for one; none traced for all.
"""

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich import box
from rich.console import Console
from rich.table import Table

import tracing
from contracts.postgres import session
from lab.benchmarks.chain import chain_ms
from lab.benchmarks.load import (
    ACCOUNTS,
    FINISH_S,
    UNDER_WAY_MAX,
    Watch,
    Window,
    cpu_s,
    in_turn,
    load,
    measure,
    open_all,
    stored_bytes,
    trace,
    wait_quiet,
)
from lab.benchmarks.machine import write
from lab.benchmarks.monolith import monolith_per_second
from operations.audit.run import run as run_audit
from producers.client import LINGER_MS, LINGER_UNDER_LOAD_MS, WithdrawalClient
from producers.load import run_load
from producers.plan import LoadPlan, plan_load
from stack.supervisor import SERVICES, Stack
from tracing.collector import SpanCollector

RESULTS = Path(__file__).parent / "results" / "latest.json"

LATENCY_RATE = 200.0
LATENCY_WARM_UP_S = 60.0
"""Until the broker's Java has compiled what it needs."""

BURST = 20_000
"""Withdrawals whose CPU is compared, with few and with many stored."""

TURN_RAMP_S = 4.0
UNDER_WAY_TRACED_MAX = 4_000
"""Some seconds' worth, or a window would only see the queue fill."""

IDLE_S = 10.0
PYTHON = SERVICES

# The closing event is stored by the transaction that completes the withdrawal.
_LATENCY = """
SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM took) * 1000) FROM (
    SELECT pg_xact_commit_timestamp(c.xmin) - (r.payload->>'occurred_at')::timestamptz AS took
    FROM event_store r JOIN event_store c USING (payment_id)
    WHERE r.type = 'WithdrawalRequested' AND c.type = 'WithdrawalCompleted'
        AND (r.payload->>'occurred_at')::timestamptz >= %s) AS t
"""


def main(
    window: Annotated[float, typer.Option(min=1, help="Length of one window, seconds.")] = 8.0,
    repeats: Annotated[int, typer.Option(min=1, help="Windows.")] = 4,
    warm_up: Annotated[float, typer.Option(min=1, help="Load before the first window, seconds.")] = 30.0,
    latency: Annotated[float, typer.Option(min=5, help="How long to measure latency, seconds.")] = 20.0,
    sampling: Annotated[float, typer.Option(min=0, max=1, help="Share of withdrawals traced.")] = 0.01,
    monolith: Annotated[
        float, typer.Option(min=0, help="How long to run pgbench, before and after; 0: not.")
    ] = 10,
    chain: Annotated[int, typer.Option(min=0, help="Bare chains to measure; 0: none.")] = 200,
    turns: Annotated[int, typer.Option(min=0, help="Windows with one account, and with all traced; 0: none.")] = 3,
    grown: Annotated[
        int, typer.Option(min=0, help="Store so many withdrawals, and measure again; 0: not.")
    ] = 1_000_000,
    output: Annotated[Path, typer.Option("--json", help="Where to write the figures.")] = RESULTS,
) -> None:
    """Measure the pipeline on an embedded stack."""
    console = Console(highlight=False)
    references = [_monolith(console, monolith)]
    with tempfile.TemporaryDirectory(prefix="settle-bench-") as folder, SpanCollector(spans_max=0) as collector:
        environment = {"SETTLE_MAILER": "off"}
        if sampling or turns:
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.endpoint
        settings = {"track_commit_timestamp": "on"}
        with Stack(Path(folder), services=SERVICES, environment=environment, postgres_settings=settings) as stack:
            trace(collector.endpoint, sampling)
            open_all(stack)
            empty = stored_bytes(stack)
            console.print(
                f"latency at {LATENCY_RATE:.0f}/s: {LATENCY_WARM_UP_S:.0f} s to warm up, {latency:.0f} s"
            )
            latency_ms = _latency(stack, latency)
            bare_ms = chain_ms(stack.state.dsns["saga"], stack.state.kafka_bootstrap, chain) if chain else None
            idle = _idle(stack)
            console.print(f"load for {warm_up:.0f} s to warm up, then {repeats} windows of {window:.0f} s")
            few = _burst(stack) if grown else None
            with load(stack):
                time.sleep(warm_up)
                windows, whole = _windows(stack, window, repeats)
            if grown:
                _grow(console, stack, grown)
            many = _burst(stack) if grown else None
            variants = _turns(console, stack, collector, turns, window)
            stored = stored_bytes(stack) - empty
            console.print("audit")
            audit = run_audit(stack.state.dsns, stack.state.kafka_bootstrap, FINISH_S)
            memory_mb = {
                name: psutil.Process(pid).memory_info().rss / 1e6 for name, pid in stack.state.pids.items()
            }
        tracing.shutdown()
    references.append(_monolith(console, monolith))
    rates = [one.rate for one in windows]
    result = {
        "withdrawals_per_second": round(statistics.median(rates)),
        "spread": {"min": round(min(rates)), "max": round(max(rates)), "windows": [round(rate) for rate in rates]},
        "latency_ms": {name: round(value, 1) for name, value in latency_ms.items()},
        "latency_at_rate": LATENCY_RATE,
        **_beside_monolith(rates, [rate for rate in references if rate is not None]),
        **_beside_chain(latency_ms["p50"], bare_ms),
        **_growth(few, many),
        **variants,
        "bytes_per_withdrawal": round(stored / audit.withdrawals),
        "audit_ok": audit.ok,
        "withdrawals": audit.withdrawals,
        "sampling": sampling,
        "cpu_us_per_withdrawal": {name: round(cost, 1) for name, cost in whole.cost_us.items()},
        "memory_mb": {name: round(memory) for name, memory in memory_mb.items()},
        "idle_share_of_a_core": {name: round(share, 3) for name, share in idle.items()},
    }
    write(output, result)
    _print(console, result)
    console.print(f"written to {output}")
    if not audit.ok:
        console.print([check for check in audit.checks if not check.ok])
        raise typer.Exit(1)


def _windows(stack: Stack, seconds: float, repeats: int) -> tuple[list[Window], Window]:
    """Several windows one after the other, and the one that spans them."""
    whole = Window(stack)
    windows = [measure(stack, seconds) for _ in range(repeats)]
    whole.close()
    return windows, whole


def _burst(stack: Stack) -> Window:
    """What some withdrawals take from the first request to the last end."""
    found = Window(stack)
    with WithdrawalClient(stack.state.kafka_bootstrap, linger_ms=LINGER_UNDER_LOAD_MS) as client:
        run_load(client, plan_load(LoadPlan(BURST, accounts=ACCOUNTS)))
    wait_quiet(stack)
    found.close()
    return found


def _grow(console: Console, stack: Stack, wanted: int) -> None:
    """Put load on the stack until so many withdrawals are stored."""
    watch = Watch(stack.state.kafka_bootstrap)
    console.print(f"load until {wanted:,} withdrawals are stored: {watch.completed():,} are")
    with load(stack):
        while watch.completed() < wanted:
            time.sleep(1)
    watch.close()


def _growth(few: Window | None, many: Window | None) -> dict[str, Any]:
    """CPU of a withdrawal with many stored by that with few.

    The broker's is left out: at first its Java still compiles, and it keeps no index that grows.
    """
    if few is None or many is None:
        return {}
    before, after = (
        sum(cost for name, cost in one.cost_us.items() if name not in ("kafka", "load")) for one in (few, many)
    )
    return {"growth_ratio": round(after / before, 3), "growth_us": [round(before, 1), round(after, 1)]}


def _turns(
    console: Console, stack: Stack, collector: SpanCollector, rounds: int, window_s: float
) -> dict[str, Any]:
    """Throughput with one account, and with all traced, by that with many accounts and none traced, in turn."""
    if not rounds:
        return {}
    kinds = {
        "plain": (ACCOUNTS, 0.0, UNDER_WAY_MAX),
        "hot_account": (1, 0.0, UNDER_WAY_MAX),
        "traced": (ACCOUNTS, 1.0, UNDER_WAY_TRACED_MAX),
    }
    console.print(f"{rounds} rounds: many accounts, one account, all traced; windows of {window_s:.0f} s")
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind in in_turn(tuple(kinds), number):
            accounts, sampling, under_way_max = kinds[kind]
            trace(collector.endpoint, sampling)
            with load(stack, accounts=accounts, under_way_max=under_way_max):
                time.sleep(TURN_RAMP_S)
                rates[kind].append(measure(stack, window_s).rate)
    found: dict[str, Any] = {"turns_per_second": {kind: [round(rate) for rate in rates[kind]] for kind in kinds}}
    for kind in ("hot_account", "traced"):
        by_round = [one / plain for one, plain in zip(rates[kind], rates["plain"], strict=True)]
        found[f"{kind}_ratio"] = round(statistics.median(by_round), 3)
        found[f"{kind}_ratio_spread"] = [round(min(by_round), 3), round(max(by_round), 3)]
    return found


def _idle(stack: Stack) -> dict[str, float]:
    """CPU of our processes while nothing happens, as a share of a core."""
    before = cpu_s(stack)
    time.sleep(IDLE_S)
    after = cpu_s(stack)
    return {name: (after[name] - before[name]) / IDLE_S for name in PYTHON}


def _monolith(console: Console, seconds: float) -> float | None:
    if not seconds:
        return None
    console.print(f"monolith: pgbench for {seconds:.0f} s on a server of its own")
    return monolith_per_second(seconds)


def _beside_monolith(rates: Sequence[float], references: Sequence[float]) -> dict[str, Any]:
    """Throughput by that of the monolith; the spread is of the windows and of the runs of pgbench."""
    if not references:
        return {}
    reference = statistics.mean(references)
    return {
        "monolith_per_second": [round(one) for one in references],
        "monolith_ratio": round(statistics.median(rates) / reference, 3),
        "monolith_ratio_spread": [
            round(min(rates) / max(references), 3),
            round(max(rates) / min(references), 3),
        ],
    }


def _beside_chain(p50_ms: float, bare_ms: float | None) -> dict[str, Any]:
    if bare_ms is None:
        return {}
    return {"bare_chain_ms": round(bare_ms, 1), "chain_ratio": round(p50_ms / bare_ms, 2)}


def _latency(stack: Stack, seconds: float) -> dict[str, float]:
    """From request sent to completion committed, milliseconds; the warm-up is left out."""
    plan = LoadPlan(int(LATENCY_RATE * (LATENCY_WARM_UP_S + seconds)), accounts=ACCOUNTS)
    with WithdrawalClient(stack.state.kafka_bootstrap, linger_ms=LINGER_MS) as client:
        since = datetime.now(UTC).timestamp() + LATENCY_WARM_UP_S
        run_load(client, plan_load(plan), rate=LATENCY_RATE)
    wait_quiet(stack)
    with session(stack.state.dsns["saga"], autocommit=True) as connection:
        row = connection.execute(_LATENCY, (datetime.fromtimestamp(since, UTC),)).fetchone()
    assert row is not None
    return dict(zip(("p50", "p95", "p99"), row[0], strict=True))


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:,}" for rate in rates)


def _print(console: Console, result: Mapping[str, Any]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    spread, latency = result["spread"], result["latency_ms"]
    table.add_row("completed withdrawals a second (median)", f"{result['withdrawals_per_second']:,}")
    table.add_row("  lowest and highest window", f"{spread['min']:,} to {spread['max']:,}")
    table.add_row(f"latency at {LATENCY_RATE:.0f}/s, p50", f"{latency['p50']} ms")
    table.add_row("  p95", f"{latency['p95']} ms")
    table.add_row("  p99", f"{latency['p99']} ms")
    if "monolith_ratio" in result:
        low, high = result["monolith_ratio_spread"]
        table.add_row("monolith's a second, before and after", _listed(result["monolith_per_second"]))
        table.add_row(
            "  throughput by the monolith's", f"{result['monolith_ratio']:.2f} ({low:.2f} to {high:.2f})"
        )
    if "chain_ratio" in result:
        table.add_row("bare chain: 5 commits, 5 records", f"{result['bare_chain_ms']} ms")
        table.add_row("  p50 by the bare chain's", f"{result['chain_ratio']:.2f}")
    if "growth_ratio" in result:
        before, after = result["growth_us"]
        table.add_row("CPU with many stored by that with few", f"{result['growth_ratio']:.2f}")
        table.add_row("  without the broker's", f"{after:.0f} µs by {before:.0f} µs")
    for kind, words in (("hot_account", "one account by many accounts"), ("traced", "all traced by none traced")):
        if f"{kind}_ratio" in result:
            low, high = result[f"{kind}_ratio_spread"]
            table.add_row(words, f"{result[f'{kind}_ratio']:.2f} ({low:.2f} to {high:.2f})")
    table.add_row("stored for each, all databases", f"{result['bytes_per_withdrawal']:,} bytes")
    table.add_row("idle Python, the busiest", f"{max(result['idle_share_of_a_core'].values()):.1%} of a core")
    table.add_row(
        f"audit of all {result['withdrawals']:,}",
        f"{result['withdrawals']:,} " + ("ok" if result["audit_ok"] else "OFF"),
    )
    table.add_row("traced", f"{result['sampling']:.0%}")
    console.print(table)
    costs = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    costs.add_column("process", style="bold")
    costs.add_column("CPU a withdrawal", justify="right")
    costs.add_column("memory", justify="right")
    for name, cost in result["cpu_us_per_withdrawal"].items():
        memory = result["memory_mb"].get(name)
        costs.add_row(name, f"{cost:.0f} µs", f"{memory} MB" if memory else "")
    costs.add_row("together", f"{sum(result['cpu_us_per_withdrawal'].values()):.0f} µs", "")
    console.print(costs)


if __name__ == "__main__":
    typer.run(main)
