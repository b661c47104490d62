"""What travels with a message so that its spans find each other? The W3C trace context, as text.

Source: W3C Trace Context, https://www.w3.org/TR/trace-context/
"""

import random

import msgspec


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """The two headers of a W3C trace context, as they stand in Kafka headers and outbox rows."""

    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def trace_id(self) -> str | None:
        """The trace ID (32 hex digits), or None without a usable ``traceparent``."""
        parent = self.traceparent
        return parent[3:35] if parent is not None and len(parent) >= 55 else None


NO_CONTEXT = TraceContext()


def new_unsampled() -> TraceContext:
    """A context that names a new trace nobody records: an ID to print and to log, at no cost."""
    return TraceContext(f"00-{random.getrandbits(128) or 1:032x}-{random.getrandbits(64) or 1:016x}-00")
