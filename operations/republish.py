"""Republishing of events that Kafka lost: found in the services' own tables, inserted into their outboxes again.

The event store has most of them whole, with their message IDs. Those that the saga service never received are
looked for in the outboxes and on the topics, where they may be unread, and otherwise rebuilt from the service's
tables: under the ID of a dead letter that one became, so that a later redrive is a duplicate, else under one
that is the same each time, so that consumers can deduplicate. No service acts on a payment ID twice anyway.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import cache
from itertools import chain, groupby, islice
from typing import Any
from uuid import UUID

from broker.records import Record
from broker.scan import scan
from contracts import headers
from contracts.events import EVENT_TYPES, decode, same_withdrawal
from contracts.postgres import session
from contracts.services import API, PROCESSORS, READ_BY, WRITTEN_BY
from contracts.topics import dead_letter_topic
from operations.audit.sides import FETCH_ROWS, PAYMENT_ID_OF_DEAD, PAYMENT_ID_OF_ROW
from operations.dead_letters.letters import letter_of
from operations.functions import REPUBLISH_FUNCTION
from operations.lost import Known, Lost, Preview
from operations.lost_requests import lost_requests, lost_unless_behind
from operations.rebuild import rebuild
from processors.account import decide as account
from processors.runtime.messages import Message, read_record
from producers.publish import Outgoing, publish

REQUESTS_AT_ONCE = 1_000
"""Requests handed to the Kafka client between two flushes."""

_TELL = tuple(name for name in READ_BY if name != "saga")
"""Services on whose events others act; no service acts on the saga's."""

_AGGREGATES = {service.name: topic.aggregate for service in PROCESSORS for topic in service.emits}
_ORDER = {event_type: place for place, event_type in enumerate(EVENT_TYPES)}

# All streams have the same order; the database's clock decides whether something is old enough.
_OLD = """
    coalesce(%(since)s::timestamptz <= {table}.created_at, true),
    {table}.updated_at < now() - make_interval(secs => %(quiet_s)s)
"""
_WANTED = "(%(ids)s::uuid[] IS NULL OR payment_id = ANY(%(ids)s))"
_REFUSED = [account.UNKNOWN_ACCOUNT, account.CURRENCY_MISMATCH, account.INSUFFICIENT_FUNDS]

_KNOWN = {
    "saga": f"""
        SELECT payment_id, {_OLD.format(table="w")}, seen FROM withdrawals w WHERE {_WANTED} ORDER BY payment_id
    """,  # noqa: S608 made of constants
    "notification": f"""
        SELECT payment_id, bool_and(since), bool_and(quiet), array_agg(template), array_agg(status)
        FROM (SELECT payment_id, {_OLD.format(table="n")}, template, status FROM notifications n WHERE {_WANTED})
            AS n (payment_id, since, quiet, template, status)
        GROUP BY payment_id ORDER BY payment_id
    """,  # noqa: S608 made of constants
    "payment": f"""
        SELECT payment_id, {_OLD.format(table="p")}, status, cancel_refused FROM payments p
        WHERE {_WANTED} ORDER BY payment_id
    """,  # noqa: S608 made of constants
    "account": f"""
        SELECT payment_id, {_OLD.format(table="l")}, status, status <> 'rejected' OR reason = ANY(%(refused)s),
            EXISTS (SELECT FROM refunds_due d WHERE d.payment_id = l.payment_id)
        FROM saga_log l WHERE {_WANTED} ORDER BY payment_id
    """,  # noqa: S608 made of constants
    API: """
        SELECT payment_id, coalesce(%(since)s::timestamptz <= requested_at, true),
            requested_at < now() - make_interval(secs => %(quiet_s)s)
        FROM withdrawals WHERE payment_id = ANY(%(lost_requests)s) ORDER BY payment_id
    """,
}

_STORED = """
SELECT DISTINCT ON (payment_id, type) payment_id, type, event_id, payload::text, w.account_id
FROM event_store e JOIN withdrawals w USING (payment_id) WHERE payment_id = ANY(%s)
ORDER BY payment_id, type, sequence
"""

_WAITING = f"""
SELECT {PAYMENT_ID_OF_ROW}, type, id::text, aggregateid, convert_to(payload::text, 'UTF8'), traceparent, tracestate
FROM outbox WHERE {PAYMENT_ID_OF_ROW} = ANY(%(ids)s)
UNION ALL
SELECT {PAYMENT_ID_OF_DEAD}, type, id, aggregateid, payload, traceparent, tracestate
FROM outbox_dead WHERE {PAYMENT_ID_OF_DEAD} = ANY(%(ids)s) AND num_nulls(type, id, aggregateid) = 0
"""  # noqa: S608 made of constants

_DEAD = "SELECT id FROM outbox_dead WHERE id = ANY(%s)"
# A row that is in the outbox already is published anyway.
_INSERT = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, traceparent, tracestate)
SELECT n.* FROM (VALUES (%s::uuid, %s, %s, %s, %s::text::json, %s, %s)) AS n (id)
WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.id = n.id)
"""

_HAS_FUNCTION = "SELECT to_regprocedure(%s) IS NOT NULL"
_CALL = "SELECT public.settle_republish(%s::uuid, %s, %s, %s, %s)"

Choose = Callable[[Known], set[str]]
"""Chooses the event types to publish, by what is known of a withdrawal."""


def find(
    dsns: Mapping[str, str],
    bootstrap: str,
    choose: Choose,
    *,
    payment_ids: Sequence[UUID] | None = None,
    since: datetime | None = None,
    quiet_s: float = 0.0,
    limit: int | None = None,
) -> list[Lost]:
    """The events to republish, by withdrawal and in the order in which they happened.

    A request that is lost, and that the API alone knows, is among them only if it is named: somebody may have
    discarded its row, so that it is not to be paid. :mod:`operations.lost_requests` finds them.

    Reads the topics (some 10 s per million records) where the event store lacks an event.

    Args:
        dsns: by service, of :data:`contracts.services.NAMES`; the API's is missing where there is none.
        bootstrap: Kafka, ``host:port``.
        choose: the event types of a withdrawal.
        payment_ids: of these withdrawals; without them, of all.
        since: only of withdrawals that began then or later.
        quiet_s: leave out withdrawals that changed in the last so many seconds, as their events may be in flight.
        limit: withdrawals at the most, by ascending payment ID.

    Raises:
        psycopg.OperationalError: a database does not answer.
        KafkaException: Kafka does not answer.
    """
    about = {
        "ids": list(payment_ids) if payment_ids is not None else None,
        "since": since,
        "quiet_s": quiet_s,
        "refused": _REFUSED,
        "lost_requests": lost_requests(dsns, bootstrap, payment_ids) if payment_ids is not None else [],
    }
    of = cache(choose)  # there are few distinct states
    chosen = ((payment_id, of(known)) for payment_id, known in _known(dsns, about))
    wanted = dict(islice(((payment_id, types) for payment_id, types in chosen if types), limit))
    found = _stored(dsns["saga"], wanted)
    missing = {payment_id: types - found[payment_id].keys() for payment_id, types in wanted.items()}
    missing = {payment_id: types for payment_id, types in missing.items() if types}
    if missing:
        again = rebuild(dsns, missing)
        # A row that was removed from an outbox is on its topic, so the topics are read last.
        originals = _waiting(dsns, missing)
        for payment_id, event_type, one in _on_topics(bootstrap, missing, again):
            originals.setdefault((payment_id, event_type), one)
        for payment_id, types in missing.items():
            for event_type in types & again[payment_id].keys():
                original = originals.get((payment_id, event_type))
                found[payment_id][event_type] = original or again[payment_id][event_type]
    return [
        found[payment_id][event_type]
        for payment_id, types in wanted.items()
        for event_type in sorted(types & found[payment_id].keys(), key=_ORDER.__getitem__)
    ]


def preview(
    dsns: Mapping[str, str],
    bootstrap: str,
    choose: Choose,
    *,
    payment_ids: Sequence[UUID] | None = None,
    since: datetime | None = None,
    quiet_s: float = 0.0,
    limit: int,
    only_lost_requests: bool = False,
) -> Preview:
    """The events to republish, and which requests only the API has; as :func:`find`, with a choice beside that.

    Args:
        dsns: by service.
        bootstrap: Kafka, ``host:port``.
        choose: the event types of a withdrawal.
        payment_ids: only of these withdrawals.
        since: only of withdrawals that began then or later.
        quiet_s: leave out withdrawals that changed in the last so many seconds.
        limit: withdrawals, and lost requests, at the most.
        only_lost_requests: where none are named, those requests instead of what services lack. What was cancelled,
            or refused by the saga service, is not among them; what was discarded from the API's outbox is, as
            nothing is left of that.
    """
    lost = lost_unless_behind(dsns, bootstrap, since) if payment_ids is None else []
    total, first = (len(lost), sorted(lost)[:limit]) if lost is not None else (None, None)
    if payment_ids is None and only_lost_requests:
        if not first:
            return Preview([], first, total)
        payment_ids = first
    found = find(dsns, bootstrap, choose, payment_ids=payment_ids, since=since, quiet_s=quiet_s, limit=limit)
    return Preview(found, first, total)


def republish(dsns: Mapping[str, str], bootstrap: str, events: Sequence[Lost], timeout_s: float) -> list[Lost]:
    """Insert events into their services' outboxes, for the relay to publish; requests go to Kafka directly.

    Safe to repeat, whether it failed or not. An event that the relay has quarantined, as Kafka did not accept it,
    is left there: a person puts that row back once the cause is fixed.

    Args:
        dsns: by service, of :data:`contracts.services.NAMES`.
        bootstrap: Kafka, ``host:port``.
        events: as :func:`find` returned them.
        timeout_s: how long Kafka may take to confirm a request, seconds.

    Returns:
        Those that are dead rows of their outbox.

    Raises:
        psycopg.OperationalError: a database does not answer.
        psycopg.errors.InsufficientPrivilege: the role may not, or the service's tables do not prove an event.
        NotDeliveredError: Kafka did not confirm a request in time.
    """
    by_service: dict[str | None, list[Lost]] = defaultdict(list)
    for event in events:
        by_service[WRITTEN_BY.get(event.event_type)].append(event)
    requests = by_service.pop(None, [])
    for first in range(0, len(requests), REQUESTS_AT_ONCE):
        publish(bootstrap, [_outgoing(one) for one in requests[first : first + REQUESTS_AT_ONCE]], timeout_s)
    left: list[Lost] = []
    for service, some in by_service.items():
        assert service is not None
        with (
            session(dsns[service]) as connection,
            connection.cursor() as cursor,
        ):
            ids = [str(one.message_id) for one in some]
            dead = {row_id for (row_id,) in cursor.execute(_DEAD, (ids,))}
            left += [one for one in some if str(one.message_id) in dead]
            again = [one for one in some if str(one.message_id) not in dead]
            (by_function,) = cursor.execute(_HAS_FUNCTION, (REPUBLISH_FUNCTION,)).fetchone() or (False,)
            if by_function:
                cursor.executemany(_CALL, [_arguments(one) for one in again])
            else:
                cursor.executemany(_INSERT, [_row(service, one) for one in again])
    return left


def _arguments(event: Lost) -> tuple[object, ...]:
    return event.message_id, event.event_type, event.body, event.traceparent, event.tracestate


def _row(service: str, event: Lost) -> tuple[object, ...]:
    aggregate = _AGGREGATES.get(service, service)
    context = (event.traceparent, event.tracestate)
    return event.message_id, aggregate, event.key, event.event_type, event.body, *context


def _outgoing(event: Lost) -> Outgoing:
    fields: headers.Headers = [
        (headers.ID, str(event.message_id).encode()),
        (headers.EVENT_TYPE, event.event_type.encode()),
    ]
    if event.traceparent is not None:
        fields.append((headers.TRACEPARENT, event.traceparent.encode()))
    return Outgoing(event.topic, event.key, event.event_type, event.body.encode(), fields)


def _known(dsns: Mapping[str, str], about: Mapping[str, object]) -> Iterator[tuple[UUID, Known]]:
    """What is known of each withdrawal that is old enough, by ascending payment ID; in little memory."""
    with ExitStack() as stack:
        streams = []
        for service in (name for name in _KNOWN if name in dsns):
            connection = stack.enter_context(session(dsns[service]))
            cursor = connection.cursor(f"republish_{service}")
            cursor.itersize = FETCH_ROWS
            cursor.execute(_KNOWN[service].encode(), about)
            streams.append(_tagged(service, cursor))
        merged = heapq.merge(*streams, key=lambda item: item[0])
        for payment_id, sides in groupby(merged, key=lambda item: item[0]):
            rows = {service: row for _, service, row in sides}
            if all(since and quiet for _, since, quiet, *_ in rows.values()):
                yield payment_id, _as_known(rows)


def _tagged(service: str, rows: Any) -> Iterator[tuple[UUID, str, tuple[Any, ...]]]:
    for row in rows:
        yield row[0], service, row


def _as_known(rows: Mapping[str, tuple[Any, ...]]) -> Known:
    nothing = (None,) * 6
    _, _, _, status, requested, refund_due = rows.get("account", nothing)
    _, _, _, paid, cancel_refused, *_ = rows.get("payment", nothing)
    _, _, _, templates, notifications, *_ = rows.get("notification", nothing)
    return Known(
        account=status,
        requested=bool(requested),
        refund_due=bool(refund_due),
        payment=paid,
        cancel_refused=bool(cancel_refused),
        templates=frozenset(templates or ()),
        notifications=frozenset(notifications or ()),
        seen=rows["saga"][3] if "saga" in rows else None,
        accepted=API in rows,
    )


def _stored(dsn: str, wanted: Mapping[UUID, set[str]]) -> dict[UUID, dict[str, Lost]]:
    """The wanted events that the event store has whole."""
    found: dict[UUID, dict[str, Lost]] = {payment_id: {} for payment_id in wanted}
    with session(dsn) as connection:
        for payment_id, event_type, event_id, body, account_id in connection.execute(_STORED, (list(wanted),)):
            if event_type in wanted[payment_id]:
                key = str(payment_id) if WRITTEN_BY.get(event_type) == "saga" else account_id
                found[payment_id][event_type] = Lost(payment_id, event_type, event_id, key, body)
    return found


def _waiting(dsns: Mapping[str, str], missing: Mapping[UUID, set[str]]) -> dict[tuple[UUID, str], Lost]:
    """The missing events that are in an outbox, published or not, or quarantined."""
    found: dict[tuple[UUID, str], Lost] = {}
    for service in _TELL:
        with session(dsns[service]) as connection:
            rows = connection.execute(_WAITING.encode(), {"ids": [str(payment_id) for payment_id in missing]})
            for payment_id, event_type, message_id, key, body, *context in rows:
                try:
                    one = Lost(UUID(payment_id), event_type, UUID(message_id), key, body.decode(), *context)
                except ValueError:
                    continue  # a row of another system
                found.setdefault((one.payment_id, event_type), one)
    return found


def _on_topics(
    bootstrap: str, missing: Mapping[UUID, set[str]], again: Mapping[UUID, Mapping[str, Lost]]
) -> Iterator[tuple[UUID, str, Lost]]:
    """The missing events that are on the topics, or their dead letters, although the saga service lacks them."""
    types = {event_type: EVENT_TYPES[event_type].topic for event_type in set[str]().union(*missing.values())}
    topics = set(types.values())
    for record, is_letter in chain(_records(bootstrap, topics), _refused(bootstrap, topics)):
        message = read_record(record, types)
        if not isinstance(message, Message):
            continue
        event, event_type = message.event, type(message.event).__name__
        made = again.get(event.payment_id, {}).get(event_type)
        if made is None:
            continue
        # A record with other contents is not this withdrawal's.
        if same_withdrawal(event, decode(event_type, made.body.encode())):
            context = message.context.traceparent, message.context.tracestate
            # Who may write dead letters may not write events: only its ID is taken from one.
            body = made.body if is_letter else (record.value or b"").decode()
            one = Lost(event.payment_id, event_type, message.id, made.key, body, *context, made_again=is_letter)
            yield event.payment_id, event_type, one


def _records(bootstrap: str, topics: Iterable[str]) -> Iterator[tuple[Record, bool]]:
    for message in scan(bootstrap, topics):
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        fields = headers.of(message) or []
        yield Record(topic, partition, offset, message.key(), message.value(), fields), False


def _refused(bootstrap: str, topics: Iterable[str]) -> Iterator[tuple[Record, bool]]:
    """The originals of the dead letters of topics, whatever was done about them."""
    for message in scan(bootstrap, [dead_letter_topic(topic) for topic in topics]):
        yield letter_of(message).record, True
