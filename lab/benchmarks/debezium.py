"""Debezium in Kafka Connect with its outbox event router, measured as the relay is: a backlog of the same rows."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lab.benchmarks.relay_measures import Outbox, wait_published
from lab.comparison.caller import wait_for
from lab.connect import DEBEZIUM, Connect
from stack.errors import StackError
from stack.supervisor import Stack

STRING = "org.apache.kafka.connect.storage.StringConverter"
SLOT_FREE_S = 60.0
FLAGS = ("-Xms1g", "-Xmx1g", "-XX:-UsePerfData")
# Batches as large as the relay's, and a queue that holds some: with its defaults it is slower.
TUNED = {
    "max.batch.size": "20000",
    "max.queue.size": "100000",
    "poll.interval.ms": "50",
    "producer.override.batch.size": "500000",
    "producer.override.linger.ms": "20",
    "producer.override.compression.type": "lz4",
    "producer.override.buffer.memory": "67108864",
}


def measure(
    stack: Stack, folder: Path, rows: int, repeats: int, say: Callable[[str], None]
) -> dict[str, Any] | str:
    """Events a second from backlogs, of a worker that has just started, and once it is warm.

    Args:
        stack: its PostgreSQL and Kafka.
        folder: for the worker's files; it is made.
        rows: of a backlog.
        repeats: how many backlogs.
        say: is told what is being measured.

    Returns:
        The figures; or why there are none, where Debezium is not reached.
    """
    folder.mkdir()
    try:
        worker = Connect(stack.state.kafka_bootstrap, folder, flags=FLAGS)
    except StackError as error:
        return f"not reached: {error}"
    try:
        outbox = Outbox(stack, "debezium")
        outbox.connection.execute("CREATE PUBLICATION debezium FOR TABLE outbox WITH (publish = 'insert')")
        outbox.connection.execute("SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')")
        rates = []
        for number in range(repeats):
            say(f"Debezium, backlog of {rows:,} rows, {number + 1} of {repeats}")
            rates.append(_drain(worker, outbox, rows))
            outbox.connection.execute("TRUNCATE outbox")
        outbox.close()
    finally:
        worker.close()
    return {
        "version": DEBEZIUM,
        "events_per_second": round(statistics.median(rates)),
        "first": round(rates[0]),
        "runs": [round(rate) for rate in rates],
    }


def _drain(worker: Connect, outbox: Outbox, rows: int) -> float:
    """Events a second from the first record to the last."""
    before = outbox.published()
    outbox.write(rows)
    worker.begin("outbox", _connector(outbox))
    first, first_at = wait_published(outbox, before + 1)
    _, last_at = wait_published(outbox, before + rows, interval_s=0.05)
    worker.end("outbox")
    wait_for(lambda: not _is_read(outbox), "the slot is free", SLOT_FREE_S)
    return (before + rows - first) / (last_at - first_at)


def _is_read(outbox: Outbox) -> bool:
    query = "SELECT active FROM pg_replication_slots WHERE slot_name = 'debezium'"
    return bool((outbox.connection.execute(query).fetchone() or (False,))[0])


def _connector(outbox: Outbox) -> dict[str, str]:
    url = urlsplit(outbox.dsn)
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": url.hostname or "",
        "database.port": str(url.port),
        "database.user": url.username or "",
        "database.password": url.password or "",
        "database.dbname": outbox.name,
        "topic.prefix": "bench",
        "plugin.name": "pgoutput",
        "slot.name": "debezium",
        "publication.name": "debezium",
        "publication.autocreate.mode": "disabled",
        "table.include.list": "public.outbox",
        "snapshot.mode": "no_data",
        "tombstones.on.delete": "false",
        "key.converter": STRING,
        "value.converter": STRING,
        "header.converter": STRING,
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.table.fields.additional.placement": "type:header:eventType,traceparent:header",
        "transforms.outbox.route.topic.replacement": f"{outbox.name}.events",
        **TUNED,
    }
