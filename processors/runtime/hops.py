"""Spans of a shared operation (a transaction, a call): one in the trace of each message, with the same times."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import psycopg
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from processors.runtime.database import Database
from processors.runtime.messages import Emitted
from tracing import TraceContext, context_of, is_sampled, start_span
from tracing import attributes as names

TEXT_MAX = 1_000
"""Maximum characters of an error or a reason in a span: they may quote the message."""

Hops = Mapping[int, Span]
"""The span of each traced context, by the context's index among those given; empty where none is traced."""


@contextmanager
def spans(
    contexts: Sequence[TraceContext], name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]
) -> Iterator[Hops]:
    """Record the block below as one span for each traced context, with the same times.

    A block that raises leaves its spans with error status.
    """
    hops = {
        place: start_span(name, kind, parent=context, attributes=attributes)
        for place, context in enumerate(contexts)
        if is_sampled(context)
    }
    try:
        yield hops
    except BaseException as error:
        for span in hops.values():
            fail(span, type(error).__qualname__, str(error) or type(error).__qualname__)
            if isinstance(error, psycopg.Error) and error.sqlstate:
                span.set_attribute(names.DB_RESPONSE_STATUS_CODE, error.sqlstate)
        raise
    finally:
        for span in hops.values():
            span.end()


def transaction_spans(
    service: str, database: Database, contexts: Sequence[TraceContext]
) -> AbstractContextManager[Hops]:
    """Record the block below as a database transaction of the service in the trace of each context."""
    about = {**database.attributes, names.DB_OPERATION_NAME: "transaction", names.MESSAGES: len(contexts)}
    return spans(contexts, f"transaction {service}", SpanKind.CLIENT, about)


@contextmanager
def deciding(service: str, database: Database, contexts: Sequence[TraceContext]) -> Iterator[list[Emitted]]:
    """Record the block below as a transaction, and what it appends to the list in the trace of each decision."""
    emitted: list[Emitted] = []
    with transaction_spans(service, database, contexts) as hops:
        yield emitted
        remark(emitted, {contexts[place]: span for place, span in hops.items()})


def context_in(hops: Hops, place: int, otherwise: TraceContext) -> TraceContext:
    """The context of a hop's span, as parent of what is done below it."""
    span = hops.get(place)
    return context_of(span) if span is not None else otherwise


def fail(span: Span, error_type: str, message: str) -> None:
    """Give a span error status.

    Args:
        span: not ended yet.
        error_type: a class of errors: an exception's name, a status code.
        message: for people.
    """
    span.set_attribute(names.ERROR_TYPE, error_type[:TEXT_MAX])
    span.set_status(Status(StatusCode.ERROR, message[:TEXT_MAX]))


def retry(span: Span, error_type: str, message: str) -> None:
    """Add an event: the failed attempt will be retried."""
    span.add_event(names.RETRY, {names.ERROR_TYPE: error_type[:TEXT_MAX], names.REASON: message[:TEXT_MAX]})


def remark(emitted: Iterable[Emitted], spans_by_context: Mapping[TraceContext, Span]) -> None:
    """Add an event for every unusual decision, with its reason, to the span it was made in."""
    if not spans_by_context:
        return
    for one in emitted:
        event = one.event
        span = spans_by_context.get(one.context)
        if span is not None and event.unusual:
            span.add_event(type(event).__name__, {names.REASON: getattr(event, "reason", "")})
