"""What is one batch, and what is seen of it in the traces?

Each message of a traced withdrawal gets a ``process`` span of its own, child of whoever sent that message, so
traces never mix. What is done once for the whole batch (a transaction, a call) appears below each of them with
the same times. Where a batch carries several traced messages, a batch span links to them all.
"""

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from psycopg import AsyncConnection

import failpoints
from contracts.topics import consumer_group
from processors.runtime.database import Database
from processors.runtime.messages import DeadLetter, Emitted, Message
from tracing import TraceContext, context_of, is_sampled, start_span
from tracing import attributes as names


@contextmanager
def spans(
    contexts: Iterable[TraceContext],
    name: str,
    kind: SpanKind,
    attributes: Mapping[str, AttributeValue],
) -> Iterator[None]:
    """Record the block below as one span for each traced context, with the same times.

    A block that raises leaves its spans with error status and the exception's name.
    """
    traced = [context for context in contexts if is_sampled(context)]
    if not traced:
        yield
        return
    start_ns = time.time_ns()
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        for context in traced:
            span = start_span(name, kind, parent=context, attributes=attributes, start_ns=start_ns)
            if error is not None:
                span.set_attribute(names.ERROR_TYPE, type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, str(error)))
            span.end()


def transaction_spans(service: str, contexts: Iterable[TraceContext]) -> AbstractContextManager[None]:
    """Record the block below as a database transaction of the service in the trace of each context."""
    about = {
        names.DB_SYSTEM_NAME: "postgresql",
        names.DB_NAMESPACE: service,
        names.DB_OPERATION_NAME: "transaction",
    }
    return spans(contexts, f"transaction {service}", SpanKind.CLIENT, about)


class Batch:
    """Messages that are handled in one transaction.

    Attributes:
        messages: those the service handles, in order per partition.
        emitted: the events that follow, written in the transaction.
        dead_letters: records that cannot be handled; published after the transaction, before the offsets.
    """

    def __init__(self, service: str, messages: Sequence[Message], dead_letters: Sequence[DeadLetter] = ()):
        self.service = service
        self.messages = messages
        self.emitted: list[Emitted] = []
        self._unreadable = tuple(dead_letters)
        self.dead_letters: list[DeadLetter] = list(dead_letters)
        self._batch_span: Span | None = None

    def contexts(self) -> list[TraceContext]:
        """The trace context of each message."""
        return [message.context for message in self.messages]

    @asynccontextmanager
    async def transaction(self, database: Database) -> AsyncIterator[AsyncConnection]:
        """One transaction for the whole batch."""
        with transaction_spans(self.service, self.contexts()):
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

    def begin_spans(self) -> None:
        """Open the ``process`` span of each traced message."""
        traced = [message for message in self.messages if is_sampled(message.context)]
        if len(traced) > 1:
            self._batch_span = start_span(
                f"process batch {self.service}",
                SpanKind.CONSUMER,
                attributes={
                    names.MESSAGING_SYSTEM: "kafka",
                    names.MESSAGING_OPERATION_TYPE: "process",
                    names.MESSAGING_BATCH_MESSAGE_COUNT: len(self.messages),
                },
                links=[message.context for message in traced],
            )
        for message in traced:
            record = message.record
            message.span = start_span(
                f"process {record.topic}",
                SpanKind.CONSUMER,
                parent=message.context,
                attributes={
                    names.MESSAGING_SYSTEM: "kafka",
                    names.MESSAGING_OPERATION_TYPE: "process",
                    names.MESSAGING_OPERATION_NAME: "process",
                    names.MESSAGING_DESTINATION_NAME: record.topic,
                    names.MESSAGING_DESTINATION_PARTITION_ID: str(record.partition),
                    names.MESSAGING_KAFKA_OFFSET: record.offset,
                    names.MESSAGING_CONSUMER_GROUP_NAME: consumer_group(self.service),
                    names.MESSAGING_MESSAGE_ID: str(message.id),
                    names.MESSAGING_BATCH_MESSAGE_COUNT: len(self.messages),
                    names.PAYMENT_ID: str(message.event.payment_id),
                    names.EVENT_TYPE: type(message.event).__name__,
                },
            )
            message.context = context_of(message.span)

    def note(self, text: str) -> None:
        """Leave a remark (a retry, say) on every open span."""
        for message in self.messages:
            if message.span is not None:
                message.span.add_event(text)

    def end_spans(self) -> None:
        """Close what :meth:`begin_spans` opened; refused messages end with error status."""
        refused = {
            (letter.record.topic, letter.record.partition, letter.record.offset): letter.reason
            for letter in self.dead_letters
        }
        for message in self.messages:
            if message.span is None:
                continue
            record = message.record
            reason = refused.get((record.topic, record.partition, record.offset))
            if reason is not None:
                message.span.set_status(Status(StatusCode.ERROR, reason))
            message.span.end()
        if self._batch_span is not None:
            self._batch_span.end()
