"""The saga: each service commits its own step, publishes an event for the next, and can compensate.

This is Settle itself, unchanged: producer, topics, services, relay. The module only calls it.

What happens
    The request goes to Kafka (:mod:`producers.client`). Account deducts and writes its event to its outbox, in one
    local transaction (:mod:`processors.account.decide`). The relay publishes the event (:mod:`outbox_relay`).
    Payment pays and emits (:mod:`processors.payment.decide`); notification notifies the customer. If the payment
    is refused, account receives ``PaymentFailed`` and refunds: the *compensation*.

Where it is finished
    When the saga service has received every event and stores ``WithdrawalCompleted`` or ``WithdrawalCompensated``
    (:mod:`processors.saga.decide`). Until then the event store says which step is next.

What can go wrong
    Any process and any database may be away: the work waits in Kafka and continues later, without locks held
    meanwhile. A message may be redelivered: every step has the payment ID as its key. The price is that the steps
    are visible one by one: for some milliseconds (or as long as the payment service is away) the money is
    deducted and not yet paid, and before a refund it really was deducted. And it has more parts to run than any
    other way.
"""

from uuid import UUID

from contracts.events import WithdrawalRequested
from contracts.postgres import session
from lab.approaches.withdrawal import ACCEPTED, Outcome, TryAgainError
from processors.saga.status import status_of
from producers.client import WithdrawalClient
from producers.errors import NotDeliveredError


class Saga:
    """The pipeline, called through its producer client.

    Args:
        bootstrap: Kafka, ``host:port``.
        saga_dsn: database of the saga service.
    """

    def __init__(self, bootstrap: str, saga_dsn: str) -> None:
        self._client = WithdrawalClient(bootstrap)
        self._saga = session(saga_dsn, autocommit=True)

    def withdraw(self, request: WithdrawalRequested) -> Outcome:
        """Accepted when this returns: Kafka has the request, and it will be finished, one way or the other."""
        try:
            self._client.request(
                request.account_id,
                amount_minor=request.amount_minor,
                currency=request.currency,
                payment_id=request.payment_id,
            )
        except NotDeliveredError as error:
            raise TryAgainError(str(error)) from None
        return Outcome(ACCEPTED)

    def finished(self, payment_id: UUID) -> Outcome | None:
        """The closing event in the event store."""
        status = status_of(self._saga, payment_id)
        return Outcome(status.state, status.reason) if status and status.finished else None

    def close(self) -> None:
        """Close the connection; the client has nothing under way."""
        self._saga.close()
