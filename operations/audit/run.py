"""A run of the audit: every check over databases and topics, each with its result."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec
import psycopg

from broker.offsets import Place
from contracts.postgres import session
from contracts.services import NAMES, READ_BY
from operations.audit import story
from operations.audit.again import lasting
from operations.audit.arrivals import differences, unpublished
from operations.audit.offenders import Offenders
from operations.audit.sides import stories
from operations.dead_letters.letters import count_open
from operations.errors import BacklogError
from operations.lag import behind, deleted_unread, sample
from operations.lost_requests import lost_requests
from outbox_relay.slot_name import SLOT_PREFIX
from outbox_relay.status import paused
from processors.runtime.gaps import Gap, noted_gaps

POLL_S = 0.25

CONFIRM_S = 5.0
"""Time for the relay to confirm a position, even if a stuck withdrawal has used up the wait."""

CHECK_BALANCES = "balances"
CHECK_CONSUMED = "consumed"
CHECK_GAPS = "gaps"
CHECK_PUBLISHED = "published"
CHECK_OUTBOX = "outbox"
CHECK_TOPICS = "topics"

_MEANING = {
    CHECK_BALANCES: "opening balance + ledger = balance, for every account",
    story.CHECK_LEDGER: "each deduction and refund is booked once, on its account",
    story.CHECK_PAYMENTS: "paid means deducted and not refunded, failed means refunded",
    story.CHECK_PROVIDER: "the provider's ledger agrees with the payments",
    story.CHECK_SAGA: "each withdrawal ended as its services say",
    story.CHECK_EVENTS: "the event store has what each service did, and nothing else",
    story.CHECK_FINISHED: "nothing is unfinished",
    CHECK_CONSUMED: "nothing waits in Kafka to be read",
    CHECK_GAPS: "nothing was deleted from Kafka before it was read",
    CHECK_PUBLISHED: "nothing committed is unpublished",
    CHECK_OUTBOX: "whatever is in an outbox has arrived",
    CHECK_TOPICS: "topics and event store hold the same events",
}

_BALANCES = """
SELECT a.account_id, a.balance_minor - a.opening_balance_minor - coalesce(l.net, 0) AS off
FROM accounts a FULL JOIN (SELECT account_id, sum(amount_minor) AS net FROM ledger GROUP BY account_id) l
    USING (account_id)
WHERE a.account_id IS NULL OR a.balance_minor <> a.opening_balance_minor + coalesce(l.net, 0)
ORDER BY 1
"""

_CURRENCIES = """
SELECT account_id, a.currency, l.currency, count(*)
FROM saga_log l JOIN accounts a USING (account_id)
WHERE l.status <> 'rejected' AND l.currency <> a.currency
GROUP BY account_id, a.currency, l.currency ORDER BY 1, 3
"""

_OPEN = """
SELECT count(*) FROM withdrawals WHERE finished_at IS NULL
"""

# A commit of our own: the server may keep WAL that no commit follows (a reader pruned a page) in memory while
# nothing else happens, and does not send it.
_POSITION = "SELECT pg_logical_emit_message(true, 'settle-audit', '')"

# Other slots are not Settle's: subscriptions, other change data capture.
_SLOTS = """
SELECT slot_name, pg_wal_lsn_diff(%s, coalesce(confirmed_flush_lsn, '0/0'))::bigint FROM pg_replication_slots
WHERE database = current_database() AND slot_type = 'logical' AND NOT temporary AND starts_with(slot_name, %s)
"""

_HAS_ROWS = "SELECT EXISTS (SELECT FROM outbox)"


class Check(msgspec.Struct, frozen=True):
    """One promise and whether it holds; the detail lists offenders or says what was found."""

    name: str
    ok: bool
    detail: str


class Audit(msgspec.Struct, frozen=True):
    """The verdict.

    Attributes:
        outcomes: how many withdrawals there are by state.
        dead_letters: the open ones, by the service that refused them. No check fails for these; where one holds a
            withdrawal up, ``finished`` does.
    """

    ok: bool
    checks: list[Check]
    withdrawals: int
    outcomes: dict[str, int]
    dead_letters: dict[str, int] = {}


def run(dsns: Mapping[str, str], bootstrap: str, wait_s: float = 0.0) -> Audit:
    """Run every check.

    Args:
        dsns: of ``account``, ``payment``, ``notification``, ``saga`` and ``provider``, and of ``api`` where there
            is one.
        bootstrap: Kafka, ``host:port``.
        wait_s: how long to wait for withdrawals under way to end before they count as unfinished, seconds. The
            relay has at least ``CONFIRM_S`` at the end of it. What seems off is looked at again after that; see
            :mod:`operations.audit.again`.

    Raises:
        psycopg.OperationalError: a database does not answer.
        KafkaException: Kafka does not answer.
    """
    consumed, published = _settled(dsns, bootstrap, time.monotonic() + wait_s)
    # While withdrawals are under way an event may be late rather than lost.
    quiet = consumed.ok and published.ok
    offenders, outcomes = _offenders(dsns, quiet)
    try:
        for payment_id in lost_requests(dsns, bootstrap):
            lost = f"{payment_id}: accepted by the API, but its request is lost (settle nudge, or settle cancel)"
            offenders[story.CHECK_FINISHED].add(lost)
    except BacklogError as error:
        offenders[story.CHECK_FINISHED].add(
            f"requests that the API accepted: not looked at, as {error.what} is behind: {error}"
        )
    checks = [
        _balances(dsns["account"]),
        *(_check(name, offenders[name]) for name in story.CHECKS),
        consumed,
        _gaps(dsns, bootstrap),
        published,
        _check(CHECK_OUTBOX, unpublished(dsns)) if quiet else _not_looked_at(CHECK_OUTBOX),
        _check(CHECK_TOPICS, differences(dsns["saga"], bootstrap)) if quiet else _not_looked_at(CHECK_TOPICS),
    ]
    ok = all(check.ok for check in checks)
    return Audit(ok, checks, outcomes.total(), dict(outcomes), count_open(bootstrap))


class _Told(NamedTuple):
    """A withdrawal's state, and its faults: pairs of check and reason."""

    payment_id: UUID
    state: str
    faults: Sequence[tuple[str, str]]


def _offenders(dsns: Mapping[str, str], quiet: bool) -> tuple[dict[str, Offenders], Counter[str]]:
    """The faults of all withdrawals by check, and how many withdrawals there are by state."""
    offenders = {name: Offenders() for name in story.CHECKS}
    outcomes: Counter[str] = Counter()

    def told(ids: Sequence[UUID] | None = None) -> Iterator[_Told]:
        for one in stories(dsns, ids):
            state = one.saga.state if one.saga else None
            outcomes[state or "requested"] += 1
            if found := list(story.faults(one, quiet)):
                yield _Told(one.payment_id, state or "requested", found)

    def again(before: list[_Told]) -> list[_Told]:
        outcomes.subtract(one.state for one in before)
        off = {one.payment_id: {check for check, _ in one.faults} for one in before}
        still = (
            one._replace(faults=[fault for fault in one.faults if fault[0] in off[one.payment_id]])
            for one in told(list(off))
        )
        return [one for one in still if one.faults]

    for one in lasting(told(), again):
        for check, reason in one.faults:
            offenders[check].add(f"{one.payment_id}: {reason}")
    return offenders, +outcomes


def _check(name: str, found: Offenders) -> Check:
    return Check(name, found.count == 0, found.in_words() or _MEANING[name])


def _not_looked_at(name: str) -> Check:
    return Check(name, False, f"not looked at, as {CHECK_CONSUMED} or {CHECK_PUBLISHED} is off")


def _balances(dsn: str) -> Check:
    with session(dsn) as connection:
        cursor = connection.cursor("audit_balances")
        cursor.execute(_BALANCES)
        found = Offenders()
        for account_id, off in cursor:
            found.add(f"{account_id}: " + ("no account" if off is None else f"off by {off}"))
        for account_id, currency, booked_in, count in connection.execute(_CURRENCIES).fetchall():
            found.add(f"{account_id}: an account of {currency}, with {count} withdrawals booked in {booked_in}")
    return _check(CHECK_BALANCES, found)


def _wait_until_quiet(dsn: str, deadline: float) -> None:
    with session(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(_OPEN).fetchone()
            if row is not None and row[0] == 0:
                return
            time.sleep(POLL_S)


def _settled(dsns: Mapping[str, str], bootstrap: str, deadline: float) -> tuple[Check, Check]:
    """Wait for what is under way, also what follows an end, such as a mail; whether all is consumed and published.

    What was published last is to be consumed, too. Until the deadline a moment is waited for in which nothing is
    unread; beside steady traffic there is none, and then what has come meanwhile does not matter. It is looked at
    again, if it seems off.
    """
    consumed = _consumed(bootstrap, deadline, up_to=sample(bootstrap).end, patiently=True)
    _wait_until_quiet(dsns["saga"], deadline)
    deadline = max(deadline, time.monotonic() + CONFIRM_S)
    published = _published(dsns, deadline)
    if consumed.ok and published.ok:
        consumed = _consumed(bootstrap, deadline, up_to=sample(bootstrap).end)
    return consumed, published


def _consumed(bootstrap: str, deadline: float, up_to: Mapping[Place, int], *, patiently: bool = False) -> Check:
    """Whether every record up to there is consumed: a request that no service has read yet is in no database.

    Args:
        bootstrap: Kafka, ``host:port``.
        deadline: how long to wait for that, of the monotonic clock.
        up_to: the ends of partitions as they were: later records do not matter.
        patiently: whether later ones are waited for, too, for as long as there is time.
    """
    while True:
        now = sample(bootstrap)
        unread = behind(msgspec.structs.replace(now, end={**now.end, **up_to}))
        is_over = time.monotonic() >= deadline
        if is_over or (not unread and not (patiently and behind(now))):
            found = Offenders(f"{service}: {lag} records of {topic}" for service, topic, lag in unread)
            return _check(CHECK_CONSUMED, found)
        time.sleep(POLL_S)


def _gaps(dsns: Mapping[str, str], bootstrap: str) -> Check:
    """Gaps that are recorded and not acknowledged, and those that a service has yet to record."""
    found = Offenders(_missed(service, gap) for service, gap in deleted_unread(bootstrap))
    for noted in noted_gaps({service: dsns[service] for service in READ_BY}):
        if noted.acknowledged_at is None:
            found.add(_missed(noted.service, noted.gap))
    return _check(CHECK_GAPS, found)


def _missed(service: str, gap: Gap) -> str:
    place = f"{gap.topic}/{gap.partition}@{gap.first}"
    return f"{service}: {gap.until - gap.first} offsets from {place} on were deleted unread (settle gaps)"


def _published(dsns: Mapping[str, str], deadline: float) -> Check:
    """Whether the relay confirms the present log position, as it does once Kafka has everything before it."""
    found = Offenders()
    for service in (name for name in NAMES if name in dsns):
        with session(dsns[service], autocommit=True) as connection:
            position = _one(connection, _POSITION)
            while unconfirmed := _unconfirmed(connection, position):
                by_people = paused(connection)
                if by_people is not None or time.monotonic() >= deadline:
                    why = f", as its relay is {by_people}" if by_people is not None else ""
                    found.add(f"{service}: {unconfirmed}{why}")
                    break
                time.sleep(POLL_S)
    return _check(CHECK_PUBLISHED, found)


def _unconfirmed(connection: psycopg.Connection, position: object) -> str | None:
    """Why commits before a position are not known to be published; None if they are."""
    slots = connection.execute(_SLOTS, (position, SLOT_PREFIX)).fetchall()
    if not slots:  # a relay that polls needs none, and removes what it has published
        return "no replication slot, so no relay has read its outbox" if _one(connection, _HAS_ROWS) else None
    # Of several slots (one relay follows another under a new name), each confirms its own position.
    name, size = min(slots, key=lambda slot: slot[1])
    return f"slot {name} is {size} bytes behind" if size > 0 else None


def _one(connection: psycopg.Connection, query: str) -> object:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]
