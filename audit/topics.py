"""Do outboxes, topics and event store hold the same events? Each message ID is looked for on the other side.

Topics and event store are read side by side, both roughly in the order of events, and what has been met on both
sides is forgotten. So memory holds what is only on one side so far, and not all there is.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from confluent_kafka import Message as KafkaMessage

from contracts import headers
from contracts.events import EVENT_TYPES, WithdrawalRequested
from contracts.topics import READ_BY, WITHDRAWAL_EVENTS, consumer_group
from processors.runtime.messages import Message, Record, read
from processors.runtime.offsets import Offsets
from processors.runtime.scan import scan

FETCH_ROWS = 5_000
CONNECT_TIMEOUT_S = 5

_OWN = WITHDRAWAL_EVENTS.name
_TOPICS = tuple(dict.fromkeys([*(topic.name for topic in READ_BY["saga"]), _OWN]))
_KNOWN = frozenset(EVENT_TYPES)

# Append-only, so the order of the table is about that of the events.
_STORED = 'SELECT event_id::text, payment_id, type, topic, "partition", "offset" FROM event_store'

_FIND = "SELECT event_id::text FROM event_store WHERE event_id = ANY(%s::uuid[])"

_CONTENTS = """
SELECT payment_id, account_id, amount_minor, currency FROM withdrawals WHERE payment_id = ANY(%s::uuid[])
"""

_OUTBOX = "SELECT id, (payload->>'payment_id')::uuid, type FROM outbox"

_DEAD = "SELECT payload, type, reason FROM outbox_dead"
_NOT_STORED = """
SELECT n.payment_id, n.type FROM unnest(%s::uuid[], %s::uuid[], %s::text[]) AS n (id, payment_id, type)
WHERE NOT EXISTS (SELECT FROM event_store e WHERE e.payment_id = n.payment_id AND e.event_id = n.id)
"""


class _Stored(NamedTuple):
    payment_id: UUID
    type: str
    topic: str | None
    partition: int | None
    offset: int | None


def unpublished(dsns: Mapping[str, str]) -> list[str]:
    """Rows that are in an outbox and whose event is not in the event store, in words.

    Published rows may have been removed from the outbox; what is still there must have arrived. Rows that the
    relay put aside, as Kafka will never take them, have not.

    Args:
        dsns: of ``account``, ``payment``, ``notification`` and ``saga``.
    """
    found = []
    with psycopg.connect(dsns["saga"], connect_timeout=CONNECT_TIMEOUT_S) as saga:
        for service in ("account", "payment", "notification", "saga"):
            with psycopg.connect(dsns[service], connect_timeout=CONNECT_TIMEOUT_S) as connection:
                cursor = connection.cursor("audit_outbox")
                cursor.itersize = FETCH_ROWS
                cursor.execute(_OUTBOX)
                while rows := cursor.fetchmany(FETCH_ROWS):
                    columns = [list(column) for column in zip(*rows, strict=True)]
                    missing = saga.execute(_NOT_STORED, columns).fetchall()
                    found += [
                        f"{payment_id}: {event_type} is in the outbox of {service}, but did not arrive"
                        for payment_id, event_type in missing
                    ]
                found += [
                    f"{_payment_id(payload)}: {event_type} of {service} can never be published: {reason}"
                    for payload, event_type, reason in connection.execute(_DEAD)
                ]
    return found


def _payment_id(payload: bytes | None) -> str:
    """Whose event it is, as far as it can be read: a dead row may hold anything."""
    try:
        return str(json.loads(payload or b"")["payment_id"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return "no withdrawal"


def differences(saga_dsn: str, bootstrap: str) -> list[str]:
    """What is on a topic and not in the event store, or the reverse, in words.

    Left out is what never belongs there: what cannot be read, what contradicts the withdrawal, what the saga
    service has not read yet, and what the topics have dropped for its age.

    Raises:
        psycopg.OperationalError: the database does not answer.
        KafkaException: Kafka does not answer.
    """
    with psycopg.connect(saga_dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        cursor = connection.cursor("audit_events")
        cursor.itersize = FETCH_ROWS
        cursor.execute(_STORED)  # what is there now, however long the reading takes
        on_topics, in_store = _only_on_one_side(scan(bootstrap, _TOPICS), cursor)
        offsets = Offsets(bootstrap)
        first = offsets.first(_TOPICS)
        found = list(_lost(in_store, first))
        if on_topics:
            found += _strangers(connection, on_topics, offsets.confirmed(consumer_group("saga"), _TOPICS))
    return found


def _only_on_one_side(
    records: Iterator[KafkaMessage], rows: Any
) -> tuple[dict[str, KafkaMessage], dict[str, _Stored]]:
    on_topics: dict[str, KafkaMessage] = {}
    in_store: dict[str, _Stored] = {}
    for record, row in zip_longest(records, rows):
        if record is not None:
            message_id = headers.text(headers.of(record), headers.ID)
            if message_id is not None and in_store.pop(message_id, None) is None:
                on_topics.setdefault(message_id, record)
        if row is not None:
            event_id, *about = row
            if on_topics.pop(event_id, None) is None:
                in_store[event_id] = _Stored(*about)
    return on_topics, in_store


def _lost(in_store: Mapping[str, _Stored], first: Mapping[tuple[str, int], int]) -> Iterator[str]:
    """Stored events that are on no topic."""
    dropped_own = any(offset > 0 for (topic, _), offset in first.items() if topic == _OWN)
    for event in in_store.values():
        if event.topic is None or event.partition is None or event.offset is None:
            if not dropped_own:
                yield f"{event.payment_id}: {event.type} is in the event store, but not on {_OWN}"
        elif event.offset >= first.get((event.topic, event.partition), 0):
            place = f"{event.topic}/{event.partition}@{event.offset}"
            yield f"{event.payment_id}: {event.type} is in the event store, but not on its topic ({place})"


def _strangers(
    connection: psycopg.Connection, on_topics: Mapping[str, KafkaMessage], confirmed: Mapping[tuple[str, int], int]
) -> list[str]:
    """Records that are not in the event store and should be."""
    readable = {name: message for name, message in ((n, _readable(r)) for n, r in on_topics.items()) if message}
    # A record that comes again was met the first time; and some arrived while we read.
    stored = {row[0] for row in connection.execute(_FIND, (list(readable),)).fetchall()}
    left = [message for name, message in readable.items() if name not in stored]
    ids = list({message.event.payment_id for message in left})
    contents = {row[0]: row[1:] for row in connection.execute(_CONTENTS, (ids,)).fetchall()}
    return [
        f"{message.event.payment_id}: {type(message.event).__name__} is on {message.record.place}, "
        "but not in the event store"
        for message in left
        if not _is_excused(message, contents, confirmed)
    ]


def _readable(record: KafkaMessage) -> Message | None:
    topic, partition, offset = record.topic(), record.partition(), record.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    fields = headers.of(record) or []
    found = read(Record(topic, partition, offset, record.key(), record.value(), fields), _KNOWN)
    return found if isinstance(found, Message) else None


def _is_excused(
    message: Message, contents: Mapping[UUID, Sequence[Any]], confirmed: Mapping[tuple[str, int], int]
) -> bool:
    record, event = message.record, message.event
    if record.topic != _OWN and record.offset >= confirmed.get((record.topic, record.partition), 0):
        return True
    # A request that contradicts the withdrawal is no part of its story.
    told = tuple(contents.get(event.payment_id, ()))
    return isinstance(event, WithdrawalRequested) and told not in (
        (),
        (event.account_id, event.amount_minor, event.currency),
    )
