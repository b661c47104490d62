"""The naive way, which loses money: two writes without a transaction around them, and no check for repeats.

What happens
    Read the balance, compare, write the new balance, COMMIT; then send the event to Kafka; a consumer reads it and
    pays. It works in every demo.

Where it is finished
    Unknown: there is no record of what was sent.

What can go wrong
    * A crash between COMMIT and send: the money is deducted and never paid out (the *dual write*).
    * The caller gets no answer and retries: deducted again, paid again, as no table has the payment ID as a key.
    * Two requests read the same balance: both pass, one deduction overwrites the other (the *lost update*).
    * The payment service dies after paying and before committing its offset: it pays again.

    Here for comparison only: it shows what the effort of the others prevents. Not to be used.
"""

from typing import Any, LiteralString
from uuid import UUID

from confluent_kafka import KafkaException
from psycopg.errors import OperationalError

from broker.clients import plain_producer
from contracts import failpoints
from contracts.events import MoneyDeducted, WithdrawalRequested, encode, follow
from lab.approaches import tables
from lab.approaches.connections import connect
from lab.approaches.outbox import FLUSH_S, PaymentService
from lab.approaches.tables import values
from lab.approaches.withdrawal import ACCEPTED, REJECTED, Outcome, TryAgainError

# No keys: nothing in these tables refuses a second row.
SCHEMA = tables.ACCOUNTS + tables.WITHDRAWALS.replace("PRIMARY KEY", "NOT NULL")
PAYMENT_SCHEMA = tables.PAYMENTS.replace("PRIMARY KEY", "NOT NULL")


class Naive:
    """The client.

    Args:
        dsn: the account service's database.
        bootstrap: Kafka, ``host:port``.
        aggregate: the event goes to the topic ``<aggregate>.events``.
    """

    def __init__(self, dsn: str, bootstrap: str, aggregate: str) -> None:
        self._db = connect(dsn)
        self._topic = f"{aggregate}.events"
        self._producer = plain_producer(bootstrap)

    def withdraw(self, request: WithdrawalRequested) -> Outcome:
        """Deducted and sent when this returns, unless something happened in between."""
        try:
            row = self._db.execute(
                "SELECT balance_minor FROM accounts WHERE account_id = %s", (request.account_id,)
            ).fetchone()
            if row is None or row[0] < request.amount_minor:
                return Outcome(REJECTED, "insufficient_funds" if row else "unknown_account")
            left = row[0] - request.amount_minor  # as it was when we looked
            with self._db.transaction():
                self._db.execute(
                    "UPDATE accounts SET balance_minor = %s WHERE account_id = %s", (left, request.account_id)
                )
                self._db.execute(tables.RECORD, values(request))
        except OperationalError as error:
            raise TryAgainError(str(error)) from None
        failpoints.hit("naive.deducted")

        event = follow(MoneyDeducted, request, request.occurred_at, balance_minor=left)
        refused: list[Any] = []
        self._producer.produce(
            self._topic,
            encode(event),
            key=request.account_id,
            on_delivery=lambda error, _: refused.append(error) if error else None,
        )
        if self._producer.flush(FLUSH_S) or refused:
            raise KafkaException(refused[0] if refused else "no acknowledgement")
        failpoints.hit("naive.sent")
        return Outcome(ACCEPTED)

    def finished(self, payment_id: UUID) -> Outcome | None:  # noqa: ARG002
        """Always None: it is not recorded."""
        return None

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


class NaivePaymentService(PaymentService):
    """A payment service that does not deduplicate."""

    _PAY: LiteralString = """
    INSERT INTO payments (payment_id, account_id, amount_minor, status) VALUES (%s, %s, %s, %s)
    """
