"""The W3C trace context that travels with a message, as text, so that its spans find each other.

Source: W3C Trace Context, https://www.w3.org/TR/trace-context/
"""

import random
import re

import msgspec

TRACESTATE_MAX = 512
"""Characters of a ``tracestate`` that are propagated; the specification requires no more."""

_IDS = rb"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_PARENT = re.compile(rb"00-%b" % _IDS)
_LATER = re.compile(rb"(?!00|ff)[0-9a-f]{2}-(%b)(?:-.*)?" % _IDS, re.DOTALL)

_KEY = rb"[a-z0-9][a-z0-9_*/-]{0,255}(?:@[a-z][a-z0-9_*/-]{0,13})?"
_VALUE = rb"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
# The first blanks are kept once they are taken: two runs with nothing between could share them in many ways.
_MEMBER = rb"[ \t]*+(?:%b=%b)?[ \t]*" % (_KEY, _VALUE)
_STATE = re.compile(rb"%b(?:,%b){0,31}" % (_MEMBER, _MEMBER))


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


def read_context(traceparent: bytes | None, tracestate: bytes | None) -> TraceContext:
    """Parse the context from two headers; invalid values never make the message itself invalid.

    An invalid ``traceparent`` drops both, an invalid or too long ``tracestate`` only itself. A later
    version of the specification is read as far as this one goes, and propagated as this one.
    """
    if traceparent is None:
        return NO_CONTEXT
    if _PARENT.fullmatch(traceparent) is None:
        later = _LATER.fullmatch(traceparent)
        if later is None:
            return NO_CONTEXT
        traceparent = b"00-" + later[1]
    if not tracestate or len(tracestate) > TRACESTATE_MAX or _STATE.fullmatch(tracestate) is None:
        return TraceContext(traceparent.decode())
    return TraceContext(traceparent.decode(), tracestate.decode())


def new_unsampled() -> TraceContext:
    """The context of a new, unsampled trace: an ID to print and to log, at no cost."""
    return TraceContext(f"00-{random.getrandbits(128) or 1:032x}-{random.getrandbits(64) or 1:016x}-00")
