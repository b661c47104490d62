"""Up to where has Kafka acknowledged everything?

Transactions stand in commit order. Acknowledgements arrive in any order across partitions; the position
moves over a transaction only when it and all before it are complete.
"""

from collections import deque
from typing import Any

from outbox_relay.errors import PublishError


class Transaction:
    """The rows of one database transaction on their way to Kafka.

    Attributes:
        commit_lsn: where it committed.
        committed_us: when, microseconds since the Unix epoch.
        end_lsn: what to confirm once it is done; 0 while rows may still come.
        rows, value_bytes: how much it has published.
        unacknowledged: how many of its rows Kafka has not answered for.
    """

    __slots__ = (
        "_ledger",
        "commit_lsn",
        "committed_us",
        "end_lsn",
        "rows",
        "unacknowledged",
        "value_bytes",
    )

    def __init__(self, ledger: "Ledger", commit_lsn: int, committed_us: int) -> None:
        self._ledger = ledger
        self.commit_lsn = commit_lsn
        self.committed_us = committed_us
        self.end_lsn = 0
        self.rows = 0
        self.value_bytes = 0
        self.unacknowledged = 0

    def delivered(self, error: Any, message: Any) -> None:
        """The delivery report of one of its records, as confluent-kafka calls it."""
        if error is None:
            self.unacknowledged -= 1
        else:
            self._ledger.refused(error, message)


class Ledger:
    """What is on its way, in commit order.

    Args:
        confirmed_lsn: where the slot stands.
    """

    def __init__(self, confirmed_lsn: int) -> None:
        self.confirmed_lsn = confirmed_lsn
        self.acknowledged_rows = 0
        self.acknowledged_bytes = 0
        self._open: deque[Transaction] = deque()
        self._failure: str | None = None

    def begin(self, commit_lsn: int, committed_us: int) -> Transaction:
        """A transaction starts; the one before has been ended."""
        transaction = Transaction(self, commit_lsn, committed_us)
        self._open.append(transaction)
        return transaction

    def end(self, transaction: Transaction, end_lsn: int) -> None:
        """Its rows are all handed over. One without rows leaves only its position."""
        if transaction.rows:
            transaction.end_lsn = end_lsn
        else:
            self._open.pop()
            self.reached(end_lsn)

    def reached(self, lsn: int) -> None:
        """The server has sent everything before ``lsn``: it counts once what was received is acknowledged."""
        before_it = len(self._open) - 1
        if before_it >= 0 and not self._open[before_it].end_lsn:
            before_it -= 1  # the last one is still being read and ends after `lsn`
        if before_it < 0:
            self.confirmed_lsn = max(self.confirmed_lsn, lsn)
        else:
            self._open[before_it].end_lsn = max(self._open[before_it].end_lsn, lsn)

    def advance(self) -> None:
        """Move the confirmed position over everything that is complete.

        Raises:
            PublishError: Kafka refused a record for good.
        """
        if self._failure is not None:
            raise PublishError(self._failure)
        waiting = self._open
        while waiting and waiting[0].end_lsn and not waiting[0].unacknowledged:
            done = waiting.popleft()
            self.confirmed_lsn = max(self.confirmed_lsn, done.end_lsn)
            self.acknowledged_rows += done.rows
            self.acknowledged_bytes += done.value_bytes

    def refused(self, error: Any, message: Any) -> None:
        """Kafka will never take this record; the first one counts, the others follow from it."""
        if self._failure is None:
            key = (message.key() or b"").decode(errors="replace")
            self._failure = f"Kafka refused a record of {message.topic()} with key {key!r}: {error.str()}"

    def oldest_committed_us(self) -> int | None:
        """When the oldest transaction that is not yet complete committed; None when all are."""
        try:
            return self._open[0].committed_us
        except IndexError:
            return None


def format_lsn(lsn: int) -> str:
    """A log position as PostgreSQL writes it, ``0/16B3748``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """A log position from PostgreSQL's way of writing it."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
