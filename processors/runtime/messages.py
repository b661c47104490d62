"""Decoded Kafka records: an event with its place and trace context, or a dead letter with the reason."""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from broker.records import Record
from contracts import headers
from contracts.events import ContractError, Event, decode
from tracing import TraceContext, read_context


class Message(msgspec.Struct):
    """An event that arrived.

    Attributes:
        event: the decoded body.
        id: UUID of the message; the same when a relay or producer republishes it.
        context: trace context to propagate: the sender's, or that of this hop's own span once it has one.
        record: where it came from.
    """

    event: Event
    id: UUID
    context: TraceContext
    record: Record


class Emitted(msgspec.Struct, frozen=True):
    """An event to be written to the outbox, the trace context it continues, and its message ID."""

    event: Event
    context: TraceContext
    id: UUID = msgspec.field(default_factory=uuid7)


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that can never be handled, and why; with the error, where an exception was the cause."""

    record: Record
    reason: str
    error: str | None = None


class Unhandled(msgspec.Struct, frozen=True):
    """A record of a type that is not handled here."""

    event_type: str


def read_record(record: Record, handled: Mapping[str, str]) -> Message | Unhandled | DeadLetter:
    """Decode a record once, if its type is one of those handled here.

    Args:
        record: as Kafka holds it.
        handled: the topic of each event type. A type is believed on its own topic alone: who may write a topic may
            not write any event.
    """
    if record.lacks is not None:
        return DeadLetter(record, record.lacks)
    fields = dict(record.headers)
    type_bytes, id_bytes = fields.get(headers.EVENT_TYPE), fields.get(headers.ID)
    if type_bytes is None:
        return DeadLetter(record, f"header {headers.EVENT_TYPE} is missing")
    try:
        event_type = type_bytes.decode()
        if (topic := handled.get(event_type)) is None:
            return Unhandled(event_type)
        if topic != record.topic:
            return DeadLetter(record, f"{event_type} does not belong on {record.topic}")
        if id_bytes is None:
            return DeadLetter(record, f"header {headers.ID} is missing")
        if record.value is None:
            return DeadLetter(record, f"{event_type}: body is missing")
        message_id = headers.parse_id(id_bytes)
        event = decode(event_type, record.value)
    except ContractError as error:
        return DeadLetter(record, str(error))
    except UnicodeDecodeError as error:
        return DeadLetter(record, f"header {headers.EVENT_TYPE} is not text: {error}")
    except ValueError as error:
        return DeadLetter(record, f"header {headers.ID} is not a UUID: {error}")
    context = read_context(fields.get(headers.TRACEPARENT), fields.get(headers.TRACESTATE))
    return Message(event, message_id, context, record)


def by_payment_id(messages: Iterable[Message]) -> dict[UUID, list[Message]]:
    """Group messages by withdrawal, in order of arrival."""
    grouped: dict[UUID, list[Message]] = {}
    for message in messages:
        grouped.setdefault(message.event.payment_id, []).append(message)
    return grouped


def payment_ids(messages: Sequence[Message]) -> list[UUID]:
    """The payment IDs of the messages, each once, in ascending order (one lock order everywhere)."""
    by_number = {message.event.payment_id.int: message.event.payment_id for message in messages}
    return [by_number[number] for number in sorted(by_number)]  # UUIDs themselves take six times as long to sort
