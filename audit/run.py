"""Does everything add up? Runs all checks over the databases and says of each whether it holds."""

import time
from collections import Counter
from collections.abc import Mapping

import msgspec
import psycopg

from audit import story
from audit.lag import consumer_lag
from audit.read import CONNECT_TIMEOUT_S, stories
from audit.topics import differences, unpublished

EXAMPLES_MAX = 5
"""Offenders that a check names; the rest is counted."""

POLL_S = 0.25

CONFIRM_S = 5.0
"""What the relay is given to confirm a position, even if a withdrawal that stands still took all the time."""

CHECK_BALANCES = "balances"
CHECK_CONSUMED = "consumed"
CHECK_PUBLISHED = "published"
CHECK_OUTBOX = "outbox"
CHECK_TOPICS = "topics"

_MEANING = {
    CHECK_BALANCES: "opening balance + ledger = balance, for every account",
    story.CHECK_LEDGER: "each deduction and refund is booked once",
    story.CHECK_PAYMENTS: "paid means deducted and not refunded, failed means refunded",
    story.CHECK_PROVIDER: "the provider's ledger agrees with the payments",
    story.CHECK_SAGA: "each withdrawal ended as its services say",
    story.CHECK_EVENTS: "the event store has what each service did, and nothing else",
    story.CHECK_FINISHED: "nothing is unfinished",
    CHECK_CONSUMED: "nothing waits in Kafka to be read",
    CHECK_PUBLISHED: "nothing committed is unpublished",
    CHECK_OUTBOX: "whatever is in an outbox has arrived",
    CHECK_TOPICS: "topics and event store hold the same events",
}

_BALANCES = """
SELECT a.account_id, a.balance_minor - a.opening_balance_minor - coalesce(l.net, 0) AS off
FROM accounts a FULL JOIN (SELECT account_id, sum(amount_minor) AS net FROM ledger GROUP BY account_id) l
    USING (account_id)
WHERE a.account_id IS NULL OR a.balance_minor <> a.opening_balance_minor + coalesce(l.net, 0)
ORDER BY 1 LIMIT %s
"""

_OPEN = """
SELECT count(*) FROM withdrawals WHERE finished_at IS NULL
"""

_POSITION = "SELECT pg_current_wal_insert_lsn()"

_BEHIND = """
SELECT slot_name, pg_wal_lsn_diff(%s, confirmed_flush_lsn)::bigint FROM pg_replication_slots
WHERE database = current_database() AND slot_type = 'logical' AND confirmed_flush_lsn < %s
"""

_SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND slot_type = 'logical'"

_HAS_ROWS = "SELECT EXISTS (SELECT FROM outbox)"


class Check(msgspec.Struct, frozen=True):
    """One promise and whether it holds; the detail names offenders or says what was found."""

    name: str
    ok: bool
    detail: str


class Audit(msgspec.Struct, frozen=True):
    """The verdict."""

    ok: bool
    checks: list[Check]
    withdrawals: int
    outcomes: dict[str, int]


def run(dsns: Mapping[str, str], bootstrap: str, wait_s: float = 0.0) -> Audit:
    """Check everything.

    Args:
        dsns: of ``account``, ``payment``, ``notification``, ``saga`` and ``provider``.
        bootstrap: Kafka, ``host:port``.
        wait_s: how long to wait for withdrawals under way to end before they count as unfinished, seconds. The
            relay has ``CONFIRM_S`` at the end of it, whatever was waited for before.

    Raises:
        psycopg.OperationalError: a database does not answer.
        KafkaException: Kafka does not answer.
    """
    deadline = time.monotonic() + wait_s
    consumed = _consumed(bootstrap, deadline)
    _wait_until_quiet(dsns["saga"], deadline)
    published = _published(dsns, max(deadline, time.monotonic() + CONFIRM_S))
    offenders: dict[str, list[str]] = {}
    outcomes: Counter[str] = Counter()
    # With something still under way an event may be late rather than lost.
    quiet = consumed.ok and published.ok
    for one in stories(dsns):
        state = one.saga.state if one.saga else None
        outcomes[state or "requested"] += 1
        for check, reason in story.faults(one, quiet):
            offenders.setdefault(check, []).append(f"{one.payment_id}: {reason}")
    checks = [
        _balances(dsns["account"]),
        *(_check(name, offenders.get(name, [])) for name in story.CHECKS),
        consumed,
        published,
        _check(CHECK_OUTBOX, unpublished(dsns) if quiet else []),
        _check(CHECK_TOPICS, differences(dsns["saga"], bootstrap) if quiet else []),
    ]
    return Audit(all(check.ok for check in checks), checks, outcomes.total(), dict(outcomes))


def _check(name: str, found: list[str]) -> Check:
    if not found:
        return Check(name, True, _MEANING[name])
    more = f"; and {len(found) - EXAMPLES_MAX} more" if len(found) > EXAMPLES_MAX else ""
    return Check(name, False, "; ".join(found[:EXAMPLES_MAX]) + more)


def _balances(dsn: str) -> Check:
    with psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        rows = connection.execute(_BALANCES, (EXAMPLES_MAX + 1,)).fetchall()
    found = [f"{account_id}: " + ("no account" if off is None else f"off by {off}") for account_id, off in rows]
    return _check(CHECK_BALANCES, found)


def _wait_until_quiet(dsn: str, deadline: float) -> None:
    with psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(_OPEN).fetchone()
            if row is not None and row[0] == 0:
                return
            time.sleep(POLL_S)


def _consumed(bootstrap: str, deadline: float) -> Check:
    """A request that no service has read yet is in no database; Kafka knows of it."""
    while True:
        behind = consumer_lag(bootstrap)
        if not behind or time.monotonic() >= deadline:
            return _check(
                CHECK_CONSUMED, [f"{service}: {lag} records of {topic}" for service, topic, lag in behind]
            )
        time.sleep(POLL_S)


def _published(dsns: Mapping[str, str], deadline: float) -> Check:
    """The relay confirms a position when Kafka has everything before it; so ours now must be confirmed soon."""
    found = []
    for service in ("account", "payment", "notification", "saga"):
        with psycopg.connect(dsns[service], connect_timeout=CONNECT_TIMEOUT_S, autocommit=True) as connection:
            position = _one(connection, _POSITION)
            if _one(connection, _SLOTS) == 0:
                if _one(connection, _HAS_ROWS):
                    found.append(f"{service}: no replication slot, so no relay has read its outbox")
                continue
            while behind := connection.execute(_BEHIND, (position, position)).fetchall():
                if time.monotonic() >= deadline:
                    found += [f"{service}: slot {name} is {size} bytes behind" for name, size in behind]
                    break
                time.sleep(POLL_S)
    return _check(CHECK_PUBLISHED, found)


def _one(connection: psycopg.Connection, query: str) -> object:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]
