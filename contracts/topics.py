"""Topics: their event types, keys, dead-letter topics and consumer groups."""

from dataclasses import dataclass

from contracts.events import EVENT_TYPES, Event


@dataclass(frozen=True)
class Topic:
    """A Kafka topic.

    Attributes:
        name: as Kafka knows it.
        key: what the message key holds; order is kept per key.
    """

    name: str
    key: str = "account ID"

    @property
    def event_types(self) -> tuple[type[Event], ...]:
        """What may be written to it."""
        return tuple(event_type for event_type in EVENT_TYPES.values() if event_type.topic == self.name)

    @property
    def aggregate(self) -> str:
        """The ``aggregatetype`` of outbox rows for it: without ``.events``, which the relay appends."""
        return self.name.removesuffix(".events")

    @property
    def dead_letters(self) -> str:
        """Where messages of this topic go that could not be read or handled."""
        return dead_letter_topic(self.name)


def dead_letter_topic(topic: str) -> str:
    """The dead-letter topic that belongs to a topic."""
    return f"{topic}.dlq"


WITHDRAWAL_REQUESTS = Topic("withdrawal.requests")
ACCOUNT_EVENTS = Topic("account.events")
PAYMENT_REQUESTS = Topic("payment.requests")
PAYMENT_EVENTS = Topic("payment.events")
NOTIFICATION_EVENTS = Topic("notification.events")
WITHDRAWAL_EVENTS = Topic("withdrawal.events", key="payment ID")

DEAD_LETTER_BYTES_MAX = 2 * 1024 * 1024
"""Maximum size of a dead letter: the other topics' limit (Kafka's default, 1 MiB) plus room for the reason."""

DEAD_LETTERS_HANDLED = "dead-letters.handled"
"""Operators' actions on dead letters, keyed by the original's place; compacted, read by operators' tools."""


def consumer_group(service: str) -> str:
    """The consumer group of a service."""
    return f"settle-{service}"
