"""The row types that every reader of an outbox emits."""

from dataclasses import dataclass
from typing import NamedTuple


class OutboxRow(NamedTuple):
    """One row of the outbox, each column as UTF-8 text or as the bytes that it holds.

    The columns are those of :data:`outbox_relay.outbox.ROLES`, and then the outbox's additional ones. Whatever is
    NULL in the table, or has no column there, is None. Not every row can become a record: others say which.
    """

    id: bytes | None
    aggregate_type: bytes | None
    aggregate_id: bytes | None
    event_type: bytes | None
    payload: bytes | None
    traceparent: bytes | None = None
    tracestate: bytes | None = None
    additional: tuple[bytes | None, ...] = ()


@dataclass(frozen=True)
class Leftover:
    """A row that did not come with the stream and is on no topic.

    Attributes:
        row: what to publish.
        created_us: when it was written, or a little earlier, microseconds since the Unix epoch; 0: not known.
    """

    row: OutboxRow
    created_us: int
