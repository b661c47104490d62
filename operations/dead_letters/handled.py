"""The log of what became of each dead letter: on a compacted topic, the last record with its name says so.

Dead letters themselves are never changed or removed: a topic is a log. What people did about them is another log,
``dead-letters.handled``, of which Kafka keeps the newest record per key for ever.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Final, Literal, Self

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message

from broker.clients import idempotent_producer
from broker.deliver import deliver
from broker.lifeline import flush
from broker.provision import ensure_topics
from broker.records import Record
from broker.scan import scan
from contracts import headers
from contracts.topics import DEAD_LETTERS_HANDLED

DELIVERY_TIMEOUT_S = 30.0
RECORD_BYTES_MAX = 100_000_000

REDRIVING: Final = "redriving"
REDRIVEN: Final = "redriven"
DISCARDED: Final = "discarded"


class Handled(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was done about a dead letter.

    Attributes:
        action: ``redriving`` is the intention; it counts once it is ``redriven``.
        at: when (UTC).
        from_offset: where the original can stand at the earliest, if it was sent after that intention.
        place: where it was sent to.
        note: why it was discarded.
    """

    action: Literal["redriving", "redriven", "discarded"]
    at: datetime
    from_offset: int | None = None
    place: str | None = None
    note: str | None = None

    @property
    def final(self) -> bool:
        """Whether nobody needs to look at it any more."""
        return self.action != REDRIVING


_HANDLED = msgspec.json.Decoder(Handled)


def read_handled(bootstrap: str) -> dict[str, Handled]:
    """What was done, by the letter's place.

    Raises:
        KafkaException: Kafka does not answer.
    """
    found: dict[str, Handled] = {}
    for message in scan(bootstrap, [DEAD_LETTERS_HANDLED]):
        key, value = message.key(), message.value()
        if key is None or value is None:
            continue
        try:
            found[key.decode()] = _HANDLED.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue  # nobody's record: what anybody may have written there stops no command
    return found


class Writer:
    """Writes to Kafka and waits until it is there: what was done, and originals back to where they were.

    Raises:
        KafkaException: Kafka does not take something.
    """

    def __init__(self, bootstrap: str) -> None:
        ensure_topics(bootstrap)
        self._producer = idempotent_producer(
            bootstrap,
            {
                # What a topic takes it decides itself; what came in a compressed batch may need compression again.
                "message.max.bytes": RECORD_BYTES_MAX,
                "compression.type": "lz4",
                "delivery.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        flush(self._producer, DELIVERY_TIMEOUT_S)

    def note(self, what: Mapping[str, Handled]) -> None:
        """Put on record what was done about some letters."""
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
            For each the place where it is now, or why Kafka will not have it.
        """
        results = deliver(self._producer, records)
        return [result if isinstance(result, KafkaError) else place_of(result) for result in results]


def place_of(message: Message) -> str:
    """Where a message is, as :attr:`Record.place` says it."""
    return f"{message.topic()}/{message.partition()}@{message.offset()}"


def same(message: Message, record: Record) -> bool:
    """Whether a record in Kafka is the same, byte for byte; its place aside."""
    is_body = message.key() == record.key and message.value() == record.value
    return is_body and headers.of(message) == record.headers
