"""One trace per withdrawal: OpenTelemetry set-up, and trace context in headers and outbox rows.

The ground floor of Settle, next to ``contracts``; imports nothing of ours. The hot path asks
:func:`tracing.spans.is_sampled` first: a span costs some 20 µs, so one is made only for withdrawals that are
being traced.
"""

from tracing.context import NO_CONTEXT, TraceContext, new_unsampled, read_context
from tracing.recording import LINKS_MAX
from tracing.setup import configure, enabled, sample, shutdown
from tracing.spans import context_of, is_sampled, is_sampled_parent, start_span

__all__ = [
    "LINKS_MAX",
    "NO_CONTEXT",
    "TraceContext",
    "configure",
    "context_of",
    "enabled",
    "is_sampled",
    "is_sampled_parent",
    "new_unsampled",
    "read_context",
    "sample",
    "shutdown",
    "start_span",
]
