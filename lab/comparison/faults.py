"""What each fault does to each approach: the same experiments for all, with real crashes and lock waits."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import LiteralString, NamedTuple

from uuid_utils.compat import uuid7

from contracts.events import WithdrawalRequested
from lab.approaches.withdrawal import Approach, TryAgainError
from lab.comparison.books import Verdict, payments, verdict
from lab.comparison.caller import NotInTimeError, ask, finish, is_open, wait_for
from lab.comparison.reader import Reader
from lab.comparison.results import Fault
from lab.comparison.sites import Site
from producers.plan import CENTS_DECLINED
from producers.requests import new_request

AMOUNT_MINOR = 100_00
OPENING_MINOR = 10_000_00
OTHERS = 4
HANDS = {"two_phase_commit": "2pc recover", "event_sourcing": "its resume()"}
"""What finishes the work that a crash left open, where neither the server nor the caller's retry does."""

_LOCKED: LiteralString = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND (application_name LIKE 'settle%%' OR datname = %s)
"""


class Scale(NamedTuple):
    """How long faults last.

    Attributes:
        halfway_s: until somebody recovers what a dead coordinator left.
        outage_s: without the payment service's database.
        asked: withdrawals during that outage.
    """

    halfway_s: float
    outage_s: float
    asked: int


def refused(site: Site, scale: Scale) -> Fault:  # noqa: ARG001
    """The provider declines: whether the money is returned, and how long it was away."""
    name = _account(site)
    with closing(site.client()) as client, Reader(site.books) as reader:
        wanted = new_request(name, amount_minor=AMOUNT_MINOR + CENTS_DECLINED)
        began = time.monotonic()
        outcome = _through(site, client, [wanted])[0]
        took_s = time.monotonic() - began
        wait_for(site.quiet, "all is read")
    money = verdict(site.books, [name], 0)
    notes = {
        "rejected": "rolled back: nothing was ever gone",
        "compensated": "given back by a compensation",
    }
    left = bool(money.lost_minor)
    return _fault(
        money,
        note="published, and nobody gives it back" if left else notes.get(outcome, outcome),
        for_a_person=int(left),
        recovery_s=None if left else took_s,
        healed_by="" if left else "itself",
        away_ms=reader.between_ms(wanted.payment_id),
    )


def killed(site: Site, scale: Scale) -> Fault:  # noqa: ARG001
    """A client dies after each step (in the pipeline: every service and the relay at once), and is retried."""
    if site.spec.services:
        return _services_killed(site)
    wanted = {point: new_request(_account(site), amount_minor=AMOUNT_MINOR) for point in site.spec.failpoints}
    site.die(wanted)
    died = time.monotonic()
    site.recover()
    with closing(site.client()) as client:
        _through(site, client, list(wanted.values()))
    wait_for(site.quiet, "all is read")
    money = verdict(site.books, [one.account_id for one in wanted.values()], len(wanted) * AMOUNT_MINOR)
    return _fault(
        money,
        note=f"{len(wanted)} clients, each dead at another step",
        for_a_person=_wrong(site, wanted.values()),
        recovery_s=time.monotonic() - died if money.right else None,
        healed_by=HANDS.get(site.spec.name, "a retry") if money.right else "",
    )


def _services_killed(site: Site) -> Fault:
    name = _account(site)
    wanted = [new_request(name, amount_minor=AMOUNT_MINOR) for _ in range(10)]
    with closing(site.client()) as client:
        for one in wanted[:5]:
            client.withdraw(one)
        for service in site.spec.services:
            site.kill_worker(service)
        died = time.monotonic()
        for one in wanted[5:]:
            client.withdraw(one)
        finish(client, wanted)
    money = verdict(site.books, [name], len(wanted) * AMOUNT_MINOR)
    return _fault(
        money,
        note="four services and the relay dead at once, with ten withdrawals under way",
        for_a_person=_wrong(site, wanted),
        recovery_s=time.monotonic() - died,
        healed_by="itself",
    )


def halfway(site: Site, scale: Scale) -> Fault:
    """The coordinating process dies half-way, while others withdraw from the same account."""
    name = _account(site)
    dead = new_request(name, amount_minor=AMOUNT_MINOR)
    others = [new_request(name, amount_minor=AMOUNT_MINOR) for _ in range(OTHERS)]
    if site.spec.services:
        with closing(site.client()) as client:
            client.withdraw(dead)
        site.kill_worker("saga")
    else:
        site.die({site.spec.halfway: dead})
    died = time.monotonic()
    with ThreadPoolExecutor(OTHERS) as pool:
        waits = [pool.submit(_patient, site, one) for one in others]
        locks = 0
        # Recovery starts after a delay; approaches that need none are done long before.
        while time.monotonic() < died + scale.halfway_s and not all(one.done() for one in waits):
            locks = max(locks, site.server_of("account").ask(_LOCKED, site.database("account")))
        blocked = sum(not one.done() for one in waits)
        site.recover()
        waited = [one.result() for one in waits]
    everyone = [dead, *others]
    asked_minor = len(everyone) * AMOUNT_MINOR
    if site.spec.services:
        # Paid is what counts here: the dead one only keeps the record of it.
        wait_for(lambda: verdict(site.books, [name], asked_minor).right, "all are paid")
    else:
        with closing(site.client()) as client:
            _through(site, client, [dead])
            if site.spec.name != "naive":
                finish(client, others)
    wait_for(site.quiet, "all is read")
    recovery_s = time.monotonic() - died
    money = verdict(site.books, [name], asked_minor)
    return _fault(
        money,
        note="blocked until somebody recovered" if blocked else "nobody else noticed",
        for_a_person=_wrong(site, everyone),
        recovery_s=recovery_s if money.right else None,
        healed_by=HANDS.get(site.spec.name, "itself" if site.spec.services else "a retry") if money.right else "",
        asked=OTHERS,
        accepted=OTHERS - blocked,
        waited=blocked,
        waited_s_max=max(waited),
        locks_max=locks,
    )


def worker(site: Site, scale: Scale) -> Fault | None:  # noqa: ARG001
    """The publisher dies after Kafka has the record and before it is marked. (Naive: the payer, after paying.)"""
    victims = {
        "outbox_polling": ("polling worker", "outbox.published"),
        "outbox_wal": ("relay", "relay.acknowledged"),
        "naive": ("naive payment service", "outbox.paid"),
    }
    if site.spec.name not in victims:
        return _relay_killed(site) if site.spec.services else None
    name, point = victims[site.spec.name]
    account = _account(site)
    wanted = new_request(account, amount_minor=AMOUNT_MINOR)
    before = site.published()
    dying = site.start_worker(name, point)
    with closing(site.client()) as client:
        client.withdraw(wanted)
        dying.wait_dead()
        died = time.monotonic()
        site.start_worker(name)
        if site.spec.name != "naive":
            finish(client, [wanted])
    # Its duplicate may be published after it counts as finished.
    with suppress(NotInTimeError):
        wait_for(lambda: site.published() > before + (site.spec.name != "naive"), "published again", 3.0)
    wait_for(site.quiet, "all is read")
    money = verdict(site.books, [account], AMOUNT_MINOR)
    times = site.published() - before
    return _fault(
        money,
        note=f"published {times} times, paid {len(payments(site.books, [account]))} times",
        for_a_person=int(not money.right),
        recovery_s=time.monotonic() - died if money.right else None,
        healed_by="the payment ID as a key" if money.right else "",
        published=float(times),
    )


def _relay_killed(site: Site) -> Fault:
    account = _account(site)
    wanted = [new_request(account, amount_minor=AMOUNT_MINOR) for _ in range(20)]
    with closing(site.client()) as client:
        for number, one in enumerate(wanted):
            client.withdraw(one)
            if number == len(wanted) // 2:
                site.kill_worker("relay")
                died = time.monotonic()
        finish(client, wanted)
    money = verdict(site.books, [account], len(wanted) * AMOUNT_MINOR)
    return _fault(
        money,
        note="the relay killed amid twenty withdrawals",
        for_a_person=_wrong(site, wanted),
        recovery_s=time.monotonic() - died,
        healed_by="the payment ID as a key",
    )


def repeated(site: Site, scale: Scale) -> Fault:  # noqa: ARG001
    """The same request from four clients at once, and a fifth time."""
    name = _account(site)
    wanted = new_request(name, amount_minor=AMOUNT_MINOR)
    with ThreadPoolExecutor(OTHERS) as pool:
        list(pool.map(lambda _: _patient(site, wanted), range(OTHERS)))
    with closing(site.client()) as client:
        _through(site, client, [wanted])
    wait_for(site.quiet, "all is read")
    money = verdict(site.books, [name], AMOUNT_MINOR)
    times = len(payments(site.books, [name]))
    return _fault(money, note=f"asked 5 times, paid {times} times", for_a_person=int(not money.right))


def outage(site: Site, scale: Scale) -> Fault:
    """The payment service's database is away for a while, and withdrawals go on being asked for."""
    role = "payment" if "payment" in site.spec.databases else "everything"
    wanted = [new_request(_account(site), amount_minor=AMOUNT_MINOR) for _ in range(scale.asked)]
    again = []
    clients = [site.client() for _ in wanted]
    site.server_of(role).close(site.database(role))
    try:
        began = time.monotonic()
        for number, (client, one) in enumerate(zip(clients, wanted, strict=True)):
            time.sleep(max(0.0, began + number * scale.outage_s / scale.asked - time.monotonic()))
            try:
                client.withdraw(one)
            except TryAgainError:
                again.append(one)
        time.sleep(max(0.0, began + scale.outage_s - time.monotonic()))
    finally:
        site.server_of(role).open(site.database(role))
        for client in clients:
            client.close()
    back = time.monotonic()
    site.recover()
    accepted = len(wanted) - len(again)
    with closing(site.client()) as client:
        _through(site, client, again)
    wait_for(lambda: len(payments(site.books, [one.account_id for one in wanted])) >= scale.asked, "all is paid")
    recovery_s = time.monotonic() - back
    money = verdict(site.books, [one.account_id for one in wanted], scale.asked * AMOUNT_MINOR)
    refused_all = "refused while it lasted; callers had to come again"
    return _fault(
        money,
        note=f"{'accepted, and paid afterwards' if accepted else refused_all}",
        for_a_person=_wrong(site, wanted),
        recovery_s=recovery_s if money.right else None,
        healed_by="itself" if accepted else "a retry",
        asked=scale.asked,
        accepted=accepted,
    )


FAULTS: dict[str, Callable[[Site, Scale], Fault | None]] = {
    "refused": refused,
    "halfway": halfway,
    "killed": killed,
    "worker": worker,
    "repeated": repeated,
    "outage": outage,
}
"""Every fault by its name."""

MEANINGS = {
    "refused": "the payment provider refuses",
    "killed": "a client is killed after each step; for the saga every service and the relay",
    "halfway": "killed between prepare and commit, or halfway, while others want the same account",
    "worker": "the publisher is killed after publishing and before marking; naive: the payer after paying",
    "repeated": "the same request five times, four of them at once",
    "outage": "the payment service's database is away",
}


def _account(site: Site) -> str:
    name = f"hurt-{uuid7()}"
    site.open_accounts([name], OPENING_MINOR)
    return name


def _patient(site: Site, wanted: WithdrawalRequested) -> float:
    """Retry until there is a final answer; returns the seconds that took."""
    with closing(site.client()) as client:
        began = time.monotonic()
        ask(client, wanted)
        return time.monotonic() - began


def _through(site: Site, client: Approach, wanted: Sequence[WithdrawalRequested]) -> list[str]:
    """Make each withdrawal, with retries, and wait until all are finished; returns the outcomes."""
    ends = []
    for one in wanted:
        outcome, _ = ask(client, one)
        if is_open(outcome) and site.spec.name != "naive":
            finish(client, [one])
            outcome = client.finished(one.payment_id) or outcome
        ends.append(outcome.state)
    return ends


def _wrong(site: Site, wanted: Iterable[WithdrawalRequested]) -> int:
    """Withdrawals that are not taken once and paid once; by account, where each has its own."""
    by_account: dict[str, int] = {}
    for one in wanted:
        by_account[one.account_id] = by_account.get(one.account_id, 0) + one.amount_minor
    return sum(not verdict(site.books, [name], asked).right for name, asked in by_account.items())


def _fault(money: Verdict, **rest: object) -> Fault:
    return Fault(
        lost_minor=money.lost_minor,
        doubled_minor=money.doubled_minor,
        unfunded_minor=money.unfunded_minor,
        **rest,  # type: ignore[arg-type]
    )
