"""The audit's comparison of outboxes, topics and event store: each message ID is looked for on the other side.

Topics and event store are each read once, in any order; what is compared is spilled to disk
(:mod:`operations.audit.spill`), so memory does not grow with their number.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from struct import Struct
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from confluent_kafka import Message as KafkaMessage

from broker.offsets import Offsets, Place
from broker.records import Record
from broker.scan import scan
from contracts import headers
from contracts.events import EVENT_TYPES, WithdrawalRequested
from contracts.postgres import session
from contracts.services import NAMES, READ_BY
from contracts.topics import WITHDRAWAL_EVENTS, consumer_group
from operations.audit.again import lasting
from operations.audit.offenders import Offenders
from operations.audit.sides import FETCH_ROWS
from operations.audit.spill import BUCKETS, ID_BYTES, Spill
from processors.runtime.messages import Message, read_record

CLOCKS_OFF_S = 300.0
"""The largest difference allowed between the clocks of the saga service and the relay."""

NO_WITHDRAWAL = "no withdrawal"
"""What is said of a row that has no payment ID."""

UNSTORED_MAX = 50_000
"""Records missing from the event store that are read again in one pass."""

_OWN = WITHDRAWAL_EVENTS.name
_TOPICS = tuple(dict.fromkeys([*(topic.name for topic in READ_BY["saga"]), _OWN]))
_TYPES = tuple(EVENT_TYPES)
_KNOWN = {name: event_type.topic for name, event_type in EVENT_TYPES.items()}
_STORED_TYPES = [name for name, event_type in EVENT_TYPES.items() if event_type.topic in _TOPICS]
_STORABLE = frozenset(name.encode() for name in _TYPES)
_UUID = msgspec.json.Decoder(UUID)

_ON_TOPIC = Struct(f">{ID_BYTES}sBiq")
"""Message ID; topic, partition and offset."""

_STORED = Struct(f">{ID_BYTES}s16siiiq")
"""As packed by the query: message ID; payment ID, type; topic, partition, offset: negative for the saga's own."""

# Events that retention has removed from the topics are left out. The saga's own events have no place; their
# IDs are ordered by time.
_EVENTS = """
SELECT uuid_send(event_id) || uuid_send(payment_id)
    || int4send(coalesce(array_position(%(types)s::text[], type), 0) - 1)
    || int4send(coalesce(array_position(%(topics)s::text[], topic), 0) - 1)
    || int4send(coalesce("partition", -1)) || int8send(coalesce("offset", -1))
FROM event_store e
WHERE (topic IS NOT NULL OR event_id >= %(own_since)s) AND NOT EXISTS (
    SELECT FROM unnest(%(first_topics)s::text[], %(first_partitions)s::integer[], %(first_offsets)s::bigint[])
        AS f (topic, "partition", "offset")
    WHERE f.topic = e.topic AND f."partition" = e."partition" AND e."offset" < f."offset")
"""

_CONTENTS = """
SELECT payment_id, account_id, amount_minor, currency FROM withdrawals WHERE payment_id = ANY(%s::uuid[])
"""

_OUTBOX = "SELECT id, payload->>'payment_id', type FROM outbox WHERE type = ANY(%s)"

_DEAD = "SELECT payload, type, reason FROM outbox_dead"

_NOT_STORED = """
SELECT n.id FROM unnest(%s::uuid[], %s::uuid[], %s::text[]) AS n (id, payment_id, type)
WHERE NOT EXISTS (
    SELECT FROM event_store e WHERE e.payment_id = n.payment_id AND e.type = n.type AND e.event_id = n.id)
"""


class _Retained(NamedTuple):
    """What retention has kept: each partition's first offset, and the oldest ID of the saga's own events."""

    first: dict[Place, int]
    own_since_s: float

    def dropped(self, place: Place | None, offset: int, message_id: UUID) -> bool:
        """Whether retention may have removed an event from its topic."""
        if place is None:
            return message_id < _first_id(self.own_since_s)
        return offset < self.first.get(place, 0)


class _Row(NamedTuple):
    """A row of an outbox; the payment ID as far as it is one."""

    id: UUID
    payment_id: UUID | None
    event_type: str
    service: str


class _Lost(NamedTuple):
    """A stored event that is on no topic, and what is said of it."""

    event_id: bytes
    words: str


def unpublished(dsns: Mapping[str, str]) -> Offenders:
    """Outbox rows whose event does not arrive in the event store, one line each.

    Published rows may have been removed from the outbox; what is still there must arrive within moments. Rows that
    the relay has quarantined, as Kafka will never accept them, do not. Rows of types that the saga does not read,
    or that are not Settle's, do not concern it.

    Args:
        dsns: by service, of :data:`contracts.services.NAMES`; the API's is missing where there is none.

    Raises:
        psycopg.OperationalError: a database does not answer.
    """
    found = Offenders()
    with session(dsns["saga"], autocommit=True) as saga:
        for row in lasting(_not_arrived(dsns, saga), lambda rows: _missing(saga, rows)):
            whose = row.payment_id or NO_WITHDRAWAL
            found.add(f"{whose}: {row.event_type} is in the outbox of {row.service}, but did not arrive")
    for service in (name for name in NAMES if name in dsns):
        with session(dsns[service]) as connection:
            for payload, event_type, reason in connection.execute(_DEAD):
                whose = _payment_id(payload) or NO_WITHDRAWAL
                found.add(f"{whose}: {event_type} of {service} can never be published: {reason}")
    return found


def _not_arrived(dsns: Mapping[str, str], saga: psycopg.Connection) -> Iterator[_Row]:
    for service in (name for name in NAMES if name in dsns):
        with session(dsns[service]) as connection:
            cursor = connection.cursor("audit_outbox")
            cursor.itersize = FETCH_ROWS
            cursor.execute(_OUTBOX, (_STORED_TYPES,))
            while rows := cursor.fetchmany(FETCH_ROWS):
                yield from _missing(saga, [_Row(one, _uuid(whose), what, service) for one, whose, what in rows])


def _missing(saga: psycopg.Connection, rows: Sequence[_Row]) -> list[_Row]:
    missing = _not_stored(saga, [row[:3] for row in rows])
    return [row for row in rows if row.id in missing]


def _payment_id(payload: bytes | None) -> UUID | None:
    """The payment ID of a dead row, as far as it is one: it may hold anything."""
    try:
        return _uuid(json.loads(payload or b"")["payment_id"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def differences(saga_dsn: str, bootstrap: str) -> Offenders:
    """Records on a topic that are not in the event store, and the reverse, one line each.

    Left out: records that cannot be read or contradict their withdrawal, those that the saga service has not read
    yet, and events that retention has removed from the topics.

    Raises:
        OSError: the folder for temporary files is full.
        psycopg.OperationalError: the database does not answer.
        KafkaException: Kafka does not answer.
    """
    found = Offenders()
    with (
        session(saga_dsn) as connection,
        Spill(_STORED.size) as in_store,
        Spill(_ON_TOPIC.size) as on_topics,
    ):
        # Events first: what is stored by now is on its topic when that is read after it, or comes soon.
        for entry in _events(connection, _retained(bootstrap)):
            in_store.add(entry)
        ends = Offsets(bootstrap).end(_TOPICS)
        for record in scan(bootstrap, _TOPICS):
            if (message_id := _message_id(record)) is not None:
                topic, partition, offset = _place(record)
                on_topics.add(_ON_TOPIC.pack(message_id.bytes, _TOPICS.index(topic), partition, offset))
        kept = _retained(bootstrap)
        for one in lasting(_lost(in_store, on_topics, kept), _still_lost(bootstrap, ends)):
            found.add(one.words)
        confirmed = Offsets(bootstrap).confirmed(consumer_group("saga"), _TOPICS)
        unstored = _unstored(in_store, on_topics, confirmed)
        while places := list(islice(unstored, UNSTORED_MAX)):
            for words in _unexplained(connection, bootstrap, places):
                found.add(words)
    return found


def _retained(bootstrap: str) -> _Retained:
    first = Offsets(bootstrap).first(_TOPICS)
    since_s = 0.0
    for place, offset in first.items():
        if place[0] == _OWN and offset > 0:
            with closing(scan(bootstrap, [_OWN], {place: offset})) as records:
                oldest = next(records, None)
            # An empty partition does not show what it held.
            since_s = max(since_s, time.time() if oldest is None else oldest.timestamp()[1] / 1000)
    return _Retained(first, since_s + CLOCKS_OFF_S if since_s else 0.0)


def _events(connection: psycopg.Connection, kept: _Retained) -> Iterator[bytes]:
    cursor = connection.cursor("audit_events", binary=True)
    cursor.itersize = FETCH_ROWS
    cursor.execute(
        _EVENTS,
        {
            "types": list(_TYPES),
            "topics": list(_TOPICS),
            "own_since": _first_id(kept.own_since_s),
            "first_topics": [topic for topic, _ in kept.first],
            "first_partitions": [partition for _, partition in kept.first],
            "first_offsets": list(kept.first.values()),
        },
    )
    for (entry,) in cursor:
        yield entry
    cursor.close()


def _lost(in_store: Spill, on_topics: Spill, kept: _Retained) -> Iterator[_Lost]:
    """Stored events that are on no topic."""
    for number in range(BUCKETS):
        there = {entry[0] for entry in _ON_TOPIC.iter_unpack(on_topics.bucket(number))}
        for event_id, payment_id, kind, topic, partition, offset in _STORED.iter_unpack(in_store.bucket(number)):
            if event_id in there:
                continue
            place = (_TOPICS[topic], partition) if topic >= 0 else None
            if not kept.dropped(place, offset, UUID(bytes=event_id)):
                what = _TYPES[kind] if kind >= 0 else "an event"
                where = f"its topic ({place[0]}/{place[1]}@{offset})" if place else _OWN
                words = f"{UUID(bytes=payment_id)}: {what} is in the event store, but not on {where}"
                yield _Lost(event_id, words)


def _still_lost(bootstrap: str, ends: Mapping[Place, int]) -> Callable[[list[_Lost]], list[_Lost]]:
    """Those that do not come at the topics' ends either; each call reads on where the last one ended."""
    read_to = dict(ends)

    def still_lost(lost: list[_Lost]) -> list[_Lost]:
        wanted, until = {one.event_id for one in lost}, Offsets(bootstrap).end(_TOPICS)
        starts = {place: read_to.get(place, 0) for place, end in until.items() if end > read_to.get(place, 0)}
        if starts:
            for record in scan(bootstrap, {topic for topic, _ in starts}, starts, until):
                if (message_id := _message_id(record)) is not None:
                    wanted.discard(message_id.bytes)
        read_to.update(until)
        return [one for one in lost if one.event_id in wanted]

    return still_lost


def _unstored(in_store: Spill, on_topics: Spill, confirmed: Mapping[Place, int]) -> Iterator[tuple[str, int, int]]:
    """Places of records that the saga service has read and that are missing from the event store."""
    for number in range(BUCKETS):
        stored = {entry[0] for entry in _STORED.iter_unpack(in_store.bucket(number))}
        for message_id, topic, partition, offset in _ON_TOPIC.iter_unpack(on_topics.bucket(number)):
            place = _TOPICS[topic], partition
            if message_id not in stored and (place[0] == _OWN or offset < confirmed.get(place, 0)):
                yield *place, offset


def _unexplained(
    connection: psycopg.Connection, bootstrap: str, places: Sequence[tuple[str, int, int]]
) -> Iterator[str]:
    """Of the records at these places, those that should be in the event store, one line each."""
    offsets: defaultdict[Place, list[int]] = defaultdict(list)
    for topic, partition, offset in places:
        offsets[topic, partition].append(offset)
    starts = {place: min(some) for place, some in offsets.items()}
    ends = {place: max(some) + 1 for place, some in offsets.items()}
    wanted = set(places)
    records = (r for r in scan(bootstrap, {topic for topic, _ in starts}, starts, ends) if _place(r) in wanted)
    messages = (message for record in records if (message := _readable(record)) is not None)
    while part := list(islice(messages, FETCH_ROWS)):
        missing = _not_stored(
            connection, [(one.id, one.event.payment_id, type(one.event).__name__) for one in part]
        )
        left = [one for one in part if one.id in missing]
        ids = [one.event.payment_id for one in left]
        contents = {row[0]: row[1:] for row in connection.execute(_CONTENTS, (ids,)).fetchall()}
        for one in left:
            if not _contradicts(one, contents.get(one.event.payment_id)):
                what = type(one.event).__name__
                yield f"{one.event.payment_id}: {what} is on {one.record.place}, but not in the event store"


def _contradicts(message: Message, contents: Sequence[Any] | None) -> bool:
    """Whether it is a request that contradicts the withdrawal, and so is not stored."""
    event = message.event
    return (
        contents is not None
        and isinstance(event, WithdrawalRequested)
        and tuple(contents) != (event.account_id, event.amount_minor, event.currency)
    )


def _not_stored(connection: psycopg.Connection, events: Sequence[tuple[UUID, UUID | None, str]]) -> set[UUID]:
    """Of events (message ID, payment ID, type), the message IDs of those that the event store does not have."""
    columns = [list(column) for column in zip(*events, strict=True)]
    return {row[0] for row in connection.execute(_NOT_STORED, columns)}


def _readable(record: KafkaMessage) -> Message | None:
    fields = headers.of(record) or []
    found = read_record(Record(*_place(record), record.key(), record.value(), fields), _KNOWN)
    return found if isinstance(found, Message) else None


def _message_id(record: KafkaMessage) -> UUID | None:
    """The ID of a record that the saga service might store, in any spelling of a UUID."""
    fields = dict(headers.of(record) or ())
    event_type, text = fields.get(headers.EVENT_TYPE), fields.get(headers.ID)
    if event_type not in _STORABLE or text is None:
        return None
    try:
        return _UUID.decode(b'"%b"' % text)
    except msgspec.MsgspecError:
        return None


def _uuid(text: Any) -> UUID | None:
    try:
        return UUID(text)
    except (TypeError, ValueError, AttributeError):
        return None


def _place(record: KafkaMessage) -> tuple[str, int, int]:
    topic, partition, offset = record.topic(), record.partition(), record.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return topic, partition, offset


def _first_id(moment_s: float) -> UUID:
    """The smallest UUID of version 7 of a time, seconds since the epoch."""
    return UUID(int=int(moment_s * 1000) << 80)
