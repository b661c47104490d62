"""Causes that hold withdrawals up: dead or unpublished outbox rows, dead letters, services down or behind.

The saga service knows which events it has received, and so whose step is next. That step may have been taken, and
its event waits in an outbox; or it cannot be taken, as its service refused the event that it acts on, or is down.
The services' databases and Kafka are queried in parallel, for seconds at the most; what does not answer is named.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from confluent_kafka import KafkaException
from psycopg.conninfo import make_conninfo

from broker.offsets import Offsets
from broker.provision import existing_topics
from broker.records import payment_id_of
from broker.scan import in_time, scan
from broker.troubles import denied
from contracts.postgres import session
from contracts.services import TOPICS
from contracts.topics import consumer_group
from operations.audit.sides import PAYMENT_ID_OF_DEAD, PAYMENT_ID_OF_ROW
from operations.dead_letters.letters import TOO_MANY, Letter, letter_of, still_open_of
from operations.lag import consumer_lag, without_members
from outbox_relay.errors import RelayError
from outbox_relay.status import OutboxStatus, outbox_status
from outbox_relay.topic import topic_named
from processors.runtime import utc
from processors.saga.decide import BITS, awaited_service, needed_for

ANSWER_S = 2
"""The shortest connection timeout of libpq; also that of each statement."""

KAFKA_ANSWER_S = 5.0
"""Of each answer of Kafka's: a new client connects to a broker, and to the one that coordinates a group."""

LETTERS_S_MAX = 2.0
"""Time limit for reading dead letters."""

CLOCKS_OFF_MS = 3_600_000
"""Tolerance for clock skew: a dead letter is younger than its withdrawal, by another machine's clock."""

LATE_S = 5.0
"""An older row is not in flight: a running relay publishes within milliseconds."""

BEHIND_RECORDS = 100
"""A service with so many records to read holds up what is among the last of them; fewer are in flight."""

_PENDING = {
    "notification": """
        SELECT payment_id, attempts, reason, NULL, next_attempt_at, false FROM notifications
        WHERE payment_id = ANY(%s) AND status = 'pending'
    """,
    "payment": """
        SELECT payment_id, attempts, reason, void_reason, next_attempt_at, claim IS NOT NULL FROM payments
        WHERE payment_id = ANY(%s) AND status = 'pending'
    """,
    "account": """
        SELECT payment_id, attempts, error, NULL, next_attempt_at, false FROM refunds_due
        WHERE payment_id = ANY(%s)
    """,
}
_DEAD = f"""
SELECT ({PAYMENT_ID_OF_DEAD})::uuid, type FROM outbox_dead
WHERE {PAYMENT_ID_OF_DEAD} = ANY(%s) AND type IS NOT NULL ORDER BY number
"""  # noqa: S608 made of constants
# By the account first, so that few bodies are searched.
_WAITING = f"""
SELECT ({PAYMENT_ID_OF_ROW})::uuid, type, aggregatetype, extract(epoch FROM clock_timestamp() - created_at)::float8
FROM outbox WHERE aggregateid = ANY(%s) AND {PAYMENT_ID_OF_ROW} = ANY(%s) ORDER BY id
"""  # noqa: S608 made of constants


class Open(msgspec.Struct, frozen=True):
    """A withdrawal that is not finished.

    Attributes:
        seen: the events that the saga service has received, as bits; 0 for none.
        since: the time before which there are no events of it; None where that is not known.
        also_acts_on: types of events, beside the one that its next step acts on, that it may wait for.
    """

    payment_id: UUID
    account_id: str | None
    seen: int = 0
    since: datetime | None = None
    also_acts_on: frozenset[str] = frozenset()

    def lacks(self, event_type: str) -> bool:
        """Whether the saga service has not received that event."""
        return event_type in _BITS and not self.seen & _BITS[event_type]

    def acts_on(self, event_type: str) -> bool:
        """Whether its next step is taken on that event."""
        needed = needed_for(self.seen)
        return event_type in self.also_acts_on or (needed is not None and event_type == needed.__name__)


_BITS = {event_type.__name__: bit for event_type, bit in BITS.items()}


class Pending(msgspec.Struct, frozen=True):
    """Work that a service will retry by itself: a charge, a mail, a refund.

    Attributes:
        attempts: made so far.
        reason: why the last one failed; None before the first.
        void_reason: for a payment that is to be voided rather than paid, why.
        next_attempt_at: when it is due.
        under_way: whether an attempt is in progress; if it fails, the next is due at ``next_attempt_at``.
    """

    attempts: int
    reason: str | None
    void_reason: str | None
    next_attempt_at: datetime
    under_way: bool

    def in_words(self) -> str:
        """One line for a person."""
        wish = f"to be voided: {self.void_reason}; " if self.void_reason else ""
        times = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        tried = f"{times}, last: {self.reason}" if self.attempts else self.reason or "not tried"
        when = "under way" if self.under_way else f"next at {self.next_attempt_at:%H:%M:%S} UTC"
        return f"{wish}{tried}; {when}"


class Found(NamedTuple):
    """The result of :func:`find`.

    Attributes:
        held_up_by: what a withdrawal waits for and what to do, one line each, by payment ID.
        pending: what a service will retry for it, by payment ID.
        idle: services of which no instance runs, of those that these withdrawals wait for, and ``saga``.
        unasked: what could not be queried (``the payment database``, ``Kafka``), and why.
    """

    held_up_by: dict[UUID, str]
    pending: dict[UUID, Pending]
    idle: set[str]
    unasked: dict[str, Exception]


class _Row(NamedTuple):
    event_type: str
    topic: str
    age_s: float


@dataclass
class ServiceSays:
    """What a service's database says of some withdrawals, or why it says nothing."""

    pending: dict[UUID, Pending] = field(default_factory=dict)
    dead: dict[UUID, str] = field(default_factory=dict)
    waiting: dict[UUID, _Row] = field(default_factory=dict)
    outbox: OutboxStatus | None = None
    error: Exception | None = None


@dataclass
class KafkaSays:
    """What Kafka says, or why it says nothing.

    Attributes:
        topics: those there are; None where it was not asked.
        idle: services of which no instance runs.
        behind: records that a service has yet to read.
        letters: open dead letters by payment ID, in the order in which they were refused.
    """

    topics: AbstractSet[str] | None = None
    idle: AbstractSet[str] = field(default_factory=set)
    behind: Mapping[str, int] = field(default_factory=Counter)
    letters: Mapping[UUID, Sequence[Letter]] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def refuses(self) -> bool:
        """Whether it answers, but not this user, who lacks a right: those who publish have others."""
        return isinstance(self.error, KafkaException) and denied(self.error.args[0]) is not None

    def of(self, withdrawals: Sequence[Open]) -> "KafkaSays":
        """What matters of it to some withdrawals."""
        services = {awaited_service(one.seen) for one in withdrawals} | {"saga"}
        found = {
            one.payment_id: [letter for letter in self.letters[one.payment_id] if _holds_up(letter, one)]
            for one in withdrawals
            if one.payment_id in self.letters
        }
        behind = {name: self.behind[name] for name in services & self.behind.keys()}
        letters = {payment_id: some for payment_id, some in found.items() if some}
        return KafkaSays(self.topics, self.idle & services, Counter(behind), letters, self.error)


def find(dsns: Mapping[str, str], bootstrap: str, withdrawals: Sequence[Open]) -> Found:
    """What holds these withdrawals up, as far as it can be queried; raises nothing.

    Args:
        dsns: of the services on whose events others act: all but ``saga``.
        bootstrap: Kafka, ``host:port``.
        withdrawals: that are not finished.
    """
    with ThreadPoolExecutor(len(dsns) + 1) as pool:
        of = dsns.items() if withdrawals else ()
        asked = {name: pool.submit(_ask_service, name, dsn, withdrawals) for name, dsn in of}
        kafka = _ask_kafka(bootstrap, withdrawals)
        services = {name: future.result() for name, future in asked.items()}
    return found_of(withdrawals, services, kafka)


def found_of(withdrawals: Sequence[Open], services: Mapping[str, ServiceSays], kafka: KafkaSays) -> Found:
    """What holds withdrawals up, by what the services and Kafka say of them."""
    unasked = {f"the {name} database": one.error for name, one in services.items() if one.error is not None}
    if kafka.error is not None:
        unasked["Kafka"] = kafka.error
    said = ((one.payment_id, _in_words(one, services, kafka)) for one in withdrawals)
    return Found(
        {payment_id: words for payment_id, words in said if words is not None},
        {payment_id: pending for one in services.values() for payment_id, pending in one.pending.items()},
        {*kafka.idle},
        unasked,
    )


def _in_words(one: Open, services: Mapping[str, ServiceSays], kafka: KafkaSays) -> str | None:
    for name, service in services.items():
        if (event_type := service.dead.get(one.payment_id)) is not None:
            return f"{event_type}, a dead row of the {name} outbox: `settle outbox dead list` says why"
    for name, service in services.items():
        if (row := service.waiting.get(one.payment_id)) is not None:
            why = _why_unpublished(row, service.outbox, kafka)
            if why is not None:
                return f"{row.event_type} in the {name} outbox: {why}"
    # What a service has in hand goes on by itself: a letter from before that is history.
    in_hand = any(one.payment_id in service.pending for service in services.values())
    if (letters := kafka.letters.get(one.payment_id)) and not in_hand:
        return refusal_in_words(one.payment_id, letters)
    for name in (awaited_service(one.seen), "saga"):
        if name in kafka.idle:
            return f"the {name} service, which does not run: consumer group {consumer_group(name)} has no member"
    for name in (awaited_service(one.seen), "saga"):
        if (behind := kafka.behind.get(name, 0)) >= BEHIND_RECORDS and not in_hand:
            return f"the {name} service, which is behind: up to {behind:,} records are before it"
    return None


def refusal_in_words(payment_id: UUID, letters: Sequence[Letter]) -> str:
    """What a withdrawal waits for whose event became dead letters: who refused the last of them."""
    event_type = letters[-1].event_type
    names = sorted({letter.refusals[-1].service for letter in letters if letter.event_type == event_type})
    services_that = f"{' and '.join(names)} service{'s' if len(names) > 1 else ''}"
    show = f"`settle dead-letters show {payment_id}`"
    return f"{event_type}, a dead letter: the {services_that} refused it; {show} says why"


def _why_unpublished(row: _Row, outbox: OutboxStatus | None, kafka: KafkaSays) -> str | None:
    """Why a row is still there; None where it may be in flight, or published and not removed yet."""
    if kafka.topics is None and not kafka.refuses:
        return "Kafka does not answer"
    if kafka.topics is not None and row.topic not in kafka.topics:
        return f"the relay waits for topic {row.topic}, which does not exist: `settle topics` creates it"
    if outbox is not None and outbox.paused is not None:
        return f"its relay is {outbox.paused}; `outbox-relay resume` has it go on"
    if outbox is not None and not outbox.active:
        return "no relay reads it: start it, or see what it waits for at its /readyz"
    if row.age_s > LATE_S:
        return "its relay has not published it: see what it waits for at its /readyz"
    return None


def _ask_service(service: str, dsn: str, withdrawals: Sequence[Open]) -> ServiceSays:
    try:
        with session(make_conninfo(dsn, connect_timeout=ANSWER_S), autocommit=True) as connection:
            connection.execute(f"SET statement_timeout = '{ANSWER_S}s'".encode())
            return service_says(connection, service, withdrawals)
    except (psycopg.Error, RelayError) as error:
        return ServiceSays(error=error)


def service_says(
    connection: psycopg.Connection[Any],
    service: str,
    withdrawals: Sequence[Open],
    *,
    has_dead: bool = True,
    has_late: bool = True,
) -> ServiceSays:
    """What a service's database says of some withdrawals.

    Args:
        connection: to it.
        service: whose it is.
        withdrawals: that are not finished.
        has_dead: whether its outbox may have dead rows.
        has_late: whether it may have rows that are not just in flight.

    Raises:
        psycopg.Error: it does not answer.
        RelayError: it has no outbox.
    """
    told = ServiceSays()
    by_id = {one.payment_id: one for one in withdrawals}
    ids, texts = list(by_id), [str(payment_id) for payment_id in by_id]
    accounts = list({one.account_id for one in withdrawals if one.account_id is not None})
    if service in _PENDING:
        rows = utc.cursor(connection).execute(_PENDING[service].encode(), (ids,))
        told.pending = {payment_id: Pending(*row) for payment_id, *row in rows}
    for payment_id, event_type in connection.execute(_DEAD.encode(), (texts,)) if has_dead else ():
        if by_id[payment_id].lacks(event_type):
            told.dead.setdefault(payment_id, event_type)
    waiting = connection.execute(_WAITING.encode(), (accounts, texts)) if has_late else ()
    for payment_id, event_type, aggregate_type, age_s in waiting:
        if by_id[payment_id].lacks(event_type):
            topic = topic_named(aggregate_type.encode()) or aggregate_type
            told.waiting.setdefault(payment_id, _Row(event_type, topic, age_s))
    if told.waiting:
        told.outbox = outbox_status(connection)
    return told


def _ask_kafka(bootstrap: str, withdrawals: Sequence[Open]) -> KafkaSays:
    told, letters, behind = KafkaSays(), dict[UUID, list[Letter]](), Counter[str]()
    try:
        told.topics = existing_topics(bootstrap, KAFKA_ANSWER_S)
        services = {awaited_service(one.seen) for one in withdrawals} | {"saga"}
        told.idle = without_members(bootstrap, services, KAFKA_ANSWER_S)
        if withdrawals:
            _read_letters(bootstrap, withdrawals, letters)
        told.letters = still_open_of(bootstrap, letters)
        if withdrawals:
            for service, _, lag in consumer_lag(bootstrap, services, KAFKA_ANSWER_S):
                behind[service] += lag
        told.behind = behind
    except (KafkaException, TimeoutError) as error:
        # Without its frames, which would keep the client: a late answer to it ends the process (librdkafka 4605).
        told.error = error.with_traceback(None)
    return told


def _read_letters(bootstrap: str, withdrawals: Sequence[Open], found: dict[UUID, list[Letter]]) -> None:
    """Find the dead letters that hold withdrawals up, of each in the order in which they are read.

    Raises:
        KafkaException: Kafka does not answer.
        TimeoutError: there are too many dead letters.
    """
    offsets, topics = Offsets(bootstrap, timeout_s=KAFKA_ANSWER_S), [topic.dead_letters for topic in TOPICS]
    times = [one.since.timestamp() if one.since is not None else 0 for one in withdrawals]
    starts = offsets.since(topics, max(0, int(min(times) * 1_000) - CLOCKS_OFF_MS))
    ends = offsets.end(topics)
    starts = {place: start for place, start in starts.items() if start < ends[place]}
    if not starts:
        return
    by_id = {one.payment_id: one for one in withdrawals}
    messages = scan(bootstrap, {topic for topic, _ in starts}, starts, ends)
    for message in in_time(messages, LETTERS_S_MAX, TOO_MANY):
        letter = letter_of(message)
        payment_id = payment_id_of(letter.record)
        one = by_id.get(payment_id) if payment_id is not None else None
        if one is not None and _holds_up(letter, one):
            found.setdefault(one.payment_id, []).append(letter)


def _holds_up(letter: Letter, one: Open) -> bool:
    event_type, refused_by = letter.event_type or "", letter.refusals[-1].service
    return one.lacks(event_type) if refused_by == "saga" else one.acts_on(event_type)


def open_by_payment(letters: Iterable[Letter]) -> dict[UUID, list[Letter]]:
    """Open dead letters by the payment ID in their bodies, one for each refusal, in their order."""
    found: dict[UUID, list[Letter]] = {}
    for letter in letters:
        if letter.open and (payment_id := payment_id_of(letter.record)) is not None:
            some = [msgspec.structs.replace(letter, refusals=[refusal]) for refusal in letter.refusals]
            found.setdefault(payment_id, []).extend(some)
    return found
