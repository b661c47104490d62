"""Which Kafka headers does a message carry?

They are the ones Debezium's outbox event router writes from the same outbox table, so either relay can
stand in for the other. Values are UTF-8 text.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confluent_kafka import Message

ID = "id"
"""UUID of the message: the outbox row's, or for a request the one that its contents give."""

EVENT_TYPE = "eventType"
"""Name of the event type, as in :data:`contracts.events.EVENT_TYPES`."""

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
"""W3C trace context of whoever published the message."""

POSITION = "position"
"""Which database the row comes from, and where in its log: ``1f0c9a3e:16/B374D848``. Only the relay reads it."""

# On a message of a dead-letter topic, beside the original's own headers.
DEAD_LETTER_REASON = "dlq.reason"
DEAD_LETTER_ERROR = "dlq.error"
"""The last line of the stack trace, where it took one to find out."""

DEAD_LETTER_TOPIC = "dlq.topic"
DEAD_LETTER_PARTITION = "dlq.partition"
DEAD_LETTER_OFFSET = "dlq.offset"
DEAD_LETTER_SERVICE = "dlq.service"
DEAD_LETTER_AT = "dlq.at"
DEAD_LETTER_CUT = "dlq.cut"
"""What is left of the original, where the dead letter is only a part of it."""

Headers = list[tuple[str, bytes | None]]
"""As confluent-kafka gives and takes them; a name may repeat, the last one counts."""


def of(message: "Message") -> Headers | None:
    """The headers of a record; None where they cannot be had, as the name of one is not UTF-8."""
    try:
        # It hands them out as a list; the other shapes of its type are for producing.
        return message.headers() or []  # type: ignore[return-value]
    except (SystemError, UnicodeDecodeError):  # the former is what confluent-kafka makes of the latter
        return None


def text(headers: Headers | None, name: str) -> str | None:
    """The value of a header as text, or None where it is absent, null or not UTF-8."""
    for key, value in reversed(headers or ()):
        if key == name:
            try:
                return value.decode() if value is not None else None
            except UnicodeDecodeError:
                return None
    return None
