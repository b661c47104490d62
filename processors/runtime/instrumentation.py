"""Spans, metrics and failpoints of a batch: context managers around the stages of its pipeline.

Each message of a traced withdrawal gets a ``process`` span of its own, child of that message's sender, so
traces never mix. What is done once for the whole batch (a transaction, a call) appears below each of them with
the same times (:mod:`processors.runtime.hops`). Where a batch carries several traced messages, a batch span links
to them all, and each of them links to the batch.
"""

import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

from opentelemetry.trace import Span, SpanKind
from opentelemetry.util.types import AttributeValue
from psycopg import AsyncConnection

from broker.records import Record, context_of_record
from contracts import failpoints
from contracts.topics import consumer_group, dead_letter_topic
from processors.runtime import metrics
from processors.runtime.batch import Batch
from processors.runtime.database import Database
from processors.runtime.hops import TEXT_MAX, fail, remark, retry, transaction_spans
from processors.runtime.messages import DeadLetter, Message
from tracing import LINKS_MAX, TraceContext, context_of, is_sampled, start_span
from tracing import attributes as names

Place = tuple[str, int, int]

KEY_BYTES_MAX = 64

UNREADABLE = "unreadable"
PROCESS_BATCH = "process batch"


@asynccontextmanager
async def transaction(
    service: str, database: Database, messages: Sequence[Message]
) -> AsyncIterator[AsyncConnection]:
    """One transaction for some messages, with a span in the trace of each."""
    contexts = [message.context for message in messages]
    with transaction_spans(service, database, contexts):
        async with database.transaction(len(messages)) as connection:
            yield connection
            failpoints.hit(f"{service}.written")


class Instrumentation:
    """Telemetry of a service's batches, one at a time.

    Args:
        service: its name.
        brokers: attributes of spans: where the messages come from.
    """

    def __init__(self, service: str, brokers: Mapping[str, AttributeValue] | None = None) -> None:
        self._service = service
        self._brokers = brokers or {}
        self._about_each = self._about("process")
        self._spans: dict[Place, Span] = {}

    @contextmanager
    def batch(self, records: Sequence[Record], batch: Batch) -> Iterator[None]:
        """Wraps the whole of a batch: a span for each traced record, which its messages continue.

        Args:
            records: what was taken from Kafka.
            batch: what was decoded from them.
        """
        started = time.perf_counter()
        for event_type, count in Tally(type(message.event).__name__ for message in batch.messages).items():
            metrics.MESSAGES.labels(event_type).inc(count)
        metrics.SKIPPED.inc(len(records) - len(batch.messages) - len(batch.dead_letters))
        unreadable = tuple(batch.dead_letters)
        whole = self._begin(batch.messages, unreadable)
        try:
            yield
        finally:
            self._end(whole, {_place(letter.record) for letter in unreadable}, batch.dead_letters)
        metrics.BATCH_SECONDS.observe(time.perf_counter() - started)
        metrics.BATCH_MESSAGES.observe(len(records))

    @contextmanager
    def attempt(self, batch: Batch) -> Iterator[None]:
        """Wraps one attempt to process and commit a batch or a part of it: counts the decisions."""
        yield
        failpoints.hit(f"{self._service}.committed")
        metrics.count_decisions(batch.emitted)
        if self._spans:
            remark(batch.emitted, {message.context: span for message, span in self._traced(batch.messages)})

    def will_retry(self, messages: Sequence[Message], error: Exception) -> None:
        """Count a failed attempt that will be retried, and add an event to the span of each message."""
        metrics.BATCH_RETRIES.labels(type(error).__name__).inc()
        for _, span in self._traced(messages):
            retry(span, type(error).__qualname__, str(error))

    def is_kept(self, message: Message, error: Exception, reason: str) -> None:
        """Add an event to a message's span: it was stored in the service's database, to be retried from there."""
        for _, span in self._traced([message]):
            retry(span, type(error).__qualname__, reason)

    @contextmanager
    def publication(self, letters: Sequence[DeadLetter]) -> Iterator[None]:
        """Wraps the publication of dead letters: a ``send`` span for each that is traced."""
        sends = [
            self._begin_send(letter, span)
            for letter in letters
            if (span := self._spans.get(_place(letter.record))) is not None
        ]
        try:
            yield
        finally:
            for send in sends:
                send.end()
        failpoints.hit(f"{self._service}.dead-letters-sent")
        for letter in letters:
            metrics.DEAD_LETTERS.labels(letter.record.topic).inc()

    def _traced(self, messages: Sequence[Message]) -> Iterator[tuple[Message, Span]]:
        if self._spans:
            for message in messages:
                if (span := self._spans.get(_place(message.record))) is not None:
                    yield message, span

    def _begin(self, messages: Sequence[Message], unreadable: Sequence[DeadLetter]) -> Span | None:
        """Open the spans; the one of the batch, where several of its messages are traced."""
        traced = [message for message in messages if is_sampled(message.context)]
        whole = self._begin_batch(traced, messages) if len(traced) > 1 else None
        around = [context_of(whole)] if whole is not None else []
        for message in traced:
            about = {
                names.MESSAGING_MESSAGE_ID: str(message.id),
                names.PAYMENT_ID: str(message.event.payment_id),
                names.EVENT_TYPE: type(message.event).__name__,
            }
            span = self._begin_process(message.record, message.context, about, around)
            message.context = context_of(span)
        for letter in unreadable:
            if is_sampled(context := context_of_record(letter.record)):
                self._begin_process(letter.record, context, {}, ())
        return whole

    def _end(self, whole: Span | None, unreadable: set[Place], letters: Sequence[DeadLetter]) -> None:
        """Close the spans; those of refused messages with error status."""
        spans, self._spans = self._spans, {}
        if not spans:
            return
        for letter in letters:
            if span := spans.get(place := _place(letter.record)):
                kind = UNREADABLE if place in unreadable else (letter.error or letter.reason).partition(":")[0]
                fail(span, kind, f"{letter.reason}: {letter.error}" if letter.error else letter.reason)
        for span in spans.values():
            span.end()
        if whole is not None:
            whole.end()

    def _begin_batch(self, traced: Sequence[Message], messages: Sequence[Message]) -> Span:
        attributes = {
            **self._about(PROCESS_BATCH),
            names.MESSAGING_BATCH_MESSAGE_COUNT: len(messages),
        }
        name = PROCESS_BATCH
        topics = {message.record.topic for message in messages}
        if len(topics) == 1:  # otherwise it has no one destination
            attributes[names.MESSAGING_DESTINATION_NAME] = topic = topics.pop()
            name = f"{name} {topic}"
        links = [message.context for message in traced[:LINKS_MAX]]
        return start_span(name, SpanKind.CONSUMER, attributes=attributes, links=links)

    def _begin_process(
        self,
        record: Record,
        context: TraceContext,
        about: Mapping[str, AttributeValue],
        around: Sequence[TraceContext],
    ) -> Span:
        span = start_span(
            f"process {record.topic}",
            SpanKind.CONSUMER,
            parent=context,
            attributes={
                **self._about_each,
                names.MESSAGING_DESTINATION_NAME: record.topic,
                names.MESSAGING_DESTINATION_PARTITION_ID: str(record.partition),
                names.MESSAGING_KAFKA_OFFSET: record.offset,
                **_key(record),
                **about,
            },
            links=around,
        )
        self._spans[_place(record)] = span
        return span

    def _begin_send(self, letter: DeadLetter, process: Span) -> Span:
        topic = dead_letter_topic(letter.record.topic)
        reason = (letter.error or letter.reason)[:TEXT_MAX]
        process.add_event(names.DEAD_LETTER, {names.MESSAGING_DESTINATION_NAME: topic, names.REASON: reason})
        about = {
            **self._brokers,
            names.MESSAGING_SYSTEM: "kafka",
            names.MESSAGING_OPERATION_TYPE: "send",
            names.MESSAGING_OPERATION_NAME: "send",
            names.MESSAGING_DESTINATION_NAME: topic,
            **_key(letter.record),
        }
        return start_span(f"send {topic}", SpanKind.PRODUCER, parent=context_of(process), attributes=about)

    def _about(self, operation: str) -> dict[str, AttributeValue]:
        group = consumer_group(self._service)
        return {
            **self._brokers,
            names.MESSAGING_SYSTEM: "kafka",
            names.MESSAGING_OPERATION_TYPE: "process",
            names.MESSAGING_OPERATION_NAME: operation,
            names.MESSAGING_CONSUMER_GROUP_NAME: group,
            names.MESSAGING_CLIENT_ID: group,  # as `processors.runtime.consumer` calls itself
        }


def _place(record: Record) -> Place:
    return record.topic, record.partition, record.offset


def _key(record: Record) -> dict[str, str]:
    """The key as an attribute, where it is text and no longer than our own keys."""
    if record.key is None or len(record.key) > KEY_BYTES_MAX:
        return {}
    try:
        return {names.MESSAGING_KAFKA_MESSAGE_KEY: record.key.decode()}
    except UnicodeDecodeError:
        return {}
