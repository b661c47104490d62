"""Which event does a withdrawal that stands still need to be told again?

The one that the waiting step acts on, from the event store; and what the services said and the saga never heard,
from the topics, or from an outbox where it is not published yet. All are said again as they were, with the same
message ID, so whoever knows them already changes nothing.
"""

from collections.abc import Mapping
from typing import cast
from uuid import UUID

import psycopg

from audit.read import CONNECT_TIMEOUT_S
from contracts import headers
from contracts.topics import ACCOUNT_EVENTS, NOTIFICATION_EVENTS, PAYMENT_EVENTS
from processors.runtime.scan import scan
from processors.saga.decide import needed_for
from producers.publish import Outgoing

SERVICES = ("account", "payment", "notification")
_TOPICS = (ACCOUNT_EVENTS, PAYMENT_EVENTS, NOTIFICATION_EVENTS)

_KNOWN = """
SELECT w.account_id, w.seen, array_agg(e.type)
FROM withdrawals w JOIN event_store e USING (payment_id) WHERE payment_id = %s GROUP BY payment_id
"""

_HEARD = """
SELECT DISTINCT ON (type) event_id, topic, type, payload::text
FROM event_store WHERE payment_id = %s AND topic IS NOT NULL ORDER BY type, sequence
"""

_SAID = """
SELECT id, aggregatetype, aggregateid, type, payload::text, traceparent, tracestate FROM outbox
WHERE payload->>'payment_id' = %s ORDER BY id
"""


def to_say_again(dsns: Mapping[str, str], bootstrap: str, payment_id: UUID) -> list[Outgoing]:
    """What to say again of a withdrawal that has not ended; nothing if there is nothing.

    Reads the topics of the services' events from their beginning: some 10 s per million records.

    Args:
        dsns: of ``saga``, ``account``, ``payment`` and ``notification``.
        bootstrap: Kafka, ``host:port``.
        payment_id: of a withdrawal that the saga service knows.

    Raises:
        KafkaException: Kafka does not answer.
        psycopg.OperationalError: a database does not answer.
    """
    with psycopg.connect(dsns["saga"], connect_timeout=CONNECT_TIMEOUT_S) as connection:
        known = connection.execute(_KNOWN, (payment_id,)).fetchone()
        heard = connection.execute(_HEARD, (payment_id,)).fetchall()
    if known is None:
        return []
    account_id, seen, types = known
    needed = needed_for(seen)
    wanted = needed.__name__ if needed is not None else None
    again = [_heard(account_id, *event) for event in heard if event[2] == wanted]
    said = _published(bootstrap, payment_id)
    said |= {dict(one.headers)[headers.ID]: one for name in SERVICES for one in _said(dsns[name], payment_id)}
    return again + [one for one in said.values() if one.event_type not in types]


def _published(bootstrap: str, payment_id: UUID) -> dict[bytes | None, Outgoing]:
    """What stands on the topics of a withdrawal, by message ID."""
    wanted = f'"{payment_id}"'.encode()
    found = {}
    for record in scan(bootstrap, (topic.name for topic in _TOPICS)):
        if wanted not in (record.value() or b""):
            continue
        fields = cast(headers.Headers, record.headers() or [])
        event_type = headers.text(fields, headers.EVENT_TYPE)
        if event_type is not None:
            key = (record.key() or b"").decode()
            found[dict(fields).get(headers.ID)] = Outgoing(
                record.topic() or "", key, event_type, record.value() or b"", fields
            )
    return found


def _heard(account_id: str, event_id: UUID, topic: str, event_type: str, payload: str) -> Outgoing:
    fields: headers.Headers = [
        (headers.ID, str(event_id).encode()),
        (headers.EVENT_TYPE, event_type.encode()),
    ]
    return Outgoing(topic, account_id, event_type, payload.encode(), fields)


def _said(dsn: str, payment_id: UUID) -> list[Outgoing]:
    with psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        rows = connection.execute(_SAID, (str(payment_id),)).fetchall()
    return [
        Outgoing(
            f"{aggregate}.events",
            key,
            event_type,
            payload.encode(),
            [
                (headers.ID, str(message_id).encode()),
                (headers.EVENT_TYPE, event_type.encode()),
                *((name, text.encode()) for name, text in _context(traceparent, tracestate)),
            ],
        )
        for message_id, aggregate, key, event_type, payload, traceparent, tracestate in rows
    ]


def _context(traceparent: str | None, tracestate: str | None) -> list[tuple[str, str]]:
    both = ((headers.TRACEPARENT, traceparent), (headers.TRACESTATE, tracestate))
    return [(name, text) for name, text in both if text is not None]
