"""Requests that the API has accepted and the saga service never received, although they are nowhere on their way.

The record was deleted unread (retention, a lost volume, offsets that somebody set forward), or its outbox row was
discarded. A request is looked for at one place after the other, in the order in which it passes them: what has
left one by then is found at the next. So none is called lost that is only late, however far behind a service is.
One that was cancelled meanwhile is no fault of money: the payment service pays it no more, whatever is published.
A list of what is stuck names it all the same, as its caller waits for an end until it is published.
"""

import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from typing import Any
from uuid import UUID

import psycopg
from confluent_kafka import Message

from broker.offsets import TIMEOUT_S, Offsets
from broker.records import Record, payment_id_of
from broker.scan import in_time, scan
from contracts.events import WithdrawalRequested
from contracts.postgres import session
from contracts.services import API
from contracts.topics import WITHDRAWAL_REQUESTS, consumer_group
from operations.accepted import ON_ITS_WAY_S
from operations.audit.sides import FETCH_ROWS, PAYMENT_ID_OF_DEAD, PAYMENT_ID_OF_ROW
from operations.dead_letters.letters import TOO_MANY, letter_of
from operations.errors import BacklogError, UnaskedError
from processors.payment import decide as payment

EXAMINED_MAX = 10_000
"""The newest requests, which a list of what is stuck looks at; the audit looks at all."""

STEP_PAGES = 2_000
"""Pages of the API's table, 16 MiB, of a step back from its end to the newest requests: the table only grows."""

NEWEST_S_MAX = 1.5
"""Time limit for these steps."""

SAGA = "the saga service"

UNKNOWN_MAX = 1_000_000
"""Requests that the saga service does not know, and that are looked for."""

UNREAD_MAX = 20_000
"""Records that the saga service has yet to read; where a list of what is stuck finds more, it reads none."""

READ_S_MAX = 2.0
"""Time limit for each statement, each answer of Kafka's and reading each topic, for a list of what is stuck."""

_ACCEPTED = """
SELECT payment_id::text FROM withdrawals
WHERE requested_at < now() - make_interval(secs => %(age)s)
    AND (%(ids)s::uuid[] IS NULL OR payment_id = ANY(%(ids)s::uuid[]))
    AND (%(since)s::timestamptz IS NULL OR requested_at >= %(since)s::timestamptz)
"""

_PAGES = "SELECT pg_relation_size('withdrawals') / current_setting('block_size')::bigint"

# The pages by a scan of their own (TID range), as no index has all callers' requests by time.
_NEWEST = """
SELECT payment_id::text FROM withdrawals
WHERE requested_at < now() - make_interval(secs => %(age)s)
    AND ctid >= %(first)s::tid AND ctid < %(end)s::tid
ORDER BY requested_at DESC LIMIT %(limit)s
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

_CONTENTS = "SELECT payment_id, account_id, amount_minor, currency FROM withdrawals WHERE payment_id = ANY(%s)"

_CANCELLATIONS = """
SELECT payment_id, account_id, amount_minor, currency FROM payments WHERE payment_id = ANY(%s) AND status = %s
"""


def lost_requests(
    dsns: Mapping[str, str],
    bootstrap: str,
    payment_ids: Collection[UUID] | None = None,
    since: datetime | None = None,
) -> list[UUID]:
    """The payment IDs of requests that are lost, without cancelled ones; with them, where some are named.

    One that was accepted in the last :data:`operations.accepted.ON_ITS_WAY_S` is not among them.

    Args:
        dsns: of ``api``, ``payment`` and ``saga``; without the first none was accepted.
        bootstrap: Kafka, ``host:port``.
        payment_ids: only of these.
        since: only those that were accepted then or later.

    Raises:
        BacklogError: the saga service does not know more than :data:`UNKNOWN_MAX` of them.
        psycopg.OperationalError: a database does not answer.
        KafkaException: Kafka does not answer.
    """
    if API not in dsns:
        return []
    candidates: list[UUID] = []
    with session(dsns["saga"], autocommit=True) as saga, session(dsns[API]) as api:
        for some in _accepted(api, payment_ids, since):
            candidates += unknown(saga, some)
            if len(candidates) > UNKNOWN_MAX:
                raise BacklogError(SAGA, f"it does not know over {UNKNOWN_MAX:,} requests yet")
    lost = _arrived_nowhere(dsns, bootstrap, candidates, math.inf)
    cancelled = _cancelled(dsns, lost, math.inf) if payment_ids is None else ()
    return [payment_id for payment_id in lost if payment_id not in cancelled]


def lost_unless_behind(dsns: Mapping[str, str], bootstrap: str, since: datetime | None) -> list[UUID] | None:
    """As :func:`lost_requests` of all; None where the saga service is too far behind to tell."""
    try:
        return lost_requests(dsns, bootstrap, since=since)
    except BacklogError:
        return None


def newest_accepted(connection: psycopg.Connection[Any], older_than_s: float) -> list[str]:
    """The newest :data:`EXAMINED_MAX` requests that were accepted so many seconds ago or earlier: payment IDs.

    Raises:
        BacklogError: younger ones are so many that these are not found in :data:`NEWEST_S_MAX`.
        psycopg.Error: the API's database does not answer.
    """
    age_s, give_up = max(older_than_s, ON_ITS_WAY_S), time.monotonic() + NEWEST_S_MAX
    found: list[str] = []
    ((end,),) = connection.execute(_PAGES)
    while end > 0 and len(found) < EXAMINED_MAX:
        if time.monotonic() > give_up:
            raise BacklogError("the api database", f"requests of the last {age_s:g} s are too many to look behind")
        first, limit = max(end - STEP_PAGES, 0), EXAMINED_MAX - len(found)
        values = {"age": age_s, "first": f"({first},0)", "end": f"({end},0)", "limit": limit}
        found += [payment_id for (payment_id,) in connection.execute(_NEWEST, values)]
        end = first
    return found


def unknown(connection: psycopg.Connection[Any], payment_ids: Collection[str]) -> list[UUID]:
    """Which of some withdrawals the saga service does not know, from its database."""
    found = connection.execute(_UNKNOWN, (f"{{{','.join(payment_ids)}}}",))
    return [payment_id for (payment_id,) in found]


def still_lost(
    dsns: Mapping[str, str], bootstrap: str, payment_ids: Collection[UUID], read_s_max: float = math.inf
) -> dict[UUID, bool]:
    """Which of some requests that the API has accepted, and that the saga service did not know, are lost.

    Those are not that wait in the outbox or among its dead rows, or on the topic to be read; nor those that the
    saga service refused, whatever was done about the dead letter.

    Args:
        dsns: of ``api``, ``payment`` and ``saga``.
        bootstrap: Kafka, ``host:port``.
        payment_ids: of the requests.
        read_s_max: time limit for reading each topic, each other answer of Kafka's and each statement, seconds.

    Returns:
        Whether it was cancelled, by payment ID.

    Raises:
        BacklogError: with a time limit, there is too much to read of what the saga service or the API's has.
        TimeoutError: with a time limit, dead letters are too many.
        UnaskedError: with a time limit, a database does not answer.
        psycopg.Error: without one, a database does not answer.
        KafkaException: Kafka does not answer.
    """
    lost = _arrived_nowhere(dsns, bootstrap, payment_ids, read_s_max)
    cancelled = _cancelled(dsns, lost, read_s_max)
    return {payment_id: payment_id in cancelled for payment_id in lost}


@contextmanager
def limited_session(dsns: Mapping[str, str], name: str, answer_s: float) -> Iterator[psycopg.Connection[Any]]:
    """A session with a database, by its name.

    Args:
        dsns: by name.
        name: of the database.
        answer_s: time limit for each statement, seconds; infinite for none. With one, errors name the database.

    Raises:
        UnaskedError: with a time limit, it does not answer.
        psycopg.Error: without one, it does not answer.
    """
    try:
        with session(dsns[name]) as connection:
            if math.isfinite(answer_s):
                connection.execute(f"SET statement_timeout = '{answer_s}s'".encode())
            yield connection
    except psycopg.Error as error:
        if math.isinf(answer_s):
            raise
        raise UnaskedError(f"the {name} database", str(error)) from error


def _arrived_nowhere(
    dsns: Mapping[str, str], bootstrap: str, payment_ids: Collection[UUID], read_s_max: float
) -> list[UUID]:
    left = {*payment_ids}
    if not left:
        return []
    with limited_session(dsns, API, read_s_max) as api:
        values = {"type": WithdrawalRequested.__name__, "ids": [str(one) for one in left]}
        try:
            left -= {UUID(payment_id) for (payment_id,) in api.execute(_UNPUBLISHED.encode(), values)}
        except psycopg.errors.QueryCanceled:
            raise BacklogError("the api database", "its outbox is too large to look through") from None
    for payment_id in chain(_unread(bootstrap, read_s_max), _refused(bootstrap, read_s_max)) if left else ():
        left.discard(payment_id)
        if not left:
            break
    if not left:
        return []
    with limited_session(dsns, "saga", read_s_max) as saga:
        return unknown(saga, [str(one) for one in left])


def _cancelled(dsns: Mapping[str, str], payment_ids: list[UUID], read_s_max: float) -> set[UUID]:
    """Those that the payment service is to void as soon as it knows them: cancelled with the same contents."""
    if not payment_ids:
        return set()
    try:
        with limited_session(dsns, "payment", read_s_max) as connection:
            wishes = {*connection.execute(_CANCELLATIONS, (payment_ids, payment.AWAITED))}
    except UnaskedError:
        return set()  # a list of what is stuck says itself that this database does not answer
    if not wishes:
        return set()
    with limited_session(dsns, API, read_s_max) as api:
        requests = {*api.execute(_CONTENTS, ([payment_id for payment_id, *_ in wishes],))}
    return {payment_id for payment_id, *_ in wishes & requests}


def _accepted(
    api: psycopg.Connection[Any], payment_ids: Collection[UUID] | None, since: datetime | None
) -> Iterator[list[str]]:
    cursor = api.cursor("accepted_requests")
    cursor.itersize = FETCH_ROWS
    ids = list(payment_ids) if payment_ids is not None else None
    cursor.execute(_ACCEPTED, {"age": ON_ITS_WAY_S, "ids": ids, "since": since})
    while rows := cursor.fetchmany(FETCH_ROWS):
        yield [payment_id for (payment_id,) in rows]


def _unread(bootstrap: str, answer_s: float) -> Iterator[UUID | None]:
    """The payment IDs of the requests that the saga service has not confirmed.

    Raises:
        BacklogError: the time for an answer is limited, and there are more than :data:`UNREAD_MAX`, or too many to
            be read in that time.
    """
    offsets, topics = Offsets(bootstrap, timeout_s=min(answer_s, TIMEOUT_S)), [WITHDRAWAL_REQUESTS.name]
    confirmed = offsets.confirmed(consumer_group("saga"), topics)
    first, ends = offsets.bounds(topics)
    # Nothing is confirmed of a topic that was made anew and is shorter now.
    starts = {place: read if 0 <= (read := confirmed.get(place, 0)) <= end else 0 for place, end in ends.items()}
    starts = {place: max(start, first[place]) for place, start in starts.items()}
    starts = {place: start for place, start in starts.items() if start < ends[place]}
    unread = sum(ends[place] - start for place, start in starts.items())
    if math.isfinite(answer_s) and unread > UNREAD_MAX:
        raise BacklogError(SAGA, f"it is behind by {unread:,} records of {WITHDRAWAL_REQUESTS.name}")
    if not starts:
        return
    too_many = "the requests that it has yet to read are too many to look through"
    try:
        for message in in_time(scan(bootstrap, topics, starts), answer_s, too_many):
            yield payment_id_of(_record(message))
    except TimeoutError as error:
        raise BacklogError(SAGA, str(error)) from None


def _refused(bootstrap: str, read_s_max: float) -> Iterator[UUID | None]:
    """The payment IDs of the requests that the saga service refused.

    Raises:
        TimeoutError: they are too many for so many seconds.
    """
    messages = scan(bootstrap, [WITHDRAWAL_REQUESTS.dead_letters])
    for message in in_time(messages, read_s_max, TOO_MANY):
        letter = letter_of(message)
        if letter.refusals[-1].service == "saga":
            yield payment_id_of(letter.record)


def _record(message: Message) -> Record:
    return Record(WITHDRAWAL_REQUESTS.name, 0, 0, None, message.value(), [])
