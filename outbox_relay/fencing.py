"""A producer that Kafka takes nothing more from once its successor has started, whatever it still has in memory.

Kafka fences the producer of a transaction, so the records are sent in transactions, a few per second, which follow
the load and have nothing to do with those of the database. A record counts as delivered once its transaction is
committed; what a relay leaves uncommitted, Kafka withdraws when the next one starts.

Sources: KIP-98, KIP-360; librdkafka's INTRODUCTION.md, "Transactional Producer".
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import KafkaException, Producer

from contracts.rights import OUTBOX_TRANSACTIONS
from outbox_relay.acknowledgements import DeliveryReport
from outbox_relay.position import Origin

# The producer stands still during a commit, so with a backlog there are few; a source that has caught up commits
# as soon as all records are acknowledged.
COMMIT_ROWS = 20_000
COMMIT_AFTER_S = 0.5
# With ever new records under way there is no such moment.
COMMIT_BUSY_S = 0.02
COMMIT_STEP_S = 0.1
INIT_STEP_S = 1.0
INIT_WAIT_S = 60.0
ABORT_WAIT_S = 3.0
# Of a relay that froze, consumers wait for so long, or until the next one starts.
TRANSACTION_TIMEOUT_MS = 60_000


def transactional_id(origin: Origin) -> str:
    """What the producers of one source have in common, and no others."""
    return f"{OUTBOX_TRANSACTIONS}{origin.name.decode()}"


def fenced(identity: str) -> dict[str, str | int]:
    """Properties of a producer whose predecessors of the same identity are fenced off."""
    return {"transactional.id": identity, "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS}


class FencedProducer:
    """A transactional producer with the methods of any other one.

    Args:
        producer: with a ``transactional.id``.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._open = self._committing = self._ended = False
        self._since = 0.0
        self._rows = 0
        self._delivered: list[tuple[DeliveryReport, Any]] = []
        self._callback: DeliveryReport | None = None
        self._report: DeliveryReport | None = None
        self.list_topics = producer.list_topics

    def start(self, while_blocked: Callable[[], None]) -> None:
        """Fence whoever had this ID before, and have what it left uncommitted withdrawn.

        Raises:
            KafkaException: Kafka does not do that.
        """
        give_up = time.monotonic() + INIT_WAIT_S
        while True:
            try:
                self._producer.init_transactions(INIT_STEP_S)
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > give_up:
                    raise
            while_blocked()

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        on_delivery: DeliveryReport,
        _: None,
        timestamp: int,
        headers: Any,
    ) -> None:
        """As ``Producer.produce``, in the present transaction; full while that is being committed."""
        if self._committing:
            raise BufferError
        if not self._open:
            self._producer.begin_transaction()
            self._open, self._since, self._rows = True, time.monotonic(), 0
        if on_delivery is not self._callback:
            self._callback, self._report = on_delivery, partial(self._hold, on_delivery)
        self._producer.produce(topic, value, key, partition, self._report, None, timestamp, headers)
        self._rows += 1

    def _hold(self, on_delivery: DeliveryReport, error: Any, message: Any) -> None:
        if error is not None or not self._open:
            on_delivery(error, message)
        else:
            self._delivered.append((on_delivery, message))

    def poll(self, timeout_s: float) -> int:
        """As ``Producer.poll``; commits a transaction that is large or old."""
        if self._committing or self._is_due(COMMIT_AFTER_S):
            self._commit(max(timeout_s, COMMIT_STEP_S))
        return self._producer.poll(timeout_s)

    def flush(self, timeout_s: float) -> int:
        """As ``Producer.flush``; then commits, if everything is acknowledged or has waited for long enough."""
        left = 0 if self._committing else self._producer.flush(timeout_s)
        if self._committing or (self._open and not left) or self._is_due(COMMIT_BUSY_S):
            self._commit(COMMIT_STEP_S)
        return len(self)

    def purge(self, *, in_flight: bool) -> None:
        """As ``Producer.purge``; nothing is committed any more."""
        self._ended = True
        self._producer.purge(in_flight=in_flight)

    def __len__(self) -> int:
        return len(self._producer) + (0 if self._ended else len(self._delivered))

    def close(self) -> None:
        """Withdraw what is not committed."""
        self._ended = True
        if self._open:
            with suppress(KafkaException):
                self._producer.abort_transaction(ABORT_WAIT_S)

    def _is_due(self, after_s: float) -> bool:
        return self._open and (self._rows >= COMMIT_ROWS or time.monotonic() - self._since > after_s)

    def _commit(self, timeout_s: float) -> None:
        if self._ended:
            return
        self._committing = True
        try:
            self._producer.commit_transaction(timeout_s)
        except KafkaException as error:
            if error.args[0].retriable():
                return  # the next call goes on with it
            self._ended = True
            raise
        self._committing = self._open = False
        delivered, self._delivered = self._delivered, []
        for on_delivery, message in delivered:
            on_delivery(None, message)
