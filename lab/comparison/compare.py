"""The measurement of all approaches, one after the other, on one stack, by the same load and the same faults."""

import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import confluent_kafka
import psutil
import psycopg

from contracts.postgres import session
from lab.comparison.advice import advise
from lab.comparison.facts import facts
from lab.comparison.faults import FAULTS, Scale
from lab.comparison.load import run_load
from lab.comparison.reader import watch
from lab.comparison.results import Comparison, Result
from lab.comparison.sites import Site, site
from lab.comparison.specs import SPECS
from stack.jars import KAFKA_VERSION
from stack.supervisor import Stack


class Plan(NamedTuple):
    """The size of a comparison.

    Attributes:
        withdrawals: of the load, by
        clients: at once, on
        accounts: in turn, of which
        hot_account: is the share of the first one alone.
        watched: withdrawals for the reader, at
        watched_per_second: each second.
        metered: whether to count what the server writes.
        faults: how long they last.
    """

    withdrawals: int
    clients: int
    accounts: int
    hot_account: float
    watched: int
    watched_per_second: float
    metered: bool
    faults: Scale


FULL = Plan(2_000, 8, 100, 0.0, 60, 40.0, True, Scale(halfway_s=3.0, outage_s=3.0, asked=10))
QUICK = Plan(200, 4, 20, 0.0, 20, 40.0, False, Scale(halfway_s=1.0, outage_s=0.5, asked=5))

WARM_UP_SHARE = 0.2
SERVICES_READY_S = 60.0

Note = Callable[[str], None]


def compare(
    stack: Stack, plan: Plan, names: Sequence[str] = tuple(SPECS), note: Note = lambda _: None
) -> Comparison:
    """Measure approaches on a running stack.

    Args:
        stack: with every service.
        plan: how much.
        names: which approaches, of :data:`lab.comparison.specs.SPECS`.
        note: called with a line of progress.

    Raises:
        NotInTimeError: an approach did not finish in time.
    """
    began = time.monotonic()
    results = []
    for name in names:
        with site(name, stack) as place:
            results.append(_measure(place, plan, lambda line, name=name: note(f"{SPECS[name].title}: {line}")))  # type: ignore[misc]
    return Comparison(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=_machine(),
        versions=_versions(stack),
        settings={
            "withdrawals": plan.withdrawals,
            "clients": plan.clients,
            "accounts": plan.accounts,
            "hot_account": plan.hot_account,
            "watched": plan.watched,
            "watched_per_second": plan.watched_per_second,
            "halfway_s": plan.faults.halfway_s,
            "outage_s": plan.faults.outage_s,
        },
        took_s=time.monotonic() - began,
        results=results,
        advice=advise(results),
    )


def _measure(place: Site, plan: Plan, note: Note) -> Result:
    spec = place.spec
    note(f"{plan.withdrawals:,} withdrawals by {plan.clients} clients")
    run_load(place, round(WARM_UP_SHARE * plan.withdrawals), plan.clients, plan.accounts, prefix="warm")
    load = run_load(place, plan.withdrawals, plan.clients, plan.accounts, plan.hot_account, metered=plan.metered)
    note("one at a time, and what a reader sees")
    taken = facts(place, metered=plan.metered)
    seen = watch(place, plan.watched, plan.watched_per_second)
    found = {}
    for name, fault in FAULTS.items():
        note(f"fault: {name}")
        found[name] = fault(place, plan.faults)
    for service in spec.services:
        place.stack.wait_ready(service, SERVICES_READY_S)
    return Result(
        spec.name, spec.title, spec.finished, spec.separate, spec.history, spec.publishes, taken, load, seen, found
    )


def _machine() -> str:
    model = platform.processor() or platform.machine()
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{platform.system()} {model}, {psutil.cpu_count()} cores, {memory_gib:.0f} GiB"


def _versions(stack: Stack) -> dict[str, str]:
    with session(stack.state.dsns["account"]) as connection:
        postgres = connection.info.server_version // 10_000
        minor = connection.info.server_version % 10_000
    return {
        "PostgreSQL": f"{postgres}.{minor}",
        "Apache Kafka": KAFKA_VERSION,
        "Python": platform.python_version(),
        "psycopg": psycopg.__version__,
        "librdkafka": confluent_kafka.libversion()[0],
    }
