"""The relay's benchmark: outbox rows a second to Kafka, and the latency until their acknowledgement.

A backlog is written while no relay runs, then one is started as its own process (two cores hold the database, the
broker and the relay); the clock runs from the first record that Kafka has to the last. Beside it, in turn with it:
the same rows read by ``pg_recvlogical`` and discarded, which is the most that the server can send. Latency is
taken at a steady rate, from the commit of a row to the moment the relay knows that Kafka has it.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import psutil
import typer
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.cimpl import NewTopic
from rich import box
from rich.console import Console
from rich.table import Table

from broker.clients import SILENT, admin, reader
from contracts.postgres import session
from lab.benchmarks.machine import write
from outbox_relay.acknowledgements import Waits
from outbox_relay.outbox import OUTBOX
from outbox_relay.relay import READERS
from outbox_relay.source import Source
from outbox_relay.source_settings import SourceSettings
from stack.postgres import programs
from stack.supervisor import Stack

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results" / "relay.json"

TRANSACTION_ROWS = 500
PARTITIONS = 4
DEADLINE_S = 120.0
"""Time limit of every wait."""

CREATE_OUTBOX = """
    CREATE TABLE outbox (
        id uuid PRIMARY KEY DEFAULT uuidv7(), aggregatetype text NOT NULL, aggregateid text NOT NULL,
        type text NOT NULL, payload json NOT NULL, traceparent text, tracestate text,
        created_at timestamptz NOT NULL DEFAULT now())
"""
# About 170 bytes of payload; untraced, as 99 of 100 withdrawals are.
INSERT = """
    INSERT INTO outbox (aggregatetype, aggregateid, type, payload, traceparent)
    SELECT %s, 'acc-' || n %% 1000, 'MoneyDeducted',
        json_build_object('payment_id', gen_random_uuid(), 'account_id', 'acc-' || n %% 1000,
            'amount_minor', 10000, 'currency', 'USD', 'occurred_at', '2026-01-01T00:00:00.000000Z', 'number', n),
        '00-0123456789abcdef0123456789abcdef-0123456789abcdef-00'
    FROM generate_series(1, %s) AS n
"""


class Outbox:
    """A database with an outbox, and the topic that its rows go to."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.name = name
        self.bootstrap = stack.state.kafka_bootstrap
        self.dsn = stack.state.dsns["account"].rpartition("/")[0] + f"/{name}"
        with session(stack.state.dsns["account"], autocommit=True) as server:
            server.execute(f"CREATE DATABASE {name}".encode())
        self.connection = session(self.dsn, autocommit=True)
        self.connection.execute(CREATE_OUTBOX)
        client = admin(self.bootstrap)
        topic = f"{name}.events"
        client.create_topics([NewTopic(topic, PARTITIONS)])[topic].result(60)
        self._consumer = reader(self.bootstrap, "bench", logger=SILENT)
        self._places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        _wait_until(self._is_known, f"Kafka knows {topic}")

    def write(self, rows: int) -> None:
        """A backlog, in transactions of 500 rows."""
        for done in range(0, rows, TRANSACTION_ROWS):
            self.connection.execute(INSERT, (self.name, min(TRANSACTION_ROWS, rows - done)))

    def _is_known(self) -> bool:
        with suppress(KafkaException):
            return self.published() == 0
        return False

    def end(self) -> str:
        """Where the log ends."""
        row = self.connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        return str(row[0])

    def published(self) -> int:
        """How many records the topic has."""
        return sum(self._consumer.get_watermark_offsets(place, timeout=10)[1] for place in self._places)

    def close(self) -> None:
        """Leave Kafka and the database."""
        self._consumer.close()
        self.connection.close()


@contextmanager
def relay(outbox: Outbox, http_port: int = 0, **environment: str) -> Iterator[psutil.Process]:
    """The relay as a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "outbox_relay", "--bootstrap", outbox.bootstrap]
    ambient = {name: value for name, value in os.environ.items() if not name.startswith("SETTLE_")}
    # Tracing is on, so that each row is asked whether it is sampled; nothing listens there.
    settings = {
        "SETTLE_RELAY_SOURCES": outbox.dsn,
        "SETTLE_HTTP_PORT": str(http_port),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    }
    process = subprocess.Popen(command, env={**ambient, **settings, **environment}, stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


class Drain(NamedTuple):
    """What it took to publish a backlog: rate from the first to the last record; the relay's memory and CPU."""

    events_per_second: float
    memory_mb: float
    cpu_us: float


def drain(outbox: Outbox, rows: int) -> Drain:
    """Measure a relay that publishes the backlog."""
    before = outbox.published()
    with relay(outbox) as process:
        first, first_at = _wait_for(outbox, before + 1)
        # Polling costs broker and measurement a share of the two cores: some 50 polls per backlog are enough.
        _, last_at = _wait_for(outbox, before + rows, interval_s=min(max(rows / 5e6, 0.005), 0.1))
        cpu_us = sum(process.cpu_times()[:2]) / rows * 1e6
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return Drain((before + rows - first) / (last_at - first_at), peak_kb / 1e3, cpu_us)


class Raw:
    """A second slot on the same rows, which are read and discarded."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        outbox.connection.execute("SELECT pg_create_logical_replication_slot('bench_raw', 'pgoutput')")

    def forget(self) -> None:
        """Advance the slot to the end of the log."""
        self._outbox.connection.execute("SELECT pg_replication_slot_advance('bench_raw', pg_current_wal_lsn())")

    def drain(self, rows: int, end: str) -> float:
        """Events a second that the server can send, up to ``end`` of its log."""
        command: list[str | Path] = [
            programs() / "pg_recvlogical",
            "--dbname",
            self._outbox.dsn,
            "--slot",
            "bench_raw",
            "--start",
        ]
        command += ["--endpos", end, "--no-loop", "--file", "/dev/null"]
        command += ["-o", "proto_version=1", "-o", f"publication_names={OUTBOX.publication_name}"]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        return rows / (time.monotonic() - began)

    def close(self) -> None:
        """Drop the slot."""
        self._outbox.connection.execute("SELECT pg_drop_replication_slot('bench_raw')")


def _wait_for(outbox: Outbox, records: int, interval_s: float = 0.01) -> tuple[int, float]:
    """How many records there are, and when, once there are at least so many."""
    published = _wait_until(lambda: max(outbox.published() - records + 1, 0), f"{records:,} records", interval_s)
    return published + records - 1, time.monotonic()


def _wait_until(condition: Callable[[], T], what: str, interval_s: float = 0.01) -> T:
    give_up = time.monotonic() + DEADLINE_S
    while not (answer := condition()):
        if time.monotonic() > give_up:
            raise TimeoutError(f"not within {DEADLINE_S:.0f} s: {what}")
        time.sleep(interval_s)
    return answer


class Exact(Waits):
    """Every single wait, for percentiles."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def add(self, seconds: float, rows: int) -> None:
        """Keep it."""
        self.seconds += [seconds] * rows


def latency(stack: Stack, reader: str, rate: float, seconds: float) -> dict[str, float]:
    """From commit to acknowledgement at a steady rate, milliseconds; the first two seconds do not count."""
    outbox = Outbox(stack, f"latency_{reader}")
    stop = threading.Event()
    source = Source(SourceSettings(outbox.dsn, outbox.bootstrap), outbox.name, READERS[reader], stop)
    source.start()
    outbox.write(1)
    _wait_for(outbox, 1)
    warm_up_s = 2.0
    count = int(rate * (warm_up_s + seconds))
    # In a process of its own: it must not share the relay's interpreter.
    writer = get_context("spawn").Process(target=_write_steadily, args=(outbox.dsn, outbox.name, rate, count))
    writer.start()
    _wait_for(outbox, 1 + int(rate * warm_up_s))
    source.waits = waits = Exact()
    source.acks.waits = waits
    _wait_for(outbox, 1 + count)
    writer.join()
    stop.set()
    source.join(30)
    outbox.close()
    cuts = statistics.quantiles(waits.seconds, n=100)
    return {"p50": round(cuts[49] * 1e3, 1), "p99": round(cuts[98] * 1e3, 1)}


def _write_steadily(dsn: str, name: str, rate: float, count: int) -> None:
    with session(dsn, autocommit=True) as connection:
        began = time.monotonic()
        for number in range(count):
            connection.execute(INSERT, (name, 1))
            time.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))


def main(
    rows: Annotated[int, typer.Option(min=1_000, help="Rows of the backlog.")] = 300_000,
    repeats: Annotated[int, typer.Option(min=1, help="How often a backlog is drained.")] = 5,
    rate: Annotated[float, typer.Option(min=1, help="Rows a second while latency is measured.")] = 500.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long it is measured, for each reader.")] = 15.0,
    flat: Annotated[bool, typer.Option("--flat", help="Also backlogs of 10,000 and 3,000,000 rows.")] = False,
    output: Annotated[Path, typer.Option("--json", help="Where to write the figures.")] = RESULTS,
) -> None:
    """Measure the relay on an embedded stack."""
    console = Console(highlight=False)
    with (
        tempfile.TemporaryDirectory(prefix="settle-bench-") as folder,
        Stack(Path(folder), services=(), databases=["account"]) as stack,
    ):
        outbox = Outbox(stack, "bench")
        with relay(outbox):
            outbox.write(1_000)
            _wait_for(outbox, 1_000)
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
        waits_ms = {}
        for reader in READERS:
            console.print(f"latency at {rate:.0f} rows/s, read by {reader}")
            waits_ms[reader] = latency(stack, reader, rate, seconds)
    rates = [one.events_per_second for one in drains]
    result = {
        "events_per_second": round(statistics.median(rates)),
        "spread": {"min": round(min(rates)), "max": round(max(rates)), "runs": [round(rate) for rate in rates]},
        "walsender_events_per_second": round(statistics.median(raws)),
        "walsender_spread": {"min": round(min(raws)), "max": round(max(raws))},
        "ack_latency_ms": waits_ms["wal"],
        "polling_ack_latency_ms": waits_ms["polling"],
        "latency_at_rate": rate,
        "rows": rows,
        "memory_mb": round(max(one.memory_mb for one in (*drains, *by_size.values()))),
        "relay_cpu_us_per_event": round(statistics.median(one.cpu_us for one in drains), 2),
        "by_size": {
            str(size): {"events_per_second": round(one.events_per_second), "cpu_us": round(one.cpu_us, 2)}
            for size, one in by_size.items()
        },
    }
    write(output, result)
    _print(console, result)
    console.print(f"written to {output}")


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
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
