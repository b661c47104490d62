"""The log of actions on dead letters: a compacted topic, in which the last record of a key is the current state.

Dead letters themselves are never changed or removed: a topic is a log. What was done about them is in another,
``dead-letters.handled``, of which Kafka keeps the newest record per key without a time limit.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Final, Literal, Self

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message

from broker.clients import SILENT, idempotent_producer
from broker.deliver import deliver
from broker.lifeline import flush
from broker.provision import ensure_topics
from broker.records import Record
from broker.scan import scan
from contracts import headers
from contracts.foreign import UNREADABLE
from contracts.topics import DEAD_LETTERS_HANDLED

DELIVERY_TIMEOUT_S = 30.0
RECORD_BYTES_MAX = 100_000_000

REDRIVING: Final = "redriving"
REDRIVEN: Final = "redriven"
DISCARDED: Final = "discarded"


class Handled(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was done about a dead letter.

    Attributes:
        action: ``redriving`` is the intention; ``redriven`` is final.
        at: when (UTC).
        from_offset: the lowest offset that the original can have if it was sent after that intention.
        place: where it was redriven to.
        note: why it was discarded.
    """

    action: Literal["redriving", "redriven", "discarded"]
    at: datetime
    from_offset: int | None = None
    place: str | None = None
    note: str | None = None

    @property
    def final(self) -> bool:
        """Whether it needs no further action."""
        return self.action != REDRIVING


_HANDLED = msgspec.json.Decoder(Handled)


def read_handled(bootstrap: str) -> dict[str, Handled]:
    """The last action, by the letter's name.

    Raises:
        KafkaException: Kafka does not answer.
    """
    found: dict[str, Handled] = {}
    for message in scan(bootstrap, [DEAD_LETTERS_HANDLED]):
        take(found, message)
    return found


def take(found: dict[str, Handled], message: Message) -> None:
    """Add the action that a record says; a foreign record must not stop a command."""
    key, value = message.key(), message.value()
    if key is None or value is None:
        return
    with suppress(*UNREADABLE):
        found[key.decode()] = _HANDLED.decode(value)


class Writer:
    """Writes actions and redriven originals to Kafka, and waits for the acknowledgements.

    Raises:
        KafkaException: Kafka does not accept a write.
    """

    def __init__(self, bootstrap: str) -> None:
        ensure_topics(bootstrap)
        self._producer = idempotent_producer(
            bootstrap,
            {
                # The topic's own limit decides, not the client's; what came in a compressed batch may need
                # compression again.
                "message.max.bytes": RECORD_BYTES_MAX,
                "compression.type": "lz4",
                "delivery.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
            },
            SILENT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        flush(self._producer, DELIVERY_TIMEOUT_S)

    def note(self, what: Mapping[str, Handled]) -> None:
        """Record an action on each of some letters."""
        records = [
            Record(DEAD_LETTERS_HANDLED, 0, 0, place.encode(), msgspec.json.encode(handled), [])
            for place, handled in what.items()
        ]
        for result in deliver(self._producer, records):
            if isinstance(result, KafkaError):
                raise KafkaException(result)

    def send(self, records: Sequence[Record]) -> list[str | KafkaError]:
        """Write records to their topics and partitions, byte for byte.

        Returns:
            For each, its new place or the error with which Kafka refused it.
        """
        results = deliver(self._producer, records)
        return [result if isinstance(result, KafkaError) else place_of(result) for result in results]


def place_of(message: Message) -> str:
    """The place of a message, in the form of :attr:`Record.place`."""
    return f"{message.topic()}/{message.partition()}@{message.offset()}"


def same(message: Message, record: Record) -> bool:
    """Whether a record in Kafka equals another byte for byte, apart from its place."""
    is_body = message.key() == record.key and message.value() == record.value
    return is_body and headers.of(message) == record.headers
