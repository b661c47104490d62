"""The verdict on a run: the audit, and checks against what the run itself knows: its requests and its faults."""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from api.texts import amount_text
from contracts import headers
from contracts.postgres import session
from lab.chaos.operators import PLANTED
from lab.chaos.plan import Fault
from lab.chaos.through_api import CURRENCY, Follower, Request
from operations.audit.run import Audit, Check
from operations.dead_letters.letters import read_letters
from operations.trace_check import what_is_missing
from producers.plan import CENTS_DECLINED, INSUFFICIENT_AMOUNT_MINOR
from tracing.collector import SpanCollector

RECOVERY_S_MAX = 60.0
P99_S_MAX = 2.0
EXAMPLES_MAX = 3

SPANS_POLL_S = 0.1
SPANS_BEFORE_S = 2.0
SPANS_AFTER_S = 4.0
"""A span that a killed process had not sent yet is gone: it sends once a second."""

_STATES = "SELECT payment_id, state FROM withdrawals"
_ENDED = "SELECT payment_id, state FROM withdrawals WHERE finished_at IS NOT NULL"

# Payment IDs are UUIDs of version 7: they contain the time of the request, and are in that order.
_RECOVERED = """
SELECT extract(epoch FROM min(finished_at))::float8 FROM withdrawals
WHERE payment_id > %s AND uuid_extract_timestamp(payment_id) > %s AND state = 'completed'
"""

_LATENCIES = """
SELECT coalesce(percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (
    ORDER BY extract(epoch FROM finished_at - uuid_extract_timestamp(payment_id))), '{0,0,0}')::float8[]
FROM withdrawals WHERE finished_at IS NOT NULL
"""

_TRACED = """
SELECT trace_id, state, reason, extract(epoch FROM uuid_extract_timestamp(payment_id))::float8,
    extract(epoch FROM finished_at)::float8
FROM withdrawals WHERE trace_id = ANY(%s) AND finished_at IS NOT NULL
"""

_NET = "SELECT account_id, -sum(amount_minor)::bigint FROM ledger GROUP BY account_id"
_HELD = "SELECT account_id, opening_balance_minor - balance_minor FROM accounts"
_PAID = "SELECT account_id, sum(amount_minor)::bigint FROM charges WHERE status = 'paid' GROUP BY account_id"


class Done(msgspec.Struct):
    """A fault that was injected.

    Attributes:
        fault: as planned.
        began: when it struck, with
        ended: when the fault was over, seconds since the epoch.
        recovery_s: until a withdrawal that was asked for after it struck was completed; None: never.
        armed: when the process was killed, to be started with its failpoint; None for faults of other kinds.
    """

    fault: Fault
    began: float
    ended: float
    recovery_s: float | None = None
    armed: float | None = None

    def touched(self, asked: float, finished: float) -> bool:
        """Whether spans of a withdrawal of that time may have died with the process."""
        since = (self.began if self.armed is None else self.armed) - SPANS_BEFORE_S
        until = self.ended + (self.recovery_s or 0.0) + SPANS_AFTER_S
        return asked < until and finished + SPANS_AFTER_S > since


class Latency(msgspec.Struct, frozen=True):
    """From request to end, seconds."""

    p50_s: float
    p99_s: float
    max_s: float


def check_outcomes(dsn: str, asked: Mapping[UUID, int], provider_faults: bool) -> Check:
    """Whether every withdrawal that Kafka took has ended, and as it had to.

    Args:
        dsn: of the saga service's database.
        asked: amount in minor units by payment ID.
        provider_faults: a payment may have failed after its last attempt.
    """
    with session(dsn) as connection:
        states: dict[UUID, str] = dict(connection.execute(_STATES).fetchall())
    wrong = []
    for payment_id, amount_minor in asked.items():
        wanted = {_ending(amount_minor)} | ({"compensated"} if provider_faults else set())
        if (state := states.get(payment_id, "unknown")) not in wanted:
            wrong.append(f"{payment_id} is {state}, not {_ending(amount_minor)}")
    wrong += [f"{payment_id} was never asked for" for payment_id in states.keys() - asked.keys()]
    return _check("outcomes", wrong, f"all {len(asked):,} withdrawals asked for ended as they had to")


def _ending(amount_minor: int) -> str:
    if amount_minor == INSUFFICIENT_AMOUNT_MINOR:
        return "rejected"
    return "compensated" if amount_minor % 100 == CENTS_DECLINED else "completed"


def check_answers(requests: Mapping[str, Request]) -> Check:
    """Whether each request that the API took is one withdrawal, that of every answer: by its key, never by luck.

    That these withdrawals exist and ended, and no others do, is for :func:`check_outcomes`.

    Args:
        requests: by idempotency key, asked for again until each was answered.
    """
    wrong, key_of = [], dict[UUID, str]()
    for key, request in requests.items():
        wanted = request.account_id, amount_text(request.amount_minor, CURRENCY), CURRENCY
        if request.refused is not None:
            wrong.append(f"{key} was refused: {request.refused}")
        elif not request.answers:
            wrong.append(f"{key} was never answered")
        elif len({answer.payment_id for answer in request.answers}) > 1:
            wrong.append(f"{key} became {len(request.answers)} withdrawals")
        elif any((one.account_id, one.amount, one.currency) != wanted for one in request.answers):
            wrong.append(f"{key} was answered as another request")
        wrong += [
            f"{key} and {other} became one withdrawal"
            for payment_id in {answer.payment_id for answer in request.answers}
            if (other := key_of.setdefault(payment_id, key)) != key
        ]
    return _check("answers", wrong, f"each of {len(requests):,} requests is one withdrawal, whatever was repeated")


def check_stream(dsn: str, follower: Follower) -> Check:
    """Whether somebody who follows the endings was told of each once, whatever cut them off.

    Args:
        dsn: of the saga service's database.
        follower: who followed from the beginning.
    """
    with session(dsn) as connection:
        ended: dict[UUID, str] = dict(connection.execute(_ENDED).fetchall())
    times = Counter(payment_id for payment_id, _ in follower.told)
    wrong = [f"{payment_id} was told {count} times" for payment_id, count in times.items() if count > 1]
    wrong += [
        f"{payment_id} was told as {state}, but is {ended.get(payment_id, 'not finished')}"
        for payment_id, state in follower.told
        if ended.get(payment_id) != state
    ]
    wrong += [f"{payment_id} was not told" for payment_id in ended.keys() - times.keys()]
    wrong += [f"the stream was refused: {follower.refused}"] if follower.refused is not None else []
    told = f"each of {len(ended):,} endings was told once, over {follower.connections:,} connections"
    return _check("stream", wrong, told)


def check_money(dsns: Mapping[str, str]) -> Check:
    """Whether what left each account is what the provider paid out for it, to the cent."""
    left, net, paid = (
        _by_account(dsns[name], sql) for name, sql in (("account", _HELD), ("account", _NET), ("provider", _PAID))
    )
    accounts = {one: (left.get(one, 0), net.get(one, 0), paid.get(one, 0)) for one in sorted({*left, *net, *paid})}
    wrong = [
        f"{account_id}: balance fell by {fell}, ledger says {booked}, provider paid {out}"
        for account_id, (fell, booked, out) in accounts.items()
        if not fell == booked == out
    ]
    total = sum(left.values()) / 100
    return _check("money", wrong, f"{total:,.2f} left the accounts, of each what the provider paid for it")


def check_dead_letters(bootstrap: str, planted: Set[str]) -> Check:
    """Whether no message was dead-lettered, as an outage is no reason to; and whether all planted records were.

    Args:
        bootstrap: Kafka, ``host:port``.
        planted: names of records that cannot be read, by their header.
    """
    wrong, refused = [], set()
    for one in read_letters(bootstrap):
        name = headers.text(one.record.headers, PLANTED)
        if name is None:
            wrong.append(f"{one.id}: {one.refusals[0].reason}")
        else:
            refused.add(name)
    wrong += [f"{name} was planted, but not refused" for name in sorted(planted - refused)]
    good = f"no message was given up but the {len(planted)} planted ones" if planted else "no message was given up"
    return _check("dead letters", wrong, good)


def check_traces(dsn: str, collector: SpanCollector, done: Sequence[Done]) -> Check:
    """Whether the traces of withdrawals that no fault touched are whole.

    What a process has not sent when it is killed is lost: a trace that a fault touched may have holes.
    """
    with session(dsn) as connection:
        traced = connection.execute(_TRACED, (collector.trace_ids(),)).fetchall()
    deadline = time.monotonic() + SPANS_AFTER_S
    wrong, whole, untouched = [], 0, 0
    for trace_id, state, reason, asked, finished in traced:
        missing = what_is_missing(collector.trace(trace_id), state, reason)
        while missing is not None and time.monotonic() < deadline:
            time.sleep(SPANS_POLL_S)  # the last spans are on their way
            missing = what_is_missing(collector.trace(trace_id), state, reason)
        whole += missing is None
        if any(one.touched(asked, finished) for one in done):
            continue
        untouched += 1
        if missing is not None:
            wrong.append(f"{trace_id} ({state}): {missing}")
    good = f"{whole:,} of {len(traced):,} sampled are whole, of {untouched:,} that no fault touched all"
    return _check("traces", wrong, good)


def check_recovery(dsn: str, done: Sequence[Done]) -> Check:
    """Measure how long each fault kept withdrawals from completing, and whether none did so for too long."""
    with session(dsn) as connection:
        for one in done:
            moment = datetime.fromtimestamp(one.began, UTC)
            row = connection.execute(_RECOVERED, (_first_id(one.began), moment)).fetchone()
            if row is not None and row[0] is not None:
                one.recovery_s = max(row[0] - one.began, 0.0)
    wrong = [
        f"{one.fault.in_words()}: " + ("never" if one.recovery_s is None else f"{one.recovery_s:.1f} s")
        for one in too_long(done)
    ]
    longest = max((one.recovery_s or 0.0 for one in done), default=0.0)
    return _check("recovery", wrong, f"withdrawals completed again after {longest:.1f} s at the most")


def too_long(done: Sequence[Done]) -> list[Done]:
    """Faults after which nothing was completed for :data:`RECOVERY_S_MAX`, with no other one meanwhile."""
    late = []
    for one in done:
        completed = math.inf if one.recovery_s is None else one.began + one.recovery_s
        struck_last = max(other.began for other in done if other.began <= completed)
        if completed - struck_last > RECOVERY_S_MAX:
            late.append(one)
    return late


def measure_latency(dsn: str) -> Latency:
    """How long withdrawals took, all of them."""
    with session(dsn) as connection:
        row = connection.execute(_LATENCIES).fetchone()
    assert row is not None
    return Latency(*row[0])


def check_latency(latency: Latency) -> Check:
    """Whether latency stayed within its limit: for a run that only restarts services."""
    found = f"p99 {latency.p99_s:.2f} s"
    return _check("latency", [found] if latency.p99_s >= P99_S_MAX else [], f"{found}, limit {P99_S_MAX:g} s")


def audit_check(audit: Audit) -> Check:
    """The audit's verdict in one line; its own checks have the details."""
    wrong = [f"{check.name}: {check.detail}" for check in audit.checks if not check.ok]
    return _check("audit", wrong, f"all {len(audit.checks)} checks over all databases and topics hold")


def _first_id(moment: float) -> UUID:
    """The smallest UUID of version 7 of a time, seconds since the epoch."""
    return UUID(int=(int(moment * 1000) << 80) | (7 << 76) | (2 << 62))


def _by_account(dsn: str, query: str) -> dict[str, int]:
    with session(dsn) as connection:
        return dict(connection.execute(query).fetchall())


def _check(name: str, wrong: Sequence[str], good: str) -> Check:
    more = f"; and {len(wrong) - EXAMPLES_MAX} more" if len(wrong) > EXAMPLES_MAX else ""
    return Check(name, not wrong, "; ".join(wrong[:EXAMPLES_MAX]) + more if wrong else good)
