"""Requests that the API has accepted and the saga service never received, although they are nowhere on their way.

The record was deleted unread (retention, a lost volume, offsets that somebody set forward), or its outbox row was
discarded. A request is looked for at one place after the other, in the order in which it passes them: what has
left one by then is found at the next. So none is called lost that is only late, however far behind a service is.
"""

import math
import time
from collections.abc import Collection, Iterator, Mapping
from itertools import chain, islice
from typing import Any
from uuid import UUID

import psycopg
from confluent_kafka import Message

from broker.offsets import TIMEOUT_S, Offsets
from broker.records import Record, payment_id_of
from broker.scan import scan
from contracts.events import WithdrawalRequested
from contracts.postgres import session
from contracts.services import API
from contracts.topics import WITHDRAWAL_REQUESTS, consumer_group
from operations.accepted import ON_ITS_WAY_S
from operations.audit.sides import FETCH_ROWS, PAYMENT_ID_OF_DEAD, PAYMENT_ID_OF_ROW
from operations.dead_letters.letters import letter_of

EXAMINED_MAX = 10_000
"""The newest requests, which a list of what is stuck looks at; the audit looks at all."""

AT_ONCE = 50_000
"""Requests that are looked for in one pass over what Kafka has."""

READ_S_MAX = 2.0
"""Time limit for each answer of Kafka's and for reading what it has, for a list of what is stuck."""

_ACCEPTED = """
SELECT payment_id::text FROM withdrawals
WHERE requested_at < now() - make_interval(secs => %(age)s)
    AND (%(ids)s::uuid[] IS NULL OR payment_id = ANY(%(ids)s::uuid[]))
"""

# Each caller's own by the index that there is, so that no table is read for a few rows.
_NEWEST = """
WITH RECURSIVE callers AS (
    SELECT min(caller) AS caller FROM withdrawals
    UNION ALL
    SELECT (SELECT min(w.caller) FROM withdrawals w WHERE w.caller > c.caller) FROM callers c
    WHERE c.caller IS NOT NULL
)
SELECT w.payment_id::text FROM callers c, LATERAL (
    SELECT payment_id, requested_at FROM withdrawals
    WHERE caller = c.caller AND requested_at < now() - make_interval(secs => %(age)s)
    ORDER BY requested_at DESC LIMIT %(limit)s) w
ORDER BY w.requested_at DESC LIMIT %(limit)s
"""

_UNKNOWN = """
SELECT n.payment_id FROM unnest(%s::text::uuid[]) AS n (payment_id)
WHERE NOT EXISTS (SELECT FROM withdrawals w WHERE w.payment_id = n.payment_id)
"""

_UNPUBLISHED = f"""
SELECT {PAYMENT_ID_OF_ROW} FROM outbox WHERE type = %(type)s AND {PAYMENT_ID_OF_ROW} = ANY(%(ids)s)
UNION ALL
SELECT {PAYMENT_ID_OF_DEAD} FROM outbox_dead WHERE type = %(type)s AND {PAYMENT_ID_OF_DEAD} = ANY(%(ids)s)
"""  # noqa: S608 made of constants


def lost_requests(
    dsns: Mapping[str, str], bootstrap: str, payment_ids: Collection[UUID] | None = None
) -> Iterator[UUID]:
    """The payment IDs of all requests that are lost; memory does not grow with the number of those that are not.

    One that was accepted in the last :data:`operations.accepted.ON_ITS_WAY_S` is not among them.

    Args:
        dsns: of ``api`` and ``saga``; without the former none was accepted.
        bootstrap: Kafka, ``host:port``.
        payment_ids: only of these.

    Raises:
        psycopg.OperationalError: a database does not answer.
        KafkaException: Kafka does not answer.
    """
    if API not in dsns:
        return
    with session(dsns["saga"], autocommit=True) as saga, session(dsns[API]) as api:
        candidates = (one for some in _accepted(api, payment_ids) for one in unknown(saga, some))
        while some := list(islice(candidates, AT_ONCE)):
            yield from still_lost(dsns, bootstrap, some)


def newest_accepted(connection: psycopg.Connection[Any], older_than_s: float) -> list[str]:
    """The newest :data:`EXAMINED_MAX` requests that were accepted so many seconds ago or earlier: payment IDs."""
    values = {"age": max(older_than_s, ON_ITS_WAY_S), "limit": EXAMINED_MAX}
    return [payment_id for (payment_id,) in connection.execute(_NEWEST, values)]


def unknown(connection: psycopg.Connection[Any], payment_ids: Collection[str]) -> list[UUID]:
    """Which of some withdrawals the saga service does not know, from its database."""
    found = connection.execute(_UNKNOWN, (f"{{{','.join(payment_ids)}}}",))
    return [payment_id for (payment_id,) in found]


def still_lost(
    dsns: Mapping[str, str], bootstrap: str, payment_ids: Collection[UUID], read_s_max: float = math.inf
) -> list[UUID]:
    """Which of some requests that the API has accepted, and that the saga service did not know, are lost.

    Those are not that wait in the outbox or among its dead rows, or on the topic to be read; nor those that the
    saga service refused, whatever was done about the dead letter.

    Args:
        dsns: of ``api`` and ``saga``.
        bootstrap: Kafka, ``host:port``.
        payment_ids: of the requests.
        read_s_max: time limit for reading topics, and for each other answer of Kafka's, seconds.

    Raises:
        psycopg.OperationalError: a database does not answer.
        KafkaException: Kafka does not answer.
        TimeoutError: there is too much to read.
    """
    left = {*payment_ids}
    with session(dsns[API]) as api:
        values = {"type": WithdrawalRequested.__name__, "ids": [str(one) for one in left]}
        left -= {UUID(payment_id) for (payment_id,) in api.execute(_UNPUBLISHED.encode(), values)}
    give_up = time.monotonic() + read_s_max
    for payment_id in chain(_unread(bootstrap, read_s_max), _refused(bootstrap)) if left else ():
        left.discard(payment_id)
        if time.monotonic() > give_up:
            raise TimeoutError("the requests that the saga service has yet to read are too many to look through")
    with session(dsns["saga"]) as saga:
        return unknown(saga, [str(one) for one in left]) if left else []


def _accepted(api: psycopg.Connection[Any], payment_ids: Collection[UUID] | None) -> Iterator[list[str]]:
    cursor = api.cursor("accepted_requests")
    cursor.itersize = FETCH_ROWS
    cursor.execute(_ACCEPTED, {"age": ON_ITS_WAY_S, "ids": list(payment_ids) if payment_ids is not None else None})
    while rows := cursor.fetchmany(FETCH_ROWS):
        yield [payment_id for (payment_id,) in rows]


def _unread(bootstrap: str, answer_s: float) -> Iterator[UUID | None]:
    """The payment IDs of the requests that the saga service has not confirmed."""
    offsets, topics = Offsets(bootstrap, timeout_s=min(answer_s, TIMEOUT_S)), [WITHDRAWAL_REQUESTS.name]
    confirmed, ends = offsets.confirmed(consumer_group("saga"), topics), offsets.end(topics)
    # Nothing is confirmed of a topic that was made anew and is shorter now.
    starts = {place: read if 0 <= (read := confirmed.get(place, 0)) <= end else 0 for place, end in ends.items()}
    starts = {place: start for place, start in starts.items() if start < ends[place]}
    for message in scan(bootstrap, topics, starts) if starts else ():
        yield payment_id_of(_record(message))


def _refused(bootstrap: str) -> Iterator[UUID | None]:
    """The payment IDs of the requests that the saga service refused."""
    for message in scan(bootstrap, [WITHDRAWAL_REQUESTS.dead_letters]):
        letter = letter_of(message)
        if letter.refusals[-1].service == "saga":
            yield payment_id_of(letter.record)


def _record(message: Message) -> Record:
    return Record(WITHDRAWAL_REQUESTS.name, 0, 0, None, message.value(), [])
