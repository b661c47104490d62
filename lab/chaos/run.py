"""A chaos run: start, load, faults at their times, quiescence, verdict."""

import time
from collections.abc import Callable, Sequence, Set
from contextlib import nullcontext
from pathlib import Path

import msgspec

import tracing
from contracts.postgres import session
from lab.chaos import verdict
from lab.chaos.arming import Arming
from lab.chaos.faults import Faults, Watchdog
from lab.chaos.load import AFTERWARDS, ByKafka, Load, accounts
from lab.chaos.operators import Operators
from lab.chaos.plan import FAILPOINT, REPEAT, Options, plan
from lab.chaos.through_api import CURRENCY, Follower, ThroughApi
from lab.chaos.verdict import Done, Latency
from operations.audit.run import Audit, Check
from operations.audit.run import run as run_audit
from processors.account.accounts import open_accounts
from producers.plan import INSUFFICIENT_AMOUNT_MINOR
from stack.supervisor import SERVICES, WITH_API, Stack
from tracing.collector import SpanCollector
from tracing.setup import TracingSettings

BALANCE_MINOR = INSUFFICIENT_AMOUNT_MINOR - 1
"""Enough for all requests of up to 100.00, and less than the amounts that are to be rejected."""

TRACES = 300
"""Withdrawals sampled, about; a trace has some 25 spans, which stay in memory."""

_FINISHED = "SELECT count(*) FROM withdrawals WHERE finished_at IS NOT NULL"

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
    share = min(1.0, TRACES / (options.rate * options.duration_s))
    with SpanCollector() as collector:
        # The share is the API's, which samples what comes through it.
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_TRACES_SAMPLER_ARG": f"{share:f}"}
        environment |= PROVIDER_FAULTS if options.provider_faults else {}
        with Stack(
            folder,
            services=WITH_API if options.through_api else SERVICES,
            environment=environment,
            command=arming,
            secure=options.secure,
            note=lambda _: None,
        ) as stack:
            names = [f"acc-{number}" for number in range(1, accounts(options) + 1)]
            open_accounts(stack.state.dsns["account"], names, BALANCE_MINOR, CURRENCY)
            operators = Operators(stack, arming)
            through_api = ThroughApi(stack) if options.through_api else None
            if through_api is None:
                _trace(collector, share)
            with (
                Follower(stack) if options.through_api else nullcontext() as follower,
                Load(through_api or ByKafka(stack.state.kafka_bootstrap), options) as load,
            ):
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
                report = _judge(options, stack, collector, load, done, operators.planted, len(watchdog.deaths))
                if through_api is not None and follower is not None:
                    _judge_api(report, stack, through_api, follower)
                return report


def _trace(collector: SpanCollector, share: float) -> None:
    settings = TracingSettings(exporter_otlp_endpoint=collector.endpoint, traces_sampler_arg=share)
    tracing.configure("producer", settings=settings)


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
    return Report(ok, options, done, checks, audit, load.sent, latency, deaths)


def _judge_api(report: Report, stack: Stack, through_api: ThroughApi, follower: Follower) -> None:
    """Add what the answers of the API and its stream of endings have to be."""
    follower.wait(report.audit.withdrawals, QUIET_S)
    report.checks += [
        verdict.check_answers(through_api.requests),
        verdict.check_stream(stack.state.dsns["saga"], follower),
    ]
    report.ok = all(check.ok for check in report.checks)
