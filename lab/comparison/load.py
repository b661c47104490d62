"""The load of the comparison: clients that each make the next withdrawal when the last one is answered."""

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import LiteralString, NamedTuple
from uuid import UUID

from contracts.events import WithdrawalRequested
from lab.approaches.withdrawal import Approach
from lab.comparison.books import verdict
from lab.comparison.caller import ask, is_open, wait_for
from lab.comparison.results import Latency, Load
from lab.comparison.sites import Site
from producers.requests import new_request

BALANCE_MINOR = 1_000_000_000
AMOUNT_MINOR = 100_00
STATISTICS_S = 1.1
"""A server process reports its counts when it is idle again and has not done so for a second."""

_FSYNCS: LiteralString = "SELECT coalesce(sum(fsyncs), 0)::bigint FROM pg_stat_io WHERE object = 'wal'"
_POSITION: LiteralString = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"


class Written(NamedTuple):
    """What the server wrote for one withdrawal: fsyncs of the write-ahead log, and bytes."""

    fsyncs: float
    wal_bytes: float


class Meter:
    """Reads what the server has written since the meter was made.

    Args:
        site: whose withdrawals are metered; nothing else may write meanwhile.
        account: an open account.
    """

    def __init__(self, site: Site, account: str) -> None:
        self._site = site
        self._account = account
        self._before = self._now()

    def read(self, count: int) -> Written:
        """What the server wrote for each of ``count`` withdrawals, whose clients must be closed by now."""
        fsyncs, position = self._now()
        count += 1 if self._site.spec.processes else 0
        return Written((fsyncs - self._before[0]) / count, (position - self._before[1]) / count)

    def _now(self) -> tuple[int, int]:
        site = self._site
        if not site.spec.processes:
            # The backends of closed clients report their counts as they end.
            names = [site.database(role) for role in site.spec.databases]
            wait_for(lambda: not site.server.has_sessions(names), "the clients' sessions have ended")
        else:  # workers' backends report when they work again
            time.sleep(STATISTICS_S)
            with closing(self._site.client()) as client:
                one = new_request(self._account, amount_minor=AMOUNT_MINOR)
                ask(client, one)
                wait_for(lambda: one.payment_id in self._site.finished_at(one.payment_id), "one more")
        return self._site.written(_FSYNCS), self._site.written(_POSITION)


def run_load(
    site: Site,
    count: int,
    clients: int,
    accounts: int,
    hot_account: float = 0.0,
    *,
    metered: bool = False,
    prefix: str = "load",
) -> Load:
    """Make withdrawals and wait until all are finished.

    Args:
        site: who is asked.
        count: withdrawals.
        clients: threads, each with a client of its own.
        accounts: how many, taken in turn.
        hot_account: share of the withdrawals on the first account alone, 0 to 1.
        metered: whether to ask the server what it wrote; takes a second where there are workers.
        prefix: of the accounts' names.
    """
    names = [f"{prefix}-{site.spec.name}-{number}" for number in range(1, accounts + 1)]
    site.open_accounts(names, BALANCE_MINOR)
    requests = plan(names, count, hot_account)
    extra = f"meter-{prefix}-{site.spec.name}"
    site.open_accounts([extra], BALANCE_MINOR)
    meter = Meter(site, extra) if metered else None
    run = _Run(site, requests, clients)
    written = meter.read(count) if meter else None
    wait_for(site.quiet, "all is read")
    money = verdict(site.books, names, count * AMOUNT_MINOR)
    return Load(
        withdrawals=count,
        clients=clients,
        per_second=count / run.took_s,
        accepted=latency(run.accepted_s),
        finished=latency(run.finished_s),
        retries=run.retries,
        fsyncs_each=written.fsyncs if written else None,
        wal_bytes_each=written.wal_bytes if written else None,
        right=money.right,
    )


def plan(names: Sequence[str], count: int, hot_account: float) -> list[WithdrawalRequested]:
    """Requests in turn over the accounts, with the hot one's share spread evenly."""
    requests, hot = [], 0
    for number in range(count):
        is_hot = math.floor((number + 1) * hot_account) > hot
        hot += is_hot
        name = names[0] if is_hot else names[number % len(names)]
        requests.append(new_request(name, amount_minor=AMOUNT_MINOR))
    return requests


def latency(seconds: Sequence[float]) -> Latency:
    """Median and 99th percentile."""
    ordered = sorted(seconds)
    p50, p99 = (ordered[math.ceil(share * len(ordered)) - 1] * 1000 for share in (0.5, 0.99))
    return Latency(p50, p99)


class _Run:
    def __init__(self, site: Site, requests: Sequence[WithdrawalRequested], clients: int) -> None:
        self._site = site
        self._left = iter(requests)
        self._lock = threading.Lock()
        self._together = threading.Barrier(clients + 1)
        self._began: dict[UUID, float] = {}
        self._answered: dict[UUID, float] = {}
        self._open: set[UUID] = set()
        self.retries = 0
        with ExitStack() as connected, ThreadPoolExecutor(clients) as pool:
            # All connect before one begins: a client that cannot would keep the others waiting for it.
            ready = [connected.enter_context(closing(site.client())) for _ in range(clients)]
            running = [pool.submit(self._work, client) for client in ready]
            self._together.wait()
            for one in running:
                one.result()
        ended = self._ends(min(request.payment_id for request in requests))
        self.took_s = max(ended.values()) - min(self._began.values())
        self.accepted_s = [self._answered[one] - began for one, began in self._began.items()]
        self.finished_s = [ended[one] - began for one, began in self._began.items()]

    def _work(self, client: Approach) -> None:
        self._together.wait()
        while True:
            with self._lock:
                request = next(self._left, None)
            if request is None:
                return
            # Wall-clock time, which is compared with the database's.
            self._began[request.payment_id] = time.time()
            outcome, retries = ask(client, request)
            self._answered[request.payment_id] = time.time()
            with self._lock:
                self.retries += retries
                if is_open(outcome):
                    self._open.add(request.payment_id)

    def _ends(self, first: UUID) -> dict[UUID, float]:
        """When each was finished: at its answer, or later by the database's clock."""
        if not self._open:
            return self._answered
        ended: dict[UUID, float] = {}

        def all_ended() -> bool:
            ended.update(self._site.finished_at(first))
            return self._open <= ended.keys()

        wait_for(all_ended, "every withdrawal is finished", poll_s=0.1)
        return {one: max(ended.get(one, 0.0), answered) for one, answered in self._answered.items()}
