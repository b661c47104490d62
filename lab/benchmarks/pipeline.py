"""The benchmark of the whole pipeline: throughput, latency and CPU time per withdrawal.

Throughput is taken at steady state: the load generator keeps a bounded number of withdrawals under way, and what
counts is how many were completed, by the saga's own clock, in each of several windows. Latency is taken at a low
rate: from the moment a request is sent to the commit of its ``WithdrawalCompleted``, as PostgreSQL recorded it.

Machines differ, so both have a reference that is measured in the same run: a monolith's transactions by pgbench,
before and after, and the bare chain of commits and records that a withdrawal takes.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import psutil
import psycopg
import typer
from confluent_kafka import TopicPartition
from rich import box
from rich.console import Console
from rich.table import Table

import tracing
from broker.clients import reader
from contracts.postgres import session
from contracts.topics import WITHDRAWAL_EVENTS
from lab.benchmarks.chain import chain_ms
from lab.benchmarks.machine import write
from lab.benchmarks.monolith import monolith_per_second
from operations.audit.run import run as run_audit
from processors.account.accounts import open_accounts
from producers.client import LINGER_MS, LINGER_UNDER_LOAD_MS, WithdrawalClient
from producers.load import run_load
from producers.plan import LoadPlan, Planned, plan_load
from stack.postgres import SERVERS, USER
from stack.supervisor import Stack
from tracing.collector import SpanCollector
from tracing.setup import TracingSettings

RESULTS = Path(__file__).parent / "results" / "latest.json"

ACCOUNTS = 1_000
BALANCE_MINOR = 100_000_000_000
UNDER_WAY_MAX = 20_000
"""Withdrawals under way at the most: enough to keep every part busy, never a growing backlog."""

LATENCY_RATE = 200.0
LATENCY_WARM_UP_S = 60.0
"""Until the broker's Java has compiled what it needs."""
WATCH_S = 0.05
AUDIT_WAIT_S = 120.0

_COMPLETED = "SELECT count(*) FROM withdrawals WHERE finished_at >= %s AND finished_at < %s"

# The closing event is stored by the transaction that completes the withdrawal.
_LATENCY = """
SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM took) * 1000) FROM (
    SELECT pg_xact_commit_timestamp(c.xmin) - (r.payload->>'occurred_at')::timestamptz AS took
    FROM event_store r JOIN event_store c USING (payment_id)
    WHERE r.type = 'WithdrawalRequested' AND c.type = 'WithdrawalCompleted'
        AND (r.payload->>'occurred_at')::timestamptz >= %s) AS t
"""


class Watch:
    """Counts completed withdrawals by the length of ``withdrawal.events``."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = reader(bootstrap, "bench")
        partitions = (
            self._consumer.list_topics(WITHDRAWAL_EVENTS.name, 10).topics[WITHDRAWAL_EVENTS.name].partitions
        )
        self._places = [TopicPartition(WITHDRAWAL_EVENTS.name, partition) for partition in partitions]
        self._asked_at = 0.0
        self._completed = 0

    def completed(self) -> int:
        """Records on the topic, at most 50 ms old."""
        if time.monotonic() - self._asked_at > WATCH_S:
            self._completed = sum(
                self._consumer.get_watermark_offsets(place, timeout=10)[1] for place in self._places
            )
            self._asked_at = time.monotonic()
        return self._completed

    def close(self) -> None:
        """Leave Kafka."""
        self._consumer.close()


def bounded(
    messages: Iterator[Planned], watch: Watch, until: float, under_way_max: int = UNDER_WAY_MAX
) -> Iterator[Planned]:
    """Pass messages on until the time is up, with a bounded number of them unfinished."""
    done_before = watch.completed()
    for number, message in enumerate(messages):
        if number % 64 == 0:
            while number - (watch.completed() - done_before) > under_way_max:
                if time.monotonic() > until:
                    return
                time.sleep(WATCH_S)
            if time.monotonic() > until:
                return
        yield message


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
    output: Annotated[Path, typer.Option("--json", help="Where to write the figures.")] = RESULTS,
) -> None:
    """Measure the pipeline on an embedded stack."""
    console = Console(highlight=False)
    references = [_monolith(console, monolith)]
    with tempfile.TemporaryDirectory(prefix="settle-bench-") as folder, SpanCollector(spans_max=0) as collector:
        environment = {"SETTLE_MAILER": "off"}
        if sampling:
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.endpoint
        settings = {"track_commit_timestamp": "on"}
        with Stack(Path(folder), environment=environment, postgres_settings=settings) as stack:
            if sampling:
                traced = TracingSettings(exporter_otlp_endpoint=collector.endpoint, traces_sampler_arg=sampling)
                tracing.configure("producer", settings=traced)
            names = [f"acc-{number}" for number in range(1, ACCOUNTS + 1)]
            open_accounts(stack.state.dsns["account"], names, BALANCE_MINOR, "USD")
            console.print(
                f"latency at {LATENCY_RATE:.0f}/s: {LATENCY_WARM_UP_S:.0f} s to warm up, {latency:.0f} s"
            )
            latency_ms = _latency(stack, latency)
            bare_ms = chain_ms(stack.state.dsns["saga"], stack.state.kafka_bootstrap, chain) if chain else None
            console.print(f"load for {warm_up:.0f} s to warm up, then {repeats} windows of {window:.0f} s")
            rates, cost_us = _throughput(stack, warm_up, window, repeats)
            console.print("audit")
            audit = run_audit(stack.state.dsns, stack.state.kafka_bootstrap, AUDIT_WAIT_S)
            memory_mb = {
                name: psutil.Process(pid).memory_info().rss / 1e6 for name, pid in stack.state.pids.items()
            }
        tracing.shutdown()
    references.append(_monolith(console, monolith))
    result = {
        "withdrawals_per_second": round(statistics.median(rates)),
        "spread": {"min": round(min(rates)), "max": round(max(rates)), "windows": [round(rate) for rate in rates]},
        "latency_ms": {name: round(value, 1) for name, value in latency_ms.items()},
        "latency_at_rate": LATENCY_RATE,
        **_beside_monolith(rates, [rate for rate in references if rate is not None]),
        **_beside_chain(latency_ms["p50"], bare_ms),
        "audit_ok": audit.ok,
        "withdrawals": audit.withdrawals,
        "sampling": sampling,
        "cpu_us_per_withdrawal": {name: round(cost, 1) for name, cost in cost_us.items()},
        "memory_mb": {name: round(memory) for name, memory in memory_mb.items()},
    }
    write(output, result)
    _print(console, result)
    console.print(f"written to {output}")
    if not audit.ok:
        console.print([check for check in audit.checks if not check.ok])
        raise typer.Exit(1)


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


def _throughput(
    stack: Stack, warm_up_s: float, window_s: float, repeats: int
) -> tuple[list[float], dict[str, float]]:
    """Completed withdrawals per second in each window, and microseconds of CPU per withdrawal by process."""
    watch = Watch(stack.state.kafka_bootstrap)
    plan = LoadPlan(10**9, accounts=ACCOUNTS)
    started = datetime.now(UTC).timestamp()
    until = time.monotonic() + warm_up_s + window_s * repeats
    marks: dict[float, dict[str, float]] = {}

    def on_progress(_: object) -> None:
        now = datetime.now(UTC).timestamp()
        for edge in (warm_up_s, warm_up_s + window_s * repeats - 0.5):
            if now - started >= edge and edge not in marks:
                marks[edge] = {"at": now, **cpu_s(stack)}

    with WithdrawalClient(stack.state.kafka_bootstrap, linger_ms=LINGER_UNDER_LOAD_MS) as client:
        run_load(client, bounded(plan_load(plan), watch, until), on_progress=on_progress)
    watch.close()
    with session(stack.state.dsns["saga"], autocommit=True) as connection:
        edges = [started + warm_up_s + window_s * number for number in range(repeats + 1)]
        rates = [completed(connection, a, b) / window_s for a, b in pairwise(edges)]
        first, last = (marks[edge] for edge in sorted(marks))
        number = completed(connection, first["at"], last["at"])
    return rates, {name: (last[name] - first[name]) / number * 1e6 for name in first if name != "at"}


def completed(connection: psycopg.Connection, from_s: float, to_s: float) -> int:
    """How many withdrawals were finished between two times, seconds since the epoch, by the saga's clock."""
    values = (datetime.fromtimestamp(from_s, UTC), datetime.fromtimestamp(to_s, UTC))
    row = connection.execute(_COMPLETED, values).fetchone()
    return int(row[0]) if row else 0


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


def wait_quiet(stack: Stack) -> None:
    """Wait until every withdrawal is finished, for :data:`AUDIT_WAIT_S` at the most."""
    deadline = time.monotonic() + AUDIT_WAIT_S
    with session(stack.state.dsns["saga"], autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute("SELECT count(*) FROM withdrawals WHERE finished_at IS NULL").fetchone()
            if row is not None and row[0] == 0:
                return
            time.sleep(0.2)


def cpu_s(stack: Stack) -> dict[str, float]:
    """CPU seconds so far, by part; PostgreSQL's by what its processes do, the load generator's as ``load``."""
    seconds: dict[str, float] = {}
    for name, pid in stack.state.pids.items():
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # a worker of PostgreSQL's that has just ended
                part = _postgres_part(member) if name in SERVERS.values() else name
                seconds[part] = seconds.get(part, 0.0) + sum(member.cpu_times()[:2])
    seconds["load"] = sum(psutil.Process().cpu_times()[:2])
    return seconds


def _postgres_part(member: psutil.Process) -> str:
    """``postgres: walsenders``, ``postgres: `` and the database that a backend serves, or ``postgres``."""
    kind, title, *more = [*" ".join(member.cmdline()).split(), "", ""]
    if kind != "postgres:":
        return "postgres"
    if title == "walsender":  # one that has just ended has no title
        return "postgres: walsenders"
    return f"postgres: {more[0]}" if title == USER else "postgres"


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
