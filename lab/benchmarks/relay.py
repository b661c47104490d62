"""The relay's benchmark: outbox rows a second to Kafka, and the latency until their acknowledgement.

A backlog is written while no relay runs, then one is started as its own process (two cores hold the database, the
broker and the relay); the clock runs from the first record that Kafka has to the last. Beside it, in turn with it:
the same rows read by ``pg_recvlogical`` and discarded, which is the most that the server can send. Latency is
taken at a steady rate, from the commit of a row to the moment the relay knows that Kafka has it.

Then Debezium in Kafka Connect drains backlogs of the same rows, where Maven is reached.

Then the same on a cluster of three brokers, with a topic of 12 partitions, in turn from next to it and from far
away: through proxies that delay each byte.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lab.benchmarks.debezium import measure as measure_debezium
from lab.benchmarks.load import in_turn
from lab.benchmarks.machine import write
from lab.benchmarks.relay_measures import Drain, Outbox, Raw, drain, latency, relay, wait_published
from lab.cluster import Cluster
from outbox_relay.threads import READERS
from stack.supervisor import Stack

CLUSTER_PARTITIONS = 12
RESULTS = Path(__file__).parent / "results" / "relay.json"


def main(
    rows: Annotated[int, typer.Option(min=1_000, help="Rows of the backlog.")] = 300_000,
    repeats: Annotated[int, typer.Option(min=1, help="How often a backlog is drained.")] = 5,
    rate: Annotated[float, typer.Option(min=1, help="Rows a second while latency is measured.")] = 500.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long it is measured, for each reader.")] = 15.0,
    delay_ms: Annotated[
        float, typer.Option(min=0, help="How far away the cluster is, each way, milliseconds.")
    ] = 5.0,
    fencing: Annotated[bool, typer.Option("--fencing", help="Send in transactions.")] = False,
    flat: Annotated[bool, typer.Option("--flat", help="Also backlogs of 10,000 and 3,000,000 rows.")] = False,
    output: Annotated[Path, typer.Option("--json", help="Where to write the figures.")] = RESULTS,
) -> None:
    """Measure the relay on an embedded stack."""
    console = Console(highlight=False)
    with (
        tempfile.TemporaryDirectory(prefix="settle-bench-") as folder,
        Stack(Path(folder), services=(), databases=["account"]) as stack,
    ):
        outbox = Outbox(stack, "bench", fencing=fencing)
        with relay(outbox):
            outbox.write(1_000)
            wait_published(outbox, 1_000)
        raw = Raw(outbox)
        drains: list[Drain] = []
        raws: list[float] = []
        for number in range(repeats):
            raw.forget()
            outbox.write(rows)
            end = outbox.end()
            console.print(f"backlog of {rows:,} rows, {number + 1} of {repeats}")
            # In turn, so that neither always follows the other.
            if number % 2:
                raws.append(raw.drain(rows, end))
            drains.append(drain(outbox, rows))
            if not number % 2:
                raws.append(raw.drain(rows, end))
            outbox.connection.execute("TRUNCATE outbox")
        by_size = {}
        for size in (10_000, 3_000_000) if flat else ():
            outbox.write(size)
            console.print(f"backlog of {size:,} rows")
            by_size[size] = drain(outbox, size)
        raw.close()
        outbox.close()
        debezium = measure_debezium(stack, Path(folder) / "connect", rows, repeats, console.print)
        waits_ms = {}
        for reader in READERS:
            console.print(f"latency at {rate:.0f} rows/s, read by {reader}")
            one = Outbox(stack, f"latency_{reader}", fencing=fencing)
            waits_ms[reader] = latency(one, reader, rate, seconds)
            one.close()
        cluster = on_cluster(
            console, stack, Path(folder) / "cluster", rows, repeats, rate, seconds, delay_ms, fencing=fencing
        )
    rates = [one.events_per_second for one in drains]
    result = {
        "events_per_second": round(statistics.median(rates)),
        "spread": _spread(drains),
        "walsender_events_per_second": round(statistics.median(raws)),
        "walsender_spread": {"min": round(min(raws)), "max": round(max(raws))},
        "ack_latency_ms": waits_ms["wal"],
        "polling_ack_latency_ms": waits_ms["polling"],
        "latency_at_rate": rate,
        "fencing": fencing,
        "rows": rows,
        "memory_mb": round(max(one.memory_mb for one in (*drains, *by_size.values()))),
        "relay_cpu_us_per_event": round(statistics.median(one.cpu_us for one in drains), 2),
        "by_size": {
            str(size): {"events_per_second": round(one.events_per_second), "cpu_us": round(one.cpu_us, 2)}
            for size, one in by_size.items()
        },
        "debezium": debezium,
        "cluster": cluster,
    }
    write(output, result)
    _print(console, result)
    console.print(f"written to {output}")


def on_cluster(
    console: Console,
    stack: Stack,
    folder: Path,
    rows: int,
    repeats: int,
    rate: float,
    seconds: float,
    delay_ms: float,
    *,
    fencing: bool,
) -> dict[str, Any]:
    """Measure the relay with three brokers: on loopback, and so far away."""
    folder.mkdir()
    with Cluster(folder, delay_ms) as cluster:
        places = {"loopback": cluster.bootstrap, "delayed": cluster.far_bootstrap}
        outboxes = {
            place: Outbox(stack, f"bench_{place}", kafka, CLUSTER_PARTITIONS, fencing=fencing)
            for place, kafka in places.items()
        }
        drains: dict[str, list[Drain]] = {place: [] for place in places}
        for outbox in outboxes.values():
            with relay(outbox):
                outbox.write(1_000)
                wait_published(outbox, 1_000)
        for number in range(repeats):
            console.print(f"three brokers, backlog of {rows:,} rows, {number + 1} of {repeats}")
            for place in in_turn(tuple(outboxes), number):
                outbox = outboxes[place]
                outbox.write(rows)
                drains[place].append(drain(outbox, rows))
                outbox.connection.execute("TRUNCATE outbox")
        waits_ms = {}
        for place, kafka in places.items():
            console.print(f"three brokers, {place}, latency at {rate:.0f} rows/s")
            outbox = Outbox(stack, f"latency_{place}", kafka, CLUSTER_PARTITIONS, fencing=fencing)
            waits_ms[place] = latency(outbox, "wal", rate, seconds)
            outbox.close()
        for outbox in outboxes.values():
            outbox.close()
    figures = {
        place: {
            "events_per_second": round(statistics.median(one.events_per_second for one in drains[place])),
            "spread": _spread(drains[place]),
            "ack_latency_ms": waits_ms[place],
        }
        for place in places
    }
    return {"brokers": 3, "partitions": CLUSTER_PARTITIONS, "delay_ms": delay_ms, **figures}


def _spread(drains: Sequence[Drain]) -> dict[str, Any]:
    rates = [round(one.events_per_second) for one in drains]
    return {"min": min(rates), "max": max(rates), "runs": rates}


def _print(console: Console, result: Mapping[str, Any]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    spread, raw = result["spread"], result["walsender_spread"]
    table.add_row(f"events a second, backlog of {result['rows']:,} (median)", f"{result['events_per_second']:,}")
    table.add_row("  lowest and highest", f"{spread['min']:,} to {spread['max']:,}")
    table.add_row("the server alone, to nothing (median)", f"{result['walsender_events_per_second']:,}")
    table.add_row("  lowest and highest", f"{raw['min']:,} to {raw['max']:,}")
    for size, one in result["by_size"].items():
        table.add_row(f"events a second, backlog of {int(size):,}", f"{one['events_per_second']:,}")
        table.add_row("  CPU of the relay an event", f"{one['cpu_us']} µs")
    table.add_row("CPU of the relay an event", f"{result['relay_cpu_us_per_event']} µs")
    table.add_row("memory of the relay at its peak", f"{result['memory_mb']} MB")
    for way, key in (("wal", "ack_latency_ms"), ("polling", "polling_ack_latency_ms")):
        table.add_row(
            f"commit to acknowledgement at {result['latency_at_rate']:.0f}/s, {way}, p50",
            f"{result[key]['p50']} ms",
        )
        table.add_row("  p99", f"{result[key]['p99']} ms")
    debezium = result["debezium"]
    if isinstance(debezium, str):
        table.add_row("Debezium", debezium)
    else:
        table.add_row(
            f"Debezium {debezium['version']}, events a second (median)", f"{debezium['events_per_second']:,}"
        )
        table.add_row("  of the worker's first backlog", f"{debezium['first']:,}")
    cluster = result["cluster"]
    for place, words in (("loopback", "on loopback"), ("delayed", f"{cluster['delay_ms']:g} ms away")):
        figures = cluster[place]
        table.add_row(f"three brokers {words}, events a second (median)", f"{figures['events_per_second']:,}")
        table.add_row("  lowest and highest", f"{figures['spread']['min']:,} to {figures['spread']['max']:,}")
        table.add_row("  commit to acknowledgement, p50", f"{figures['ack_latency_ms']['p50']} ms")
        table.add_row("  p99", f"{figures['ack_latency_ms']['p99']} ms")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
