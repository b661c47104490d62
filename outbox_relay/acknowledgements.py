"""Tracking of transactions in flight to Kafka, and of the log position before which all is acknowledged.

Transactions stand in commit order. Acknowledgements arrive in any order across partitions; the position
advances past a transaction only when it and all before it are complete. Its rows' keys then count as handled.
"""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError

from broker.troubles import denied
from contracts import headers
from outbox_relay.errors import BatchRefusedError, PublishError, UnpublishableError
from outbox_relay.handled import Handled
from outbox_relay.position import Origin
from outbox_relay.row import OutboxRow

# Kafka's permanent errors about a record: retrying never helps.
NEVER = frozenset((KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD))
# Results of records purged when a session ends: dropped by the producer, not refused by Kafka.
DROPPED = frozenset((KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT))
KEY_SHOWN_BYTES = 60

DeliveryReport = Callable[[Any, Any], None]
"""What is called with the error, or None, and the message once Kafka has answered for it."""


class Transaction:
    """The rows of one database transaction in flight to Kafka.

    Attributes:
        commit_lsn: where it committed.
        committed_us: when, microseconds since the Unix epoch.
        written_us: when its rows were written, or earlier: none of them was on its topic before.
        position: the header that its records carry.
        end_lsn: what to confirm once it is done; 0 while rows may still come.
        rows, value_bytes: how much it has published.
        acknowledged: how many of them Kafka has.
        is_leftover: its rows are from the table, as the log did not bring them.
        keys: of its rows, those too that need not be published; None for a row without one.
    """

    __slots__ = (
        "_acks",
        "acknowledged",
        "commit_lsn",
        "committed_us",
        "end_lsn",
        "is_leftover",
        "keys",
        "packed",
        "position",
        "rows",
        "value_bytes",
        "written_us",
    )

    def __init__(self, acks: "Acknowledgements", commit_lsn: int, committed_us: int, position: bytes) -> None:
        self._acks = acks
        self.commit_lsn = commit_lsn
        self.committed_us = self.written_us = committed_us
        self.position = (headers.POSITION, position)
        self.end_lsn = 0
        self.is_leftover = False
        self.rows = 0
        self.value_bytes = 0
        self.acknowledged = 0
        self.keys: list[bytes | None] = []
        self.packed: list[bytes] = []

    def skip(self, row: OutboxRow) -> None:
        """A row that was counted need not be published."""
        self.rows -= 1
        self.value_bytes -= len(row.payload or b"")

    def leave(self, row: OutboxRow) -> None:
        """The latest row is neither published nor handled (it is quarantined)."""
        self.skip(row)
        if self.keys:
            self.keys.pop()

    def unpublishable(self, row: OutboxRow, reason: str) -> None:
        """Kafka will never take this row."""
        self._acks.unpublishable(row, self.commit_lsn, reason)

    def delivered(self, error: Any, message: Any) -> None:
        """The delivery report of one of its records, as confluent-kafka calls it."""
        if error is None:
            self.acknowledged += 1
        else:
            self._acks.refused(error, message)


class Waits:
    """A histogram of rows' latencies, from commit to acknowledgement.

    Attributes:
        counts: rows by the first bound that they did not exceed; one more for those over all bounds.
        sum_s: of all waits, seconds.
    """

    BOUNDS_S = tuple(round(step * 10.0**power, 6) for power in range(-3, 2) for step in (1, 2, 3, 5, 7))

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float, rows: int) -> None:
        """Count rows with a latency."""
        self.counts[bisect_left(self.BOUNDS_S, seconds)] += rows
        self.sum_s += seconds * rows


class Acknowledgements:
    """The transactions in flight, in commit order.

    Args:
        origin: where the rows come from, and what is confirmed already.
        waits: receives the latency of rows, from commit to acknowledgement.
        handled: receives the keys of rows that need not be published any more.

    Attributes:
        confirmed_lsn: everything before it is acknowledged.
        begun_lsn: where the newest transaction that has begun committed.
        acknowledged_rows, acknowledged_bytes: since the acks began.
        waits: receives the latency of rows, from commit to acknowledgement.
        refusal: what Kafka did not take, if anything; nothing moves any more then.
    """

    def __init__(self, origin: Origin, waits: Waits | None = None, handled: Handled | None = None) -> None:
        self.confirmed_lsn = self.begun_lsn = origin.confirmed_lsn
        self.acknowledged_rows = 0
        self.acknowledged_bytes = 0
        self._origin = origin
        self._handled = handled
        self.waits = waits or Waits()
        self._open: deque[Transaction] = deque()
        self.refusal: PublishError | None = None

    def begin(self, commit_lsn: int, committed_us: int) -> Transaction:
        """A transaction starts; the one before has been ended."""
        transaction = Transaction(self, commit_lsn, committed_us, self._origin.position(commit_lsn))
        self._open.append(transaction)
        self.begun_lsn = max(self.begun_lsn, commit_lsn)
        return transaction

    def pack(self, transaction: Transaction) -> None:
        """Compact the keys of a transaction that is still running; called now and then."""
        if self._handled is not None:
            transaction.packed.append(self._handled.pack(transaction.keys))
        transaction.keys = []

    def end(self, transaction: Transaction, end_lsn: int) -> None:
        """All its rows are handed over. A transaction without rows only advances the position."""
        if transaction.rows:
            transaction.end_lsn = end_lsn
        else:
            self._open.pop()
            self._note(transaction)
            self.reached(end_lsn)

    def reached(self, lsn: int) -> None:
        """The server has sent everything before ``lsn``: confirmed once everything received is acknowledged."""
        before_it = len(self._open) - 1
        if before_it >= 0 and not self._open[before_it].end_lsn:
            before_it -= 1  # the last one is still being read and ends after `lsn`
        if before_it < 0:
            self.confirmed_lsn = max(self.confirmed_lsn, lsn)
        else:
            self._open[before_it].end_lsn = max(self._open[before_it].end_lsn, lsn)

    def advance(self) -> None:
        """Advance the confirmed position past everything that is complete.

        Raises:
            UnpublishableError, BatchRefusedError: Kafka will never take this record, or one of these.
            PublishError: Kafka refused a record.
        """
        if self.refusal is not None:
            raise self.refusal
        waiting = self._open
        now_us = time.time() * 1e6
        while waiting and waiting[0].end_lsn and waiting[0].acknowledged == waiting[0].rows:
            done = waiting.popleft()
            self.confirmed_lsn = max(self.confirmed_lsn, done.end_lsn)
            self.acknowledged_rows += done.rows
            self.acknowledged_bytes += done.value_bytes
            self.waits.add(max(0.0, (now_us - done.committed_us) / 1e6), done.rows)
            self._note(done)

    def _note(self, done: Transaction) -> None:
        if self._handled is not None and (done.keys or done.packed):
            self._handled.add(done.keys, done.packed)

    def refused(self, error: Any, message: Any) -> None:
        """Kafka did not take this record.

        A permanent refusal takes precedence: errors of other records follow from it.
        """
        if error.code() in DROPPED:
            return
        key = (message.key() or b"")[:KEY_SHOWN_BYTES].decode(errors="replace")
        reason = f"Kafka refused a record of {message.topic()} with key {key!r}: {denied(error) or error.str()}"
        if error.code() in NEVER:
            if not isinstance(self.refusal, UnpublishableError):
                self.refusal = BatchRefusedError(reason)
        elif self.refusal is None:
            self.refusal = PublishError(reason)

    def unpublishable(self, row: OutboxRow, lsn: int, reason: str) -> None:
        """Kafka will never take this row."""
        if not isinstance(self.refusal, UnpublishableError):
            self.refusal = UnpublishableError(row, lsn, reason)

    @property
    def waits_for_kafka(self) -> bool:
        """Whether there are transactions that were handed over as a whole, and are not complete."""
        return any(transaction.end_lsn for transaction in self._open)

    @property
    def has_leftovers(self) -> bool:
        """Whether rows from the table are among those that are not complete."""
        return any(transaction.is_leftover for transaction in self._open)

    @property
    def newest_lsn(self) -> int:
        """Where the newest transaction committed that is not yet complete; 0 without one."""
        try:
            return self._open[-1].commit_lsn
        except IndexError:
            return 0

    def oldest_committed_us(self) -> int | None:
        """When the oldest transaction that is not yet complete committed; None when all are."""
        try:
            return self._open[0].committed_us
        except IndexError:
            return None
