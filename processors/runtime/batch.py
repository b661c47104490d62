"""One batch of messages, and what is seen of it in the traces.

Each message of a traced withdrawal gets a ``process`` span of its own, child of whoever sent that message, so
traces never mix. What is done once for the whole batch (a transaction, a call) appears below each of them with
the same times (:mod:`processors.runtime.hops`). Where a batch carries several traced messages, a batch span links
to them all, and each of them links to the batch.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

from opentelemetry.trace import Span, SpanKind
from opentelemetry.util.types import AttributeValue
from psycopg import AsyncConnection

from broker.records import Record, context_of_record
from contracts import failpoints
from contracts.topics import consumer_group, dead_letter_topic
from processors.runtime import metrics
from processors.runtime.database import Database
from processors.runtime.hops import TEXT_MAX, fail, remark, retry, transaction_spans
from processors.runtime.messages import DeadLetter, Emitted, Message
from tracing import LINKS_MAX, TraceContext, context_of, is_sampled, start_span
from tracing import attributes as names

Place = tuple[str, int, int]

KEY_BYTES_MAX = 64

UNREADABLE = "unreadable"
PROCESS_BATCH = "process batch"


class Batch:
    """Messages that are handled in one transaction.

    Args:
        service: its name.
        messages: those the service handles.
        dead_letters: records that cannot even be read.
        brokers: attributes of spans: where the messages came from.

    Attributes:
        messages: those the service handles, in order per partition.
        emitted: the events that follow, written in the transaction.
        dead_letters: records that cannot be handled; published after the transaction, before the offsets.
    """

    def __init__(
        self,
        service: str,
        messages: Sequence[Message],
        dead_letters: Sequence[DeadLetter] = (),
        brokers: Mapping[str, AttributeValue] | None = None,
    ):
        self.service = service
        self.messages = messages
        self.emitted: list[Emitted] = []
        self._unreadable = tuple(dead_letters)
        self.dead_letters: list[DeadLetter] = list(dead_letters)
        self._brokers = brokers or {}
        self._about_each: Mapping[str, AttributeValue] = {}
        self._batch_span: Span | None = None
        self._spans: dict[Place, Span] = {}

    def contexts(self) -> list[TraceContext]:
        """The trace context of each message."""
        return [message.context for message in self.messages]

    @asynccontextmanager
    async def transaction(self, database: Database) -> AsyncIterator[AsyncConnection]:
        """One transaction for the whole batch."""
        with transaction_spans(self.service, database, self.contexts()):
            async with database.transaction(len(self.messages)) as connection:
                yield connection
                failpoints.hit(f"{self.service}.written")

    def part(self, messages: Sequence[Message]) -> "Batch":
        """Some of the messages as a batch of their own; their spans stay with this one."""
        return Batch(self.service, messages)

    def refuse(self, message: Message, reason: str, error: str | None = None) -> None:
        """Send a readable message to the dead letters."""
        self.dead_letters.append(DeadLetter(message.record, reason, error))

    def start_over(self) -> None:
        """The next attempt decides anew what follows and who is refused."""
        self.emitted = []
        self.dead_letters = list(self._unreadable)

    def committed(self) -> None:
        """Count what was decided, and remark in the traces what is not the usual."""
        metrics.count_decisions(self.emitted)
        remark(self.emitted, {m.context: m.span for m in self.messages if m.span is not None})

    def begin_spans(self) -> None:
        """Open the ``process`` span of each traced message, and of each traced record that cannot be read."""
        traced = [message for message in self.messages if is_sampled(message.context)]
        if len(traced) > 1:
            self._batch_span = self._start_batch(traced)
        around = [context_of(self._batch_span)] if self._batch_span is not None else []
        self._about_each = self._about("process")
        for message in traced:
            about = {
                names.MESSAGING_MESSAGE_ID: str(message.id),
                names.PAYMENT_ID: str(message.event.payment_id),
                names.EVENT_TYPE: type(message.event).__name__,
            }
            message.span = self._start(message.record, message.context, about, around)
            message.context = context_of(message.span)
        for letter in self._unreadable:
            if is_sampled(context := context_of_record(letter.record)):
                self._start(letter.record, context, {}, ())

    def note(self, error: Exception) -> None:
        """Remark on every open span that it will be tried again."""
        for message in self.messages:
            if message.span is not None:
                retry(message.span, type(error).__qualname__, str(error))

    @contextmanager
    def dead_letter_spans(self) -> Iterator[None]:
        """Record the block below as the sending of each traced dead letter."""
        sends = []
        for letter in self.dead_letters:
            span = self._spans.get(_place(letter.record))
            if span is None:
                continue
            topic = dead_letter_topic(letter.record.topic)
            reason = (letter.error or letter.reason)[:TEXT_MAX]
            span.add_event(names.DEAD_LETTER, {names.MESSAGING_DESTINATION_NAME: topic, names.REASON: reason})
            about = {
                **self._brokers,
                names.MESSAGING_SYSTEM: "kafka",
                names.MESSAGING_OPERATION_TYPE: "send",
                names.MESSAGING_OPERATION_NAME: "send",
                names.MESSAGING_DESTINATION_NAME: topic,
                **_key(letter.record),
            }
            sends.append(start_span(f"send {topic}", SpanKind.PRODUCER, parent=context_of(span), attributes=about))
        try:
            yield
        finally:
            for send in sends:
                send.end()

    def end_spans(self) -> None:
        """Close what :meth:`begin_spans` opened; refused messages end with error status."""
        unreadable = {_place(letter.record) for letter in self._unreadable}
        for letter in self.dead_letters:
            if span := self._spans.get(place := _place(letter.record)):
                kind = UNREADABLE if place in unreadable else (letter.error or letter.reason).partition(":")[0]
                fail(span, kind, f"{letter.reason}: {letter.error}" if letter.error else letter.reason)
        for span in self._spans.values():
            span.end()
        if self._batch_span is not None:
            self._batch_span.end()

    def _start_batch(self, traced: Sequence[Message]) -> Span:
        attributes = {
            **self._about(PROCESS_BATCH),
            names.MESSAGING_BATCH_MESSAGE_COUNT: len(self.messages),
        }
        name = PROCESS_BATCH
        topics = {message.record.topic for message in self.messages}
        if len(topics) == 1:  # otherwise it has no one destination
            attributes[names.MESSAGING_DESTINATION_NAME] = topic = topics.pop()
            name = f"{name} {topic}"
        links = [message.context for message in traced[:LINKS_MAX]]
        return start_span(name, SpanKind.CONSUMER, attributes=attributes, links=links)

    def _start(
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

    def _about(self, operation: str) -> dict[str, AttributeValue]:
        group = consumer_group(self.service)
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
    """The key as an attribute, where it is a text that is no longer than any of ours."""
    if record.key is None or len(record.key) > KEY_BYTES_MAX:
        return {}
    try:
        return {names.MESSAGING_KAFKA_MESSAGE_KEY: record.key.decode()}
    except UnicodeDecodeError:
        return {}
