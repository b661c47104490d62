"""Our encoder of spans, decoder of pgoutput and writer of rows, each in turn with the library's.

``--dsn`` names a database for the rows, in which a table is created and dropped. The other decoder comes with
``pip install pypgoutput psycopg2-binary``.
"""

import asyncio
import struct
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any
from uuid import uuid4

import psutil
import psycopg
import typer
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from contracts.postgres import service_connection
from outbox_relay.outbox import ROLES
from outbox_relay.pgoutput import Decoder
from processors.runtime.rows import Rows, write_rows
from tracing.otlp import encode

TURNS = 3
SPANS = 2_000
MESSAGES = 20_000
ROWS, BATCHES = 2_000, 15

TYPES = dict.fromkeys(ROLES, "text") | {"id": "uuid", "payload": "json"}
NAMES = ", ".join(TYPES)
PAYLOAD = '{"x": "' + "y" * 330 + '"}'
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def main(
    dsn: Annotated[str | None, typer.Option(help="Where to write rows. Default: none are written.")] = None,
) -> None:
    """Print CPU time an item, each three times, in turn."""
    for _ in range(TURNS):
        spans = _spans()
        _tell("span encoded", "ours", _cpu_us(partial(encode, spans), SPANS))
        _tell("span encoded", "opentelemetry", _cpu_us(partial(_encode_theirs, spans), SPANS))
        decoder = Decoder()
        decoder.decode(_relation())
        _tell("row decoded", "ours", _cpu_us(partial(_decode_all, decoder.decode), MESSAGES))
        if find_spec("pypgoutput"):
            theirs = import_module("pypgoutput.decoders").Insert
            _tell("row decoded", "pypgoutput", _cpu_us(partial(_decode_all, theirs), MESSAGES))
    if dsn:
        asyncio.run(_write(dsn))


def _tell(what: str, how: str, cpu_us: float, more: str = "") -> None:
    typer.echo(f"{what:<14} {how:<14} {cpu_us:6.1f} µs{more}")


def _cpu_us(work: Callable[[], object], items: int) -> float:
    began = time.process_time()
    work()
    return (time.process_time() - began) / items * 1e6


def _spans() -> list[ReadableSpan]:
    resource, scope = Resource({"service.name": "settle-account"}), InstrumentationScope("settle")
    return [
        ReadableSpan(
            "process withdrawal.requests",
            SpanContext(number, number, False, TraceFlags(1)),
            SpanContext(number, number + 1, True, TraceFlags(1)),
            resource,
            {
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": "withdrawal.requests",
                "messaging.consumer.group.name": "settle-account",
                "messaging.destination.partition.id": "3",
                "messaging.kafka.offset": number,
                "messaging.kafka.message.key": f"acc-{number}",
                "messaging.message.id": str(uuid4()),
                "messaging.batch.message_count": 200,
                "server.address": "127.0.0.1",
                "server.port": 9092,
                "settle.payment_id": str(uuid4()),
                "settle.event_type": "WithdrawalRequested",
            },
            kind=SpanKind.CONSUMER,
            instrumentation_scope=scope,
            start_time=time.time_ns(),
            end_time=time.time_ns(),
        )
        for number in range(1, SPANS + 1)
    ]


def _encode_theirs(spans: list[ReadableSpan]) -> bytes:
    return bytes(encode_spans(spans).SerializeToString())


def _relation() -> bytes:
    """The announcement of an outbox of text columns, as the server sends it."""
    columns = b"".join(b"\0" + name.encode() + b"\0" + struct.pack(">Ii", 25, -1) for name in ROLES)
    return b"R" + struct.pack(">I", 1) + b"public\0outbox\0d" + struct.pack(">H", len(ROLES)) + columns


def _decode_all(decode: Callable[[bytes], object]) -> None:
    values = (str(uuid4()), "account", "acc-1", "MoneyDeducted", PAYLOAD, TRACEPARENT, "")
    columns = b"".join(b"t" + struct.pack(">I", len(value)) + value.encode() for value in values)
    message = b"I" + struct.pack(">I", 1) + b"N" + struct.pack(">H", len(values)) + columns
    for _ in range(MESSAGES):
        decode(message)


async def _write(dsn: str) -> None:
    table = Rows("settle_rows", **TYPES)
    insert = f"INSERT INTO settle_rows ({NAMES}) VALUES ({', '.join(['%s'] * len(TYPES))})"  # noqa: S608 made of constants
    async with await service_connection(dsn, "settle-benchmark", psycopg.AsyncConnection) as connection:

        async def one_by_one(rows: list[tuple[Any, ...]]) -> None:
            await connection.cursor().executemany(insert, rows)

        async def in_arrays(rows: list[tuple[Any, ...]]) -> None:
            await write_rows(connection, table.insert_missing(rows))

        async def by_copy(rows: list[tuple[Any, ...]]) -> None:
            await write_rows(connection, table.insert(rows))

        columns = ", ".join(f"{name} {kind}" for name, kind in TYPES.items())
        await connection.execute(f"CREATE TABLE settle_rows ({columns}, PRIMARY KEY (id))")
        backend = psutil.Process(connection.info.backend_pid)
        try:
            for _ in range(TURNS):
                for write in (one_by_one, in_arrays, by_copy):
                    batches = [[_row() for _ in range(ROWS)] for _ in range(BATCHES)]
                    log, server_s, client_s = await _log(connection), _cpu_s(backend), time.process_time()
                    for rows in batches:
                        async with connection.transaction():
                            await write(rows)
                    count = ROWS * BATCHES
                    client_us = (time.process_time() - client_s) / count * 1e6
                    server_us = (_cpu_s(backend) - server_s) / count * 1e6
                    log_bytes = (await _log(connection) - log) / count
                    _tell(
                        "row written",
                        write.__name__,
                        client_us,
                        f", server {server_us:.1f} µs, log {log_bytes:.0f} B",
                    )
        finally:
            await connection.execute("DROP TABLE settle_rows")


def _row() -> tuple[Any, ...]:
    return (uuid4(), "account", "acc-1", "MoneyDeducted", PAYLOAD, TRACEPARENT, None)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _log(connection: psycopg.AsyncConnection) -> int:
    cursor = await connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    (position,) = await cursor.fetchone() or (0,)
    return int(position)


if __name__ == "__main__":
    typer.run(main)
