"""Outbox rows: one per event, inserted in the transaction that the event reports.

A separate process, the relay, reads the rows from the write-ahead log and publishes them.
"""

from collections.abc import Sequence

from contracts.events import encode
from processors.runtime.messages import Emitted
from processors.runtime.rows import Rows, Write

_OUTBOX = Rows(
    "outbox",
    id="uuid",
    aggregatetype="text",
    aggregateid="text",
    type="text",
    payload="json",
    traceparent="text",
    tracestate="text",
)


def insert(aggregate: str, emitted: Sequence[Emitted]) -> Write:
    """Events for the outbox; they appear on ``<aggregate>.events``, keyed by account, in this order.

    Args:
        aggregate: ``account``, ``payment``, ``notification`` or ``withdrawal``.
        emitted: the events and the trace context of each.
    """
    by_payment = aggregate == "withdrawal"
    rows = [
        (
            e.id,
            aggregate,
            str(e.event.payment_id) if by_payment else e.event.account_id,
            type(e.event).__name__,
            encode(e.event).decode(),
            e.context.traceparent,
            e.context.tracestate,
        )
        for e in emitted
    ]
    return _OUTBOX.insert(rows)
