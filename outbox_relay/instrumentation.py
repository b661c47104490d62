"""How does a publication become a span of the withdrawal's trace? By wrapping the stage that publishes.

Only rows of sampled traces get a span (PRODUCER, from handing over to acknowledgement) and leave with its
context; all others pass untouched, without the SDK hearing of them.

Source: OpenTelemetry semantic conventions for Kafka.
"""

import time
from typing import Any

from opentelemetry.trace import Span, SpanKind, StatusCode

import tracing
from outbox_relay.ledger import Transaction
from outbox_relay.pgoutput import OutboxRow
from outbox_relay.position import format_lsn
from outbox_relay.publisher import DeliveryReport, Publish
from tracing import attributes as names

OUTBOX_LSN = "settle.outbox.lsn"
OUTBOX_WAIT_MS = "settle.outbox.wait_ms"


def traced(publish: Publish) -> Publish:
    """The same stage, with a span around each sampled row; the stage itself where nothing is exported."""
    if not tracing.enabled():
        return publish

    def publish_traced(row: OutboxRow, transaction: Transaction, on_delivery: DeliveryReport, /) -> None:
        if not tracing.is_sampled_parent(row.traceparent):
            publish(row, transaction, on_delivery)
            return
        context = _context_of_row(row)
        span = _start(row, context, transaction)
        sent = tracing.context_of(span)
        row = row._replace(traceparent=_bytes(sent.traceparent), tracestate=_bytes(sent.tracestate))
        publish(row, transaction, _ending(span, on_delivery))

    return publish_traced


def _start(row: OutboxRow, context: tracing.TraceContext, transaction: Transaction) -> Span:
    topic = f"{row.aggregate_type.decode()}.events"
    return tracing.start_span(
        f"send {topic}",
        SpanKind.PRODUCER,
        parent=context,
        attributes={
            names.MESSAGING_SYSTEM: "kafka",
            names.MESSAGING_OPERATION_TYPE: "send",
            names.MESSAGING_OPERATION_NAME: "send",
            names.MESSAGING_DESTINATION_NAME: topic,
            names.MESSAGING_MESSAGE_ID: row.id.decode(),
            names.MESSAGING_KAFKA_MESSAGE_KEY: row.aggregate_id.decode(),
            names.EVENT_TYPE: row.event_type.decode(),
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
        else:
            span.set_attribute(names.ERROR_TYPE, error.name())
            span.set_status(StatusCode.ERROR, error.str())
        span.end()
        on_delivery(error, message)

    return delivered


def _context_of_row(row: OutboxRow) -> tracing.TraceContext:
    return tracing.TraceContext(
        row.traceparent.decode() if row.traceparent is not None else None,
        row.tracestate.decode() if row.tracestate is not None else None,
    )


def _bytes(text: str | None) -> bytes | None:
    return text.encode() if text is not None else None
