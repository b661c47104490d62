"""The spans that begin a withdrawal's trace: its root, ``withdraw-money``, and the sending of its request."""

from collections.abc import Mapping

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

import tracing
from contracts import events
from contracts.topics import WITHDRAWAL_REQUESTS
from tracing import attributes as names

ROOT = "withdraw-money"
"""The root span of a withdrawal's trace."""

SEND = f"send {WITHDRAWAL_REQUESTS.name}"

ACCOUNT_ID = "settle.account_id"
AMOUNT_MINOR = "settle.amount_minor"
CURRENCY = "settle.currency"


def start_root(request: events.WithdrawalRequested, parent: tracing.TraceContext = tracing.NO_CONTEXT) -> Span:
    """Start the root span of a withdrawal; the caller ends it.

    Args:
        request: what is asked for.
        parent: the span outside of Settle that led to it, if there is one.
    """
    return tracing.start_span(
        ROOT,
        SpanKind.INTERNAL,
        parent=parent,
        attributes={
            names.PAYMENT_ID: str(request.payment_id),
            ACCOUNT_ID: request.account_id,
            AMOUNT_MINOR: request.amount_minor,
            CURRENCY: request.currency,
        },
    )


class RequestSpans:
    """The two spans of a sampled request, from its sending to its delivery report.

    Args:
        request: what is sent.
        message_id: in its header.
        client: attributes of the span: who sends it where.
    """

    def __init__(
        self, request: events.WithdrawalRequested, message_id: str, client: Mapping[str, AttributeValue]
    ) -> None:
        self._root = start_root(request)
        self._send: Span = tracing.start_span(
            SEND,
            SpanKind.PRODUCER,
            parent=tracing.context_of(self._root),
            attributes={
                **client,
                names.MESSAGING_SYSTEM: "kafka",
                names.MESSAGING_OPERATION_TYPE: "send",
                names.MESSAGING_OPERATION_NAME: "send",
                names.MESSAGING_DESTINATION_NAME: WITHDRAWAL_REQUESTS.name,
                names.MESSAGING_MESSAGE_ID: message_id,
                names.MESSAGING_KAFKA_MESSAGE_KEY: request.account_id,
                names.PAYMENT_ID: str(request.payment_id),
                names.EVENT_TYPE: type(request).__name__,
            },
        )
        self.context = tracing.context_of(self._send)
        """The context in the message's headers: the consumer's span is a child of the send span."""

    def delivered(self, partition: int, offset: int) -> None:
        """End the spans: Kafka has acknowledged the request."""
        self._send.set_attributes(
            {names.MESSAGING_DESTINATION_PARTITION_ID: str(partition), names.MESSAGING_KAFKA_OFFSET: offset}
        )
        self._end()

    def failed(self, error_type: str, reason: str) -> None:
        """End the spans with error status: Kafka did not confirm the request."""
        self._send.set_attribute(names.ERROR_TYPE, error_type)
        for span in (self._send, self._root):
            span.set_status(Status(StatusCode.ERROR, reason))
        self._end()

    def _end(self) -> None:
        self._send.end()
        self._root.end()
