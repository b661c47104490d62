"""Where does a message go that can never be handled? To ``<topic>.dlq``, byte for byte, with the reason."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from confluent_kafka import KafkaException, Producer

from contracts import headers
from contracts.topics import dead_letter_topic
from processors.runtime.messages import DeadLetter

DELIVERY_TIMEOUT_S = 30.0


class DeadLetters:
    """Publishes dead letters; opens its producer only when there is a first one."""

    def __init__(self, bootstrap: str, service: str) -> None:
        self._bootstrap = bootstrap
        self._service = service
        self._producer: Producer | None = None

    async def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Write the letters and wait until Kafka has them all.

        Raises:
            KafkaException: at least one was not taken; publish all again (repeats are possible then).
        """
        if letters:
            await asyncio.to_thread(self._publish, letters)

    def _publish(self, letters: Sequence[DeadLetter]) -> None:
        if self._producer is None:
            self._producer = Producer(
                {
                    "bootstrap.servers": self._bootstrap,
                    "enable.idempotence": True,
                    # As everybody who writes: a key has the same partition number as on the topic it came from.
                    "partitioner": "murmur2_random",
                    "delivery.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
                    "log_level": 2,
                }
            )
        failures: list[KafkaException] = []
        for letter in letters:
            self._producer.produce(
                dead_letter_topic(letter.record.topic),
                value=letter.record.value,
                key=letter.record.key,
                headers=[*letter.record.headers, *self._place(letter)],
                on_delivery=lambda error, _: failures.append(KafkaException(error)) if error else None,
            )
        self._producer.flush()
        if failures:
            self._producer = None  # that one may have lost Kafka for good (see `connectivity`)
            raise failures[0]

    def _place(self, letter: DeadLetter) -> headers.Headers:
        record = letter.record
        error = [(headers.DEAD_LETTER_ERROR, letter.error.encode())] if letter.error is not None else []
        return [
            *error,
            (headers.DEAD_LETTER_REASON, letter.reason.encode()),
            (headers.DEAD_LETTER_TOPIC, record.topic.encode()),
            (headers.DEAD_LETTER_PARTITION, b"%d" % record.partition),
            (headers.DEAD_LETTER_OFFSET, b"%d" % record.offset),
            (headers.DEAD_LETTER_SERVICE, self._service.encode()),
            (headers.DEAD_LETTER_AT, datetime.now(UTC).isoformat().encode()),
        ]
