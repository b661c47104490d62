"""How does one hop become a span, child of the hop before it?"""

from collections.abc import Iterable, Mapping

from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from tracing import setup
from tracing.context import NO_CONTEXT, TraceContext

_PROPAGATOR = TraceContextTextMapPropagator()
_SAMPLED_DIGITS = frozenset("13579bdf")


def is_sampled(context: TraceContext) -> bool:
    """Whether this process records spans for a message with this context; cheap enough for every message."""
    parent = context.traceparent
    return setup._provider is not None and parent is not None and parent[-1:] in _SAMPLED_DIGITS


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
    return setup.tracer().start_span(
        name,
        context=_PROPAGATOR.extract(_carrier(parent)) if parent.traceparent else None,
        kind=kind,
        attributes=attributes,
        links=[_link(context) for context in links],
        start_time=start_ns,
    )


def context_of(span: Span) -> TraceContext:
    """The context that a message or outbox row written under this span carries."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, set_span_in_context(NonRecordingSpan(span.get_span_context())))
    return TraceContext(carrier.get("traceparent"), carrier.get("tracestate"))


def _carrier(context: TraceContext) -> dict[str, str]:
    carrier = {"traceparent": context.traceparent or ""}
    if context.tracestate:
        carrier["tracestate"] = context.tracestate
    return carrier


def _link(context: TraceContext) -> Link:
    return Link(get_current_span(_PROPAGATOR.extract(_carrier(context))).get_span_context())
