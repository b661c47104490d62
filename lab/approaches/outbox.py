"""The outbox: a service changes its database *and* publishes an event, by writing both in one transaction.

What happens
    BEGIN; deduct; record; insert the event into the ``outbox`` table; COMMIT. Kafka is not involved, so the two
    cannot diverge. Afterwards the rows are published to Kafka, in one of two ways, from the same table:

    * the *polling worker* of the textbooks (:class:`PollingWorker`): each second, read what is not published,
      publish it, wait for Kafka's acknowledgement, mark it;
    * the *relay* (:mod:`outbox_relay`): read the rows from the database's write-ahead log as they are committed.

    The payment service (:class:`PaymentService`) reads the topic and pays.

Where it is finished
    When the event is published and acknowledged: it cannot be lost any more. What the payment service then does
    is another transaction, in another database.

What can go wrong
    A worker that dies after publishing and before marking publishes again: *at least once*. So consumers
    must deduplicate by payment ID, here with a primary key. Polling is late by half its interval on average,
    and the query costs something even if there are no rows. And an outbox only *publishes*: if the payment is
    refused, nothing here refunds the money. That needs a second outbox, from payment to account, and then it is a
    saga.
"""

import json
import threading
from typing import Any, LiteralString
from uuid import UUID

from confluent_kafka import KafkaException, Message, TopicPartition
from psycopg.errors import OperationalError, UniqueViolation
from uuid_utils.compat import uuid7

from broker.clients import group_consumer, idempotent_producer
from contracts import failpoints
from contracts.events import MoneyDeducted, WithdrawalRequested, decode, encode, follow
from lab.approaches import tables
from lab.approaches.connections import connect
from lab.approaches.tables import values
from lab.approaches.withdrawal import ACCEPTED, PUBLISHED, REJECTED, Outcome, RefusedError, TryAgainError, pay
from processors.runtime.schema import OUTBOX_V1

SCHEMA = (
    tables.ACCOUNTS
    + tables.WITHDRAWALS
    + OUTBOX_V1
    + """;
ALTER TABLE outbox ADD COLUMN published_at timestamptz;
CREATE INDEX outbox_unpublished ON outbox (id) WHERE published_at IS NULL;
"""
)
WAL_SCHEMA = tables.ACCOUNTS + tables.WITHDRAWALS + OUTBOX_V1
PAYMENT_SCHEMA = tables.PAYMENTS

POLL_EVERY_S = 1.0
ROWS_MAX = 1_000
"""Rows that the worker publishes, or messages that the payment service handles, in one transaction."""
CONSUME_S = 0.05
FLUSH_S = 10.0


class Outbox:
    """The account service's side: the client.

    Args:
        dsn: the account service's database.
        aggregate: the event goes to the topic ``<aggregate>.events``.
    """

    def __init__(self, dsn: str, aggregate: str) -> None:
        self._db = connect(dsn)
        self._aggregate = aggregate

    def withdraw(self, request: WithdrawalRequested) -> Outcome:
        """Accepted when this returns: deducted, and certain to be published. Or rejected."""
        try:
            return self._withdraw(request)
        except RefusedError as refused:
            return tables.reject(self._db, request, str(refused))
        except UniqueViolation:
            raise TryAgainError("this payment ID is being decided at this moment") from None
        except OperationalError as error:
            raise TryAgainError(str(error)) from None

    def _withdraw(self, request: WithdrawalRequested) -> Outcome:
        with self._db.transaction():
            row = self._db.execute(tables.LOCK_ACCOUNT, (request.account_id,)).fetchone()
            if before := tables.find(self._db, request):
                return before if before.state == REJECTED else Outcome(ACCEPTED)
            if row is None:
                raise RefusedError("unknown_account")
            if row[0] < request.amount_minor:
                raise RefusedError("insufficient_funds")
            self._db.execute(tables.DEDUCT, (request.amount_minor, request.account_id))
            self._db.execute(tables.RECORD, values(request))
            failpoints.hit("outbox.deducted")

            left = row[0] - request.amount_minor
            event = follow(MoneyDeducted, request, request.occurred_at, balance_minor=left)
            body = encode(event).decode()
            self._db.execute(_INSERT, (uuid7(), self._aggregate, request.account_id, "MoneyDeducted", body))
            failpoints.hit("outbox.written")
        # Both or neither, in one transaction; Kafka is not involved yet.
        failpoints.hit("outbox.committed")
        return Outcome(ACCEPTED)

    def finished(self, payment_id: UUID) -> Outcome | None:
        """Marked as published; or rejected."""
        if self._db.execute(_PUBLISHED, (str(payment_id),)).fetchone():
            return Outcome(PUBLISHED)
        return self._rejected(payment_id)

    def _rejected(self, payment_id: UUID) -> Outcome | None:
        row = self._db.execute(_REJECTED, (payment_id,)).fetchone()
        return Outcome(*row) if row else None

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


class OutboxByRelay(Outbox):
    """The same, published by the relay. It marks nothing; a payment shows that its event was published.

    Args:
        dsn: the account service's database.
        payment_dsn: the payment service's database.
        aggregate: the event goes to the topic ``<aggregate>.events``.
    """

    def __init__(self, dsn: str, payment_dsn: str, aggregate: str) -> None:
        super().__init__(dsn, aggregate)
        self._payment = connect(payment_dsn)

    def finished(self, payment_id: UUID) -> Outcome | None:
        """Received by the payment service; or rejected."""
        if self._payment.execute("SELECT 1 FROM payments WHERE payment_id = %s", (payment_id,)).fetchone():
            return Outcome(PUBLISHED)
        return self._rejected(payment_id)

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._payment.close()


class PollingWorker:
    """The polling publisher: from the table to Kafka, once a second.

    Args:
        dsn: the account service's database.
        bootstrap: Kafka, ``host:port``.
        poll_every_s: pause after each poll of the table, seconds.
    """

    def __init__(self, dsn: str, bootstrap: str, poll_every_s: float = POLL_EVERY_S) -> None:
        self._dsn = dsn
        self._db = connect(dsn)
        self._poll_every_s = poll_every_s
        self._producer = idempotent_producer(bootstrap)

    def run(self, stop: threading.Event) -> None:
        """Publish until stopped, also while the database or Kafka is away."""
        while not stop.is_set():
            try:
                if self._db.closed:
                    self._db = connect(self._dsn)
                full = self.publish_once() == ROWS_MAX
            except (OperationalError, KafkaException):
                full = False
            if not full:
                stop.wait(self._poll_every_s)

    def publish_once(self) -> int:
        """Publish what is not published; returns how many rows.

        Raises:
            KafkaException: Kafka did not acknowledge all of it; nothing is marked, all of it is published again.
        """
        with self._db.transaction():
            # Row by row by its mark, not "after the last number seen": a lower number may be committed later.
            rows = self._db.execute(_UNPUBLISHED, (ROWS_MAX,)).fetchall()
            refused: list[Any] = []
            for row_id, aggregate, key, kind, payload in rows:
                self._producer.produce(
                    f"{aggregate}.events",
                    json.dumps(payload),
                    key=key,
                    headers={"id": str(row_id), "eventType": kind},
                    on_delivery=lambda error, _: refused.append(error) if error else None,
                )
            if self._producer.flush(FLUSH_S) or refused:
                raise KafkaException(refused[0] if refused else "no acknowledgement")
            if rows:
                failpoints.hit("outbox.published")
            self._db.execute(_MARK, ([row[0] for row in rows],))
        return len(rows)


class PaymentService:
    """The consumer that pays. It receives some deductions twice, and pays once.

    Args:
        dsn: its database.
        bootstrap: Kafka, ``host:port``.
        aggregate: it reads ``<aggregate>.events``.
    """

    _PAY: LiteralString = """
    INSERT INTO payments (payment_id, account_id, amount_minor, status) VALUES (%s, %s, %s, %s)
    ON CONFLICT DO NOTHING
    """

    def __init__(self, dsn: str, bootstrap: str, aggregate: str) -> None:
        self._dsn = dsn
        self._db = connect(dsn)
        self._consumer = group_consumer(
            bootstrap, aggregate, {"enable.auto.commit": False, "fetch.wait.max.ms": 20}
        )
        topic = f"{aggregate}.events"
        partitions = self._consumer.list_topics(topic, FLUSH_S).topics[topic].partitions
        # One instance, so no group to join: it has every partition at once, from where the last one stopped.
        self._places = [TopicPartition(topic, partition) for partition in partitions]
        self._start_over()

    def run(self, stop: threading.Event) -> None:
        """Pay until stopped, also while the database or Kafka is away."""
        has_failed = False
        while not stop.is_set():
            try:
                if has_failed:
                    self._start_over()
                    has_failed = False
                # Wait for one, then take what has arrived: waiting for a full batch would delay the first one.
                found = self._consumer.consume(1, CONSUME_S)
                found += self._consumer.consume(ROWS_MAX - 1, 0) if found else []
                messages = [message for message in found if message.error() is None]
                if messages:
                    self.handle(messages)
            except (OperationalError, KafkaException):
                has_failed = True
                stop.wait(CONSUME_S)
        self._consumer.close()

    def handle(self, messages: list[Message]) -> None:
        """One transaction for all, and only then the offsets."""
        if self._db.closed:
            self._db = connect(self._dsn)
        with self._db.transaction():
            for message in messages:
                event = decode("MoneyDeducted", message.value() or b"")
                try:
                    pay(event)
                    status = "paid"
                except RefusedError:
                    status = "declined"
                self._db.execute(self._PAY, (*values(event), status))
        failpoints.hit("outbox.paid")
        self._consumer.commit(asynchronous=False)

    def _start_over(self) -> None:
        """Read again from the committed offsets."""
        committed = self._consumer.committed(self._places, FLUSH_S)
        self._consumer.assign([TopicPartition(p.topic, p.partition, max(p.offset, 0)) for p in committed])


_INSERT: LiteralString = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES (%s, %s, %s, %s, %s)
"""
_PUBLISHED: LiteralString = "SELECT 1 FROM outbox WHERE payload->>'payment_id' = %s AND published_at IS NOT NULL"
_REJECTED: LiteralString = "SELECT status, reason FROM withdrawals WHERE payment_id = %s AND status = 'rejected'"
_UNPUBLISHED: LiteralString = """
SELECT id, aggregatetype, aggregateid, type, payload FROM outbox
WHERE published_at IS NULL ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
"""
_MARK: LiteralString = "UPDATE outbox SET published_at = clock_timestamp() WHERE id = ANY(%s)"
