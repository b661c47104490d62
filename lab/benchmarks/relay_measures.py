"""Measures of a relay that the benchmark takes: the rate at which it drains a backlog, and its latency."""

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import psutil
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.cimpl import NewTopic

from broker.clients import SILENT, admin, reader
from contracts.postgres import session
from lab.comparison.caller import wait_for
from outbox_relay.acknowledgements import Waits
from outbox_relay.outbox import OUTBOX
from outbox_relay.source import Source
from outbox_relay.source_settings import SourceSettings
from outbox_relay.threads import READERS
from stack.postgres import programs
from stack.supervisor import Stack

TRANSACTION_ROWS = 500
PARTITIONS = 4
DEADLINE_S = 120.0
"""Time limit of every wait."""
WARM_UP_S = 2.0

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
    FROM generate_series(%s::int, %s::int) AS n
"""


class Outbox:
    """A database with an outbox, and the topic that its rows go to.

    Args:
        stack: of the database.
        name: of the database.
        kafka: where the topic is; by default, the stack's.
        partitions: of the topic.
        fencing: whether relays send in transactions.

    Attributes:
        bootstrap: which Kafka relays are given.
        fencing: as given.
    """

    def __init__(
        self,
        stack: Stack,
        name: str,
        kafka: str | None = None,
        partitions: int = PARTITIONS,
        *,
        fencing: bool = False,
    ) -> None:
        self.name = name
        self.fencing = fencing
        self.bootstrap = kafka or stack.state.kafka_bootstrap
        self.dsn = stack.state.dsns["account"].rpartition("/")[0] + f"/{name}"
        with session(stack.state.dsns["account"], autocommit=True) as server:
            server.execute(f"CREATE DATABASE {name}".encode())
        self.connection = session(self.dsn, autocommit=True)
        self.connection.execute(CREATE_OUTBOX)
        client = admin(self.bootstrap)
        topic = f"{name}.events"
        client.create_topics([NewTopic(topic, partitions)])[topic].result(60)
        self._consumer = reader(self.bootstrap, "bench", logger=SILENT)
        self._places = [TopicPartition(topic, number) for number in range(partitions)]
        wait_for(self._is_known, f"Kafka knows {topic}", DEADLINE_S)

    def write(self, rows: int) -> None:
        """A backlog, in transactions of 500 rows."""
        for done in range(0, rows, TRANSACTION_ROWS):
            self.connection.execute(INSERT, (self.name, done + 1, min(done + TRANSACTION_ROWS, rows)))

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
        "SETTLE_RELAY_FENCING": str(outbox.fencing),
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
        first, first_at = wait_published(outbox, before + 1)
        # Polling costs broker and measurement a share of the two cores: some 50 polls per backlog are enough.
        _, last_at = wait_published(outbox, before + rows, interval_s=min(max(rows / 5e6, 0.005), 0.1))
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


def wait_published(outbox: Outbox, records: int, interval_s: float = 0.01) -> tuple[int, float]:
    """How many records there are, and when, once there are at least so many."""
    published = wait_for(
        lambda: max(outbox.published() - records + 1, 0), f"{records:,} records", DEADLINE_S, interval_s
    )
    return published + records - 1, time.monotonic()


class Exact(Waits):
    """Every single wait, for percentiles, but for those of the first ``skip`` rows."""

    def __init__(self, skip: int) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._skip = skip

    def add(self, seconds: float, rows: int) -> None:
        """Keep it."""
        skipped = min(self._skip, rows)
        self._skip -= skipped
        self.seconds += [seconds] * (rows - skipped)


def latency(outbox: Outbox, reader: str, rate: float, seconds: float) -> dict[str, float]:
    """From commit to acknowledgement at a steady rate, milliseconds; the first two seconds do not count."""
    warm_up = int(rate * WARM_UP_S)
    count = warm_up + int(rate * seconds)
    stop = threading.Event()
    settings = SourceSettings(outbox.dsn, outbox.bootstrap, fencing=outbox.fencing)
    source = Source(settings, outbox.name, READERS[reader], stop)
    source.waits = waits = Exact(skip=warm_up)
    source.start()
    outbox.write(1)
    _wait_acknowledged(source, 1)
    # In a process of its own: it must not share the relay's interpreter.
    writer = get_context("spawn").Process(target=_write_steadily, args=(outbox.dsn, outbox.name, rate, count))
    writer.start()
    _wait_acknowledged(source, 1 + count)
    writer.join()
    stop.set()
    source.join(30)
    cuts = statistics.quantiles(waits.seconds, n=100)
    return {"p50": round(cuts[49] * 1e3, 1), "p99": round(cuts[98] * 1e3, 1)}


def _wait_acknowledged(source: Source, rows: int) -> None:
    wait_for(lambda: source.published_rows >= rows, f"{rows:,} rows are acknowledged", DEADLINE_S)


def _write_steadily(dsn: str, name: str, rate: float, count: int) -> None:
    with session(dsn, autocommit=True) as connection:
        began = time.monotonic()
        for number in range(count):
            connection.execute(INSERT, (name, number, number))
            time.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))
