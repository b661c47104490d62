"""Spans of publications, each in the trace of its row: a stage that wraps the one that publishes.

Only rows of sampled traces get a span (PRODUCER, from handing over to acknowledgement) and leave with its
context; all others pass untouched, without a call to the SDK. So do rows whose context is invalid.

Source: OpenTelemetry semantic conventions for Kafka.
"""

import re
import time
from typing import Any

from opentelemetry.trace import Span, SpanKind, StatusCode

import tracing
from outbox_relay.acknowledgements import DeliveryReport, Transaction
from outbox_relay.errors import RelayError, UnpublishableError
from outbox_relay.otherwise import TRACEPARENT_BYTES_MAX, TRACESTATE_BYTES_MAX
from outbox_relay.outbox import OUTBOX, Outbox, Route
from outbox_relay.position import format_lsn
from outbox_relay.row import OutboxRow
from outbox_relay.stages import Publish
from outbox_relay.topic import topic_named
from tracing import attributes as names

OUTBOX_LSN = "settle.outbox.lsn"
OUTBOX_WAIT_MS = "settle.outbox.wait_ms"
# Of what a row says, in an attribute; a key may have a megabyte.
TEXT_LENGTH_MAX = 256

# Of any version; later ones may have more at the end.
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-~]*)?")


def traced(publish: Publish, outbox: Outbox = OUTBOX) -> Publish:
    """The same stage, with a span around each sampled row; the stage itself where nothing is exported."""
    if not tracing.enabled():
        return publish

    def publish_traced(row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport, /) -> None:
        if not tracing.is_sampled_parent(row.traceparent):
            publish(row, transaction, on_delivery)
            return
        context = _context_of_row(row)
        if context is None:
            publish(row, transaction, on_delivery)
            return
        span = _start(row, context, transaction, outbox.route)
        sent = tracing.context_of(span)
        child = row._replace(traceparent=_bytes(sent.traceparent), tracestate=_bytes(sent.tracestate))
        try:
            publish(child, transaction, _ending(span, on_delivery))
        except RelayError as error:
            _fail(span, type(error).__name__, str(error))
            if isinstance(error, UnpublishableError):
                error.row = row
            raise

    return publish_traced


def _start(row: OutboxRow, context: tracing.TraceContext, transaction: Transaction, route: Route) -> Span:
    topic = topic_named((row.aggregate_type or b"")[:TEXT_LENGTH_MAX], route) or _text(row.aggregate_type)
    return tracing.start_span(
        f"send {topic}",
        SpanKind.PRODUCER,
        parent=context,
        attributes={
            names.MESSAGING_SYSTEM: "kafka",
            names.MESSAGING_OPERATION_TYPE: "send",
            names.MESSAGING_OPERATION_NAME: "send",
            names.MESSAGING_DESTINATION_NAME: topic,
            names.MESSAGING_MESSAGE_ID: _text(row.id),
            names.MESSAGING_KAFKA_MESSAGE_KEY: _text(row.aggregate_id),
            names.EVENT_TYPE: _text(row.event_type),
            OUTBOX_LSN: format_lsn(transaction.commit_lsn),
            OUTBOX_WAIT_MS: max(0.0, time.time() * 1_000 - transaction.committed_us / 1_000),
        },
    )


def _ending(span: Span, on_delivery: DeliveryReport) -> DeliveryReport:
    """A delivery report that ends the span and passes on."""

    def delivered(error: Any, message: Any) -> None:
        if error is None:
            span.set_attribute(names.MESSAGING_DESTINATION_PARTITION_ID, str(message.partition()))
            span.set_attribute(names.MESSAGING_KAFKA_OFFSET, message.offset())
            span.end()
        else:
            _fail(span, error.name(), error.str())
        on_delivery(error, message)

    return delivered


def _fail(span: Span, kind: str, reason: str) -> None:
    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(StatusCode.ERROR, reason)
    span.end()


def _context_of_row(row: OutboxRow) -> tracing.TraceContext | None:
    """The trace context of a row; None where it has none, or what stands there is none."""
    parent, state = row.traceparent, row.tracestate
    if parent is None or len(parent) > TRACEPARENT_BYTES_MAX or not _TRACEPARENT.fullmatch(parent):
        return None
    if state is None or len(state) > TRACESTATE_BYTES_MAX or not state.isascii():
        return tracing.TraceContext(parent.decode())
    return tracing.TraceContext(parent.decode(), state.decode())


def _text(value: bytes | None) -> str:
    return (value or b"")[:TEXT_LENGTH_MAX].decode(errors="replace")


def _bytes(text: str | None) -> bytes | None:
    return text.encode() if text is not None else None
