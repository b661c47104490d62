"""Spans of single hops, each the child of the hop before it."""

import re
from collections.abc import Iterable, Mapping

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from tracing import setup
from tracing.context import NO_CONTEXT, TraceContext

_PROPAGATOR = TraceContextTextMapPropagator()
_SAMPLED_DIGITS = frozenset((*"13579bdf", *(digit.encode() for digit in "13579bdf")))
_PLAIN = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_EMPTY = Context()
_NO_STATE = TraceState()


def is_sampled(context: TraceContext) -> bool:
    """Whether this process records spans for a message with this context; cheap enough for every message."""
    return is_sampled_parent(context.traceparent)


def is_sampled_parent(traceparent: str | bytes | None) -> bool:
    """The same for a raw ``traceparent``, before it is parsed."""
    return setup._recorder is not None and traceparent is not None and traceparent[-1:] in _SAMPLED_DIGITS


def start_span(
    name: str,
    kind: SpanKind,
    *,
    parent: TraceContext = NO_CONTEXT,
    attributes: Mapping[str, AttributeValue] | None = None,
    links: Iterable[TraceContext] = (),
    start_ns: int | None = None,
) -> Span:
    """Start a span; the caller ends it. Without a parent it is the root of a new trace.

    Args:
        name: as the OpenTelemetry conventions name it, ``process account.events``.
        kind: CONSUMER, PRODUCER, CLIENT, INTERNAL …
        parent: the context of the hop before.
        attributes: by the names of the OpenTelemetry semantic conventions.
        links: contexts of other messages that this span worked on.
        start_ns: nanoseconds since the epoch, if not now.
    """
    recorder = setup.recorder()
    if recorder is None:
        return INVALID_SPAN
    return recorder.start(
        name,
        kind,
        _span_context(parent) if parent.traceparent else None,
        attributes or {},
        [Link(_span_context(context)) for context in links],
        start_ns,
    )


def context_of(span: Span) -> TraceContext:
    """The context that a message or outbox row written under this span carries."""
    own = span.get_span_context()
    state = own.trace_state.to_header() if own.trace_state else None
    return TraceContext(f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}", state)


def _span_context(context: TraceContext) -> SpanContext:
    """The span context of a traceparent; an invalid one, which starts a new trace, if that is malformed."""
    parent = context.traceparent or ""
    if _PLAIN.fullmatch(parent) and not context.tracestate:
        # The common case; the propagator takes five times as long.
        return SpanContext(
            int(parent[3:35], 16), int(parent[36:52], 16), True, TraceFlags(int(parent[53:], 16)), _NO_STATE
        )
    carrier = {"traceparent": parent} | ({"tracestate": context.tracestate} if context.tracestate else {})
    return get_current_span(_PROPAGATOR.extract(carrier, _EMPTY)).get_span_context()
