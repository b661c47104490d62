"""What all approaches have in common: one request, one outcome, one small interface."""

from typing import NamedTuple, Protocol
from uuid import UUID

from contracts.events import Withdrawal, WithdrawalRequested
from producers.plan import CENTS_DECLINED

ACCEPTED = "accepted"
"""It is durable and will be finished, but is not finished yet."""
COMPLETED = "completed"
PUBLISHED = "published"
"""The event is in Kafka; what the payment service does with it is outside this approach."""
REJECTED = "rejected"
"""Nothing was taken."""
COMPENSATED = "compensated"
"""Taken and returned."""


class Outcome(NamedTuple):
    """The outcome of a withdrawal, and the reason if it was not paid."""

    state: str
    reason: str | None = None


class Approach(Protocol):
    """A way to withdraw money, for one client: not thread-safe."""

    def withdraw(self, request: WithdrawalRequested) -> Outcome:
        """Withdraw; repeating a request changes nothing and gives the outcome again.

        Raises:
            TryAgainError: undecided; ask again with the same payment ID.
            PaymentIdReusedError: the payment ID belongs to a withdrawal with other contents.
        """

    def finished(self, payment_id: UUID) -> Outcome | None:
        """The final outcome, of any client's withdrawal; None while there is none."""

    def close(self) -> None:
        """Close the connections."""


class TryAgainError(Exception):
    """It could not be decided, or the decision is unknown; a retry with the same payment ID is safe."""


class PaymentIdReusedError(Exception):
    """This payment ID belongs to a withdrawal of another account or amount."""


class RefusedError(Exception):
    """Inside an approach: a participant refused. The text is the reason."""


def pay(request: Withdrawal) -> None:
    """Ask the payment provider, who declines the same test amounts everywhere: those that end in ``.05``.

    Raises:
        RefusedError: it declines.
    """
    if request.amount_minor % 100 == CENTS_DECLINED:
        raise RefusedError("declined")
