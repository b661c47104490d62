"""Publisher of dead letters: what can never be handled goes to ``<topic>.dlq``, byte for byte, with the reason.

A dead letter must never stop a service. Where Kafka does not accept it as it is (it is too large for the
topic, say), a *stub* is published: its place, its reason, and as much of it as is accepted.
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from confluent_kafka import KafkaError, KafkaException, Producer

from broker.clients import idempotent_producer
from broker.deliver import ANY_PARTITION, NotAllWrittenError, deliver
from broker.records import Record
from broker.rotation import Rotation
from contracts import headers
from contracts.topics import DEAD_LETTER_BYTES_MAX, dead_letter_topic
from processors.runtime.messages import DeadLetter

DELIVERY_TIMEOUT_S = 30.0

TEXT_MAX = 1_000
"""Maximum characters of a reason or an error: both may quote the message."""

STUB_BYTES_MAX = 1_000_000
"""Maximum size of a stub: accepted by any client and any broker with default settings."""

STUB_BYTES_MIN = 1_000
"""If not even this is accepted, the original's bytes are not the cause, and no smaller stub is tried."""

KEY_BYTES_MAX = 1_024
HEADERS_BYTES_MAX = 16_384
BESIDE_BODY_BYTES = 32_768
"""Reserved in a stub: key, headers of both kinds, and the batch overhead."""


class DeadLetters:
    """Publishes dead letters; creates its producer for the first one."""

    def __init__(self, bootstrap: str, service: str) -> None:
        self._bootstrap = bootstrap
        self._service = service
        self._producer: Producer | None = None
        self._rotation = Rotation(bootstrap)
        self._written: set[str] = set()

    async def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Publish the letters, or stubs of them, and wait until all are acknowledged.

        Raises:
            KafkaException: at least one was not delivered; publish all again: those that were are left out.
            KafkaSettingsError: no producer can be made; publish all again.
        """
        if letters:
            await asyncio.to_thread(self._publish, letters)

    def _publish(self, letters: Sequence[DeadLetter]) -> None:
        if self._rotation.is_due():
            self._producer = None
        if self._producer is None:
            self._producer = idempotent_producer(
                self._bootstrap,
                {
                    "message.max.bytes": DEAD_LETTER_BYTES_MAX,
                    # A record from a compressed batch may exceed the topic's limit uncompressed.
                    "compression.type": "lz4",
                    "delivery.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
                    "log_level": 2,
                },
            )
        try:
            self._deliver(self._producer, letters)
        except BaseException:
            self._producer = None  # it may be cut off for good (see `broker.lifeline`)
            raise

    def _deliver(self, producer: Producer, letters: Sequence[DeadLetter]) -> None:
        left = [letter for letter in letters if letter.record.place not in self._written]
        about = [self._about(letter) for letter in left]
        whole = [_whole(letter.record, fields) for letter, fields in zip(left, about, strict=True)]
        try:
            results = deliver(producer, whole)
        except NotAllWrittenError as error:
            self._written.update(left[number].record.place for number in error.written)
            raise
        stubs = []
        for letter, fields, result in zip(left, about, results, strict=True):
            if isinstance(result, KafkaError):
                stubs.append((letter.record, fields, result))
            else:
                self._written.add(letter.record.place)
        for record, fields, refusal in stubs:
            _deliver_stub(producer, record, fields, refusal)
            self._written.add(record.place)
        self._written.clear()

    def _about(self, letter: DeadLetter) -> headers.Headers:
        record = letter.record
        error = [(headers.DEAD_LETTER_ERROR, _encode(letter.error))] if letter.error is not None else []
        return [
            *error,
            (headers.DEAD_LETTER_REASON, _encode(letter.reason)),
            (headers.DEAD_LETTER_TOPIC, record.topic.encode()),
            (headers.DEAD_LETTER_PARTITION, b"%d" % record.partition),
            (headers.DEAD_LETTER_OFFSET, b"%d" % record.offset),
            (headers.DEAD_LETTER_SERVICE, self._service.encode()),
            (headers.DEAD_LETTER_AT, datetime.now(UTC).isoformat().encode()),
        ]


def _whole(record: Record, about: headers.Headers) -> Record:
    fields = [*headers.of_the_original(record.headers), *about]
    if record.lacks is not None:
        fields.append((headers.DEAD_LETTER_CUT, record.lacks.encode()))
    return _addressed(record, record.key, record.value, fields)


def _deliver_stub(producer: Producer, record: Record, about: headers.Headers, refusal: KafkaError) -> None:
    for stub in stubs(record, about):
        (result,) = deliver(producer, [stub])
        if not isinstance(result, KafkaError):
            return
    raise KafkaException(refusal)


def stubs(record: Record, about: headers.Headers) -> Iterator[Record]:
    """Ever smaller stubs of a dead letter, in the order in which to try them.

    Args:
        record: the original.
        about: the headers that a dead letter adds.
    """
    body = record.value or b""
    size = sum(len(name) + len(value or b"") for name, value in record.headers) + len(record.key or b"")
    room = min(STUB_BYTES_MAX, size + len(body))
    while room >= STUB_BYTES_MIN:
        yield _stub(record, about, room)
        room //= 2
    # Nothing of the original, not even its missing key, which a compacted topic refuses.
    lacks = (headers.DEAD_LETTER_CUT, b"holds its place only")
    yield _addressed(record, record.place.encode(), None, [*about, lacks])


def _stub(record: Record, about: headers.Headers, room: int) -> Record:
    key = record.key if len(record.key or b"") <= KEY_BYTES_MAX else None
    kept: headers.Headers = []
    left = min(HEADERS_BYTES_MAX, room // 4)
    fields = headers.of_the_original(record.headers)
    for name, value in fields:
        if (size := len(name.encode()) + len(value or b"")) <= left:
            kept.append((name, value))
            left -= size
    body = record.value
    if body is not None:
        body = body[: max(room - BESIDE_BODY_BYTES, room // 2)]
    lacks = f"holds {len(body or b'')} of {len(record.value or b'')} bytes of the body"
    lacks += f", {len(kept)} of {len(fields)} headers{', no key' if key is not record.key else ''}"
    return _addressed(record, key, body, [*kept, *about, (headers.DEAD_LETTER_CUT, lacks.encode())])


def _addressed(record: Record, key: bytes | None, value: bytes | None, fields: headers.Headers) -> Record:
    return Record(dead_letter_topic(record.topic), ANY_PARTITION, 0, key, value, fields)


def _encode(text: str) -> bytes:
    return (text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}…").encode(errors="backslashreplace")
