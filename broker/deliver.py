"""Delivery of records to Kafka, each with its own result: the stored record, or why Kafka refuses it for good."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import inf

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from broker.lifeline import flush
from broker.offsets import refused
from broker.records import Record

ANY_PARTITION = -1
"""The partition is chosen from the key."""

REFUSALS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError._INVALID_DIFFERENT_RECORD,
    }
)
"""Permanent errors about the record itself; others (no broker, no right, no topic) pass, or an operator acts."""


class NotAllWrittenError(KafkaException):
    """Some of the records are not known to be written, for a reason that passes or that an operator can mend.

    Attributes:
        written: the numbers of those that are.
    """

    def __init__(self, cause: KafkaException, results: Mapping[int, Message | KafkaError]) -> None:
        super().__init__(*cause.args)
        self.written = {number for number, found in results.items() if not isinstance(found, KafkaError)}


def deliver(producer: Producer, records: Sequence[Record]) -> list[Message | KafkaError]:
    """Write records to their topics and partitions, and wait until Kafka has them.

    Args:
        producer: its ``delivery.timeout.ms`` bounds the wait.
        records: what to write; offsets are ignored, a partition may be :data:`ANY_PARTITION`.

    Returns:
        For each record the message as Kafka stored it, or one of :data:`REFUSALS`.

    Raises:
        NotAllWrittenError: another error.
    """
    results = _deliver(producer, records)
    if len(records) > 1:
        for number, result in enumerate(results):
            if isinstance(result, KafkaError):  # perhaps because of another record in its batch
                try:
                    (results[number],) = _deliver(producer, [records[number]])
                except NotAllWrittenError as error:
                    raise NotAllWrittenError(error, dict(enumerate(results))) from None
    return results


def _deliver(producer: Producer, records: Sequence[Record]) -> list[Message | KafkaError]:
    results: dict[int, Message | KafkaError] = {}

    def note(number: int, error: KafkaError | None, message: Message) -> None:
        results[number] = error or message

    for number, record in enumerate(records):
        fields: list[tuple[str, str | bytes | None]] = list(record.headers)
        produce = partial(
            producer.produce,
            record.topic,
            record.value,
            record.key,
            partition=record.partition,
            headers=fields,
            on_delivery=partial(note, number),
        )
        try:
            try:
                produce()
            except BufferError:  # its queue is full
                flush(producer, inf)
                produce()
        except KafkaException as error:
            results[number] = error.args[0]
    flush(producer, inf)
    for number, result in results.items():
        if isinstance(result, KafkaError) and result.code() not in REFUSALS:
            is_denied = result.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
            cause = refused(records[number].topic) if is_denied else KafkaException(result)
            raise NotAllWrittenError(cause, results)
    return [results[number] for number in range(len(records))]
