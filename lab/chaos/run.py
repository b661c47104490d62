"""A chaos run: start, load, faults at their times, quiescence, verdict."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import msgspec

import tracing
from contracts.postgres import session
from lab.chaos import verdict
from lab.chaos.arming import Arming
from lab.chaos.faults import Faults, Watchdog
from lab.chaos.operators import Operators
from lab.chaos.plan import FAILPOINT, REPEAT, Options, plan
from lab.chaos.verdict import Done, Latency
from operations.audit.run import Audit, Check
from operations.audit.run import run as run_audit
from processors.account.accounts import open_accounts
from producers.client import WithdrawalClient
from producers.load import LoadReport, run_load
from producers.plan import INSUFFICIENT_AMOUNT_MINOR, LoadPlan, Planned, plan_load
from stack.supervisor import SERVICES, Stack
from tracing.collector import SpanCollector
from tracing.setup import TracingSettings

ACCOUNTS_MIN = 200
REQUESTS_PER_ACCOUNT_MAX = 10_000
BALANCE_MINOR = INSUFFICIENT_AMOUNT_MINOR - 1
"""Enough for all requests of up to 100.00, and less than the amounts that are to be rejected."""

DECLINED, INSUFFICIENT, TWICE = 0.05, 0.05, 0.1
TRACES = 300
"""Withdrawals sampled, about; a trace has some 25 spans, which stay in memory."""

AFTERWARDS = 20
"""Requests after all faults, every one traced."""

_FINISHED = "SELECT count(*) FROM withdrawals WHERE finished_at IS NOT NULL"

DELIVERY_S = 120.0
READY_S = 90.0
QUIET_S = 120.0
TICK_S = 0.2

PROVIDER_FAULTS = {"SETTLE_PROVIDER_OUTAGE_SHARE": "0.1", "SETTLE_PROVIDER_LATENCY_MS": "20"}


class Report(msgspec.Struct):
    """The report of a run.

    Attributes:
        ok: the verdict.
        options: what was asked for.
        faults: what was injected, when, and the recovery time of each.
        checks: the checks of the verdict.
        audit: the audit's own checks.
        sent: requests, repeats among them.
        latency: from request to end.
        deaths: processes that ended, for any reason.
    """

    ok: bool
    options: Options
    faults: list[Done]
    checks: list[Check]
    audit: Audit
    sent: int
    latency: Latency
    deaths: int


class Note(msgspec.Struct, frozen=True):
    """Something a person may want to see while it runs; the time in seconds after the load began."""

    at_s: float
    text: str


OnNote = Callable[[Note], None]


def run(options: Options, folder: Path, on_note: OnNote = lambda _: None) -> Report:
    """Run load and faults on a stack of its own.

    Args:
        options: what is asked for.
        folder: the stack's data folder.
        on_note: called with each event.

    Raises:
        StackError: the stack cannot be started.
    """
    arming = Arming()
    with SpanCollector() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        environment |= PROVIDER_FAULTS if options.provider_faults else {}
        with Stack(
            folder,
            services=SERVICES,
            environment=environment,
            command=arming,
            secure=options.secure,
            note=lambda _: None,
        ) as stack:
            names = [f"acc-{number}" for number in range(1, _accounts(options) + 1)]
            open_accounts(stack.state.dsns["account"], names, BALANCE_MINOR, "USD")
            operators = Operators(stack, arming)
            _trace(collector, min(1.0, TRACES / (options.rate * options.duration_s)))
            with Load(stack, options) as load:
                with Watchdog(stack) as watchdog:
                    done = _inject(options, Faults(stack, arming, operators.kinds), load, on_note)
                    load.finish()
                    on_note(Note(load.elapsed_s, "the load is over; waiting until every withdrawal is finished"))
                    _wait_until_quiet(stack, load)
                _note_when_struck(done, watchdog.deaths)
                _trace(collector, 1.0)
                on_note(Note(load.elapsed_s, f"{AFTERWARDS} more requests, which nothing disturbs"))
                load.afterwards()
            tracing.shutdown()
            return _judge(options, stack, collector, load, done, operators.planted, len(watchdog.deaths))


def _accounts(options: Options) -> int:
    return max(ACCOUNTS_MIN, round(options.rate * options.duration_s / REQUESTS_PER_ACCOUNT_MAX))


def _trace(collector: SpanCollector, share: float) -> None:
    settings = TracingSettings(exporter_otlp_endpoint=collector.endpoint, traces_sampler_arg=share)
    tracing.configure("producer", settings=settings)


class Load:
    """Requests at a steady rate, in a thread of its own; stopped when the block is left."""

    def __init__(self, stack: Stack, options: Options) -> None:
        self.asked: dict[UUID, int] = {}
        self._stop = threading.Event()
        self._rate = options.rate
        duplicates = TWICE if options.duplicates else 0.0
        count = round(options.rate * options.duration_s / (1 + duplicates))
        self._plan = LoadPlan(
            count,
            _accounts(options),
            duplicates=duplicates,
            declined=DECLINED,
            insufficient=INSUFFICIENT,
            seed=options.seed,
        )
        # A long timeout: the broker will be away for a while.
        self._client = WithdrawalClient(stack.state.kafka_bootstrap, delivery_timeout_s=DELIVERY_S)
        self._pool = ThreadPoolExecutor(1, "load")
        self._running: Future[LoadReport]
        self.report: LoadReport

    def __enter__(self) -> "Load":
        self._client.__enter__()
        self.began = time.time()
        self._running = self._pool.submit(
            run_load, self._client, self._noted(self._plan), rate=self._rate, stop=self._stop
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._client.__exit__(None, None, None)

    @property
    def elapsed_s(self) -> float:
        """Since it began."""
        return time.time() - self.began

    def wait_until(self, at_s: float) -> None:
        """Until so many seconds after its beginning.

        Raises:
            ProducerError: it has ended with an error.
        """
        while (left_s := at_s - self.elapsed_s) > 0:
            if self._running.done():
                self._running.result()
            time.sleep(min(left_s, TICK_S))

    def finish(self) -> None:
        """Until every request is in Kafka.

        Raises:
            ProducerError: one was not taken.
        """
        while not self._running.done():
            time.sleep(TICK_S)
        self.report = self._running.result()
        if self.report.first_failure is not None:
            raise self.report.first_failure

    def afterwards(self) -> None:
        """Send some more requests after the faults."""
        run_load(self._client, self._noted(LoadPlan(AFTERWARDS, declined=0.2, insufficient=0.2)), rate=self._rate)

    def _noted(self, plan: LoadPlan) -> Iterator[Planned]:
        for planned in plan_load(plan):
            self.asked[planned.payment_id] = planned.amount_minor
            yield planned


def _inject(options: Options, faults: Faults, load: Load, on_note: OnNote) -> list[Done]:
    """Inject the planned faults at their times; returns those done."""
    done: list[Done] = []
    for fault in plan(options):
        load.wait_until(fault.at_s)
        on_note(Note(load.elapsed_s, fault.in_words()))
        began = time.time()
        faults.apply(fault)
        if fault.kind != REPEAT:
            done.append(Done(fault, began, time.time()))
    load.wait_until(options.duration_s)
    return done


def _wait_until_quiet(stack: Stack, load: Load) -> None:
    """Until every part is up and every withdrawal asked for has ended, or it is clear that some never will."""
    for status in stack.statuses():
        if status.state != "stopped":
            stack.wait_ready(status.name, READY_S)
    deadline = time.monotonic() + QUIET_S
    with session(stack.state.dsns["saga"], autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(_FINISHED).fetchone()
            if row is not None and row[0] >= len(load.asked):
                return
            time.sleep(TICK_S)


def _note_when_struck(done: Sequence[Done], deaths: Sequence[tuple[str, float]]) -> None:
    """A failpoint strikes when it is reached: at the second death, as the first is the kill that arms it."""
    for one in done:
        if one.fault.kind == FAILPOINT:
            after = [at for part, at in deaths if part == one.fault.part and at >= one.began]
            if len(after) > 1:
                one.armed, one.began, one.ended = one.began, after[1], max(after[1], one.ended)


def _judge(
    options: Options,
    stack: Stack,
    collector: SpanCollector,
    load: Load,
    done: list[Done],
    planted: Set[str],
    deaths: int,
) -> Report:
    dsns, bootstrap = stack.state.dsns, stack.state.kafka_bootstrap
    audit = run_audit(dsns, bootstrap, QUIET_S)
    latency = verdict.measure_latency(dsns["saga"])
    checks = [
        verdict.audit_check(audit),
        verdict.check_outcomes(dsns["saga"], load.asked, options.provider_faults),
        verdict.check_money(dsns),
        verdict.check_dead_letters(bootstrap, planted),
        verdict.check_recovery(dsns["saga"], done),
        verdict.check_traces(dsns["saga"], collector, done),
    ]
    if options.rolling:
        checks.append(verdict.check_latency(latency))
    ok = all(check.ok for check in checks)
    return Report(ok, options, done, checks, audit, load.report.sent, latency, deaths)
