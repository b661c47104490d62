"""Load on an embedded stack, and what it does there: completed withdrawals, CPU by process, bytes stored."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TypeVar

import psutil
import psycopg
from confluent_kafka import TopicPartition

import tracing
from broker.clients import reader
from contracts.postgres import session
from contracts.topics import WITHDRAWAL_EVENTS
from processors.account.accounts import open_accounts
from producers.client import LINGER_UNDER_LOAD_MS, WithdrawalClient
from producers.load import run_load
from producers.plan import LoadPlan, Planned, plan_load
from stack.names import SERVERS
from stack.postgres import USER
from stack.supervisor import Stack
from tracing.setup import TracingSettings

ACCOUNTS = 1_000
BALANCE_MINOR = 100_000_000_000
UNDER_WAY_MAX = 20_000
"""Withdrawals under way at the most: enough to keep every part busy, never a growing backlog."""

WATCH_S = 0.05
FINISH_S = 120.0

T = TypeVar("T")

_COMPLETED = "SELECT count(*) FROM withdrawals WHERE finished_at >= %s AND finished_at < %s"
_STORED = "SELECT pg_database_size(current_database())"


def open_all(stack: Stack) -> None:
    """Open the accounts that the load withdraws from."""
    names = [f"acc-{number}" for number in range(1, ACCOUNTS + 1)]
    open_accounts(stack.state.dsns["account"], names, BALANCE_MINOR, "USD")


def trace(endpoint: str, ratio: float) -> None:
    """Trace a share of the requests made from here on, and send the spans to a collector."""
    tracing.configure(
        "producer", settings=TracingSettings(exporter_otlp_endpoint=endpoint, traces_sampler_arg=ratio)
    )


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


@contextmanager
def load(stack: Stack, *, accounts: int = ACCOUNTS, under_way_max: int = UNDER_WAY_MAX) -> Iterator[None]:
    """Keep a stack busy meanwhile, with a bounded number of withdrawals under way; then let all of them finish."""
    watch, ended = Watch(stack.state.kafka_bootstrap), threading.Event()
    messages = bounded(plan_load(LoadPlan(10**9, accounts=accounts)), watch, ended, under_way_max)
    with (
        WithdrawalClient(stack.state.kafka_bootstrap, linger_ms=LINGER_UNDER_LOAD_MS) as client,
        ThreadPoolExecutor(1, "load") as thread,
    ):
        report = thread.submit(run_load, client, messages)
        try:
            yield
        finally:
            ended.set()
        report.result()
    watch.close()
    wait_quiet(stack)


def bounded(
    messages: Iterator[Planned], watch: Watch, ended: threading.Event, under_way_max: int
) -> Iterator[Planned]:
    """Pass messages on until told to end, with a bounded number of them unfinished."""
    done_before = watch.completed()
    for number, message in enumerate(messages):
        if number % 64 == 0:
            while number - (watch.completed() - done_before) > under_way_max and not ended.is_set():
                time.sleep(WATCH_S)
            if ended.is_set():
                return
        yield message


class Window:
    """What a stack did from one moment on, until :meth:`close`.

    Attributes:
        rate: completed withdrawals a second.
        cost_us: CPU of one withdrawal by process, microseconds.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._began = datetime.now(UTC)
        self._before = cpu_s(stack)
        self.rate = 0.0
        self.cost_us: dict[str, float] = {}

    def close(self) -> None:
        """End the window: it is measured."""
        after, ended = cpu_s(self._stack), datetime.now(UTC)
        with session(self._stack.state.dsns["saga"], autocommit=True) as connection:
            number = completed(connection, self._began, ended)
        self.rate = number / (ended - self._began).total_seconds()
        used = {name: seconds - self._before.get(name, 0.0) for name, seconds in after.items()}
        self.cost_us = {name: seconds / max(number, 1) * 1e6 for name, seconds in used.items()}


def measure(stack: Stack, seconds: float) -> Window:
    """The window of this length that begins now."""
    found = Window(stack)
    time.sleep(seconds)
    found.close()
    return found


def in_turn(kinds: Sequence[T], number: int) -> Sequence[T]:
    """What is compared, in the order of a round: each comes first, second and last equally often."""
    shift = number % len(kinds)
    order = (*kinds[shift:], *kinds[:shift])
    return order if number // len(kinds) % 2 == 0 else order[::-1]


def completed(connection: psycopg.Connection, began: datetime, ended: datetime) -> int:
    """How many withdrawals were finished between two times, by the saga's clock."""
    row = connection.execute(_COMPLETED, (began, ended)).fetchone()
    return int(row[0]) if row else 0


def wait_quiet(stack: Stack) -> None:
    """Wait until every withdrawal is finished, for :data:`FINISH_S` at the most."""
    deadline = time.monotonic() + FINISH_S
    with session(stack.state.dsns["saga"], autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute("SELECT count(*) FROM withdrawals WHERE finished_at IS NULL").fetchone()
            if row is not None and row[0] == 0:
                return
            time.sleep(0.2)


def stored_bytes(stack: Stack) -> int:
    """The size of all databases."""
    size = 0
    for dsn in stack.state.dsns.values():
        with session(dsn, autocommit=True) as connection:
            row = connection.execute(_STORED).fetchone()
            size += int(row[0]) if row else 0
    return size


def cpu_s(stack: Stack) -> Mapping[str, float]:
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
