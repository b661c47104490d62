"""The names and values of the Kafka headers that a message carries.

They are the ones Debezium's outbox event router writes from the same outbox table, so either relay can
stand in for the other. Values are UTF-8 text. Where a name repeats, the last one counts.
"""

from operator import methodcaller
from uuid import UUID

import msgspec

ID = "id"
"""UUID of the message: the outbox row's ID, or for a request one derived from its contents.

In any spelling that is one (upper case, without hyphens); compared as a UUID, never as text."""

EVENT_TYPE = "eventType"
"""Name of the event type, as in :data:`contracts.events.EVENT_TYPES`."""

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
"""W3C trace context of the message's publisher (:func:`tracing.read_context`)."""

POSITION = "position"
"""Source database of the row and its position (LSN) there: ``1f0c9a3e:16/B374D848``. Only the relay reads it."""

DEAD_LETTER = "dlq."
"""With what the names begin that a message of a dead-letter topic has beside the original's own headers."""

DEAD_LETTER_REASON = "dlq.reason"
DEAD_LETTER_ERROR = "dlq.error"
"""The last line of the stack trace, where an exception was the cause."""

DEAD_LETTER_TOPIC = "dlq.topic"
DEAD_LETTER_PARTITION = "dlq.partition"
DEAD_LETTER_OFFSET = "dlq.offset"
DEAD_LETTER_SERVICE = "dlq.service"
DEAD_LETTER_AT = "dlq.at"
DEAD_LETTER_CUT = "dlq.cut"
"""How much of the original is included, where the dead letter is a stub."""

Headers = list[tuple[str, bytes | None]]
"""Headers in confluent-kafka's form; a name may repeat, the last one counts."""

_UUID = msgspec.json.Decoder(UUID)


def parse_id(value: bytes) -> UUID:
    """The message ID that a header holds.

    Raises:
        ValueError: it is no UUID.
    """
    return _UUID.decode(b'"%b"' % value)


def message_id(headers: Headers | None) -> UUID | None:
    """The message ID of a record, or None where it is absent, null or no UUID."""
    value = dict(headers or ()).get(ID)
    try:
        return parse_id(value) if value is not None else None
    except ValueError:
        return None


# Not `message.headers()`: for a name that is not UTF-8, confluent-kafka sets an exception and returns a list with
# a NULL item, which crashes the process when read. A call specialized by the interpreter misses the exception.
_ask = methodcaller("headers")


def of(message: object) -> Headers | None:
    """The headers of a confluent-kafka message, read once; None where the name of one is not UTF-8."""
    try:
        found: Headers = _ask(message) or []
    except SystemError:
        return None
    return found


def of_the_original(headers: Headers) -> Headers:
    """The headers of a message but for those that a dead letter adds, which a foreign message may have, too."""
    return [(name, value) for name, value in headers if not name.startswith(DEAD_LETTER)]


def last(headers: Headers | None, name: str) -> bytes | None:
    """The value of a header, or None where it is absent or null."""
    for key, value in reversed(headers or ()):
        if key == name:
            return value
    return None


def text(headers: Headers | None, name: str) -> str | None:
    """The value of a header as text, or None where it is absent, null or not UTF-8."""
    value = last(headers, name)
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        return None
