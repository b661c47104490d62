"""Recording of spans: OpenTelemetry's ``Span`` interface over a dictionary, exported when it ends.

The SDK's own copies and checks every attribute, asks a sampler, and locks, as its callers may pass anything:
38 µs for one of ours, where this takes 10. Here all callers are known: sampling was decided at the root, and
attributes are text, numbers, true or false (:mod:`tracing.otlp`).
"""

import random
import time
import traceback
from collections.abc import Mapping, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes, AttributeValue

from tracing.delivery import BoundedSpans

EVENTS_MAX = 128
"""Events of one span; bounds those of endless retries."""

LINKS_MAX = 1_000
"""Links of one span; some as many as a batch has messages under load."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("settle")


class Recorder:
    """Starts the spans of a process, and queues those that have ended.

    Args:
        resource: identifies this process.
        spans: where ended spans go.
    """

    def __init__(self, resource: Resource, spans: BoundedSpans) -> None:
        self.resource = resource
        self.spans = spans

    def start(
        self,
        name: str,
        kind: SpanKind,
        parent: SpanContext | None,
        attributes: Mapping[str, AttributeValue],
        links: Sequence[Link],
        start_ns: int | None,
    ) -> "Recording":
        """Start a span; without a valid parent, the root of a new trace."""
        if parent is not None and parent.is_valid:
            trace_id, state = parent.trace_id, parent.trace_state
        else:
            parent, trace_id, state = None, random.getrandbits(128) or 1, None
        context = SpanContext(trace_id, random.getrandbits(64) or 1, False, _SAMPLED, state)
        return Recording(self, name, kind, context, parent, dict(attributes), links, start_ns or time.time_ns())

    def shutdown(self) -> None:
        """Send what is queued."""
        self.spans.shutdown()


class Recording(Span):
    """A span of a withdrawal that is traced; used by one thread at a time."""

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: dict[str, AttributeValue],
        links: Sequence[Link],
        start_ns: int,
    ) -> None:
        self._recorder, self._name, self._kind = recorder, name, kind
        self._context, self._parent = context, parent
        self._attributes, self._links = attributes, links[:LINKS_MAX]
        self._start_ns = start_ns
        self._events: list[Event] = []
        self._status = Status()
        self._ended = False

    def get_span_context(self) -> SpanContext:
        """Its identity."""
        return self._context

    def is_recording(self) -> bool:
        """Whether the span has not ended."""
        return not self._ended

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set one attribute."""
        self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Say more."""
        self._attributes.update(attributes)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event; beyond :data:`EVENTS_MAX` events are dropped."""
        if len(self._events) < EVENTS_MAX:
            self._events.append(Event(name, dict(attributes or {}), timestamp or time.time_ns()))

    def update_name(self, name: str) -> None:
        """Rename the span."""
        self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the outcome."""
        self._status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an ``exception`` event."""
        about: dict[str, AttributeValue] = {
            "exception.type": type(exception).__qualname__,
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", about | dict(attributes or {}), timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End the span and queue it for export, once."""
        if self._ended:
            return
        self._ended = True
        self._recorder.spans.on_end(
            ReadableSpan(
                self._name,
                self._context,
                self._parent,
                self._recorder.resource,
                self._attributes,
                self._events,
                self._links,
                self._kind,
                status=self._status,
                start_time=self._start_ns,
                end_time=end_time or time.time_ns(),
                instrumentation_scope=_SCOPE,
            )
        )
