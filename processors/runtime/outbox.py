"""How does an event leave a service? As a row of its outbox, in the transaction that made it true.

A separate process, the relay, reads the rows from the write-ahead log and publishes them.
"""

from collections.abc import Sequence

from psycopg import AsyncConnection

from contracts.events import encode
from processors.runtime.messages import Emitted
from processors.runtime.rows import Rows

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


async def write(connection: AsyncConnection, aggregate: str, emitted: Sequence[Emitted]) -> None:
    """Add events to the outbox; they appear on ``<aggregate>.events``, keyed by account, in this order.

    Args:
        connection: in the transaction that also writes the state.
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
    await _OUTBOX.insert(connection, rows)
