"""What all approaches have in common: one request, one outcome, one small interface."""

from typing import NamedTuple, Protocol
from uuid import UUID

from contracts.events import Withdrawal, WithdrawalRequested
from producers.plan import CENTS_DECLINED

ACCEPTED = "accepted"
"""It is safe and will be done, but is not done yet."""
COMPLETED = "completed"
PUBLISHED = "published"
"""The event is in Kafka; what the payment service makes of it is not this approach's business."""
REJECTED = "rejected"
"""Nothing was taken."""
COMPENSATED = "compensated"
"""Taken and returned."""


class Outcome(NamedTuple):
    """What became of a withdrawal, and why if it was not paid."""

    state: str
    reason: str | None = None


class Approach(Protocol):
    """A way to withdraw money, in the hand of one client: not shared by threads."""

    def withdraw(self, request: WithdrawalRequested) -> Outcome:
        """Withdraw; repeating a request changes nothing and gives the outcome again.

        Raises:
            TryAgainError: undecided; ask again with the same payment ID.
            PaymentIdReusedError: the payment ID belongs to a withdrawal with other contents.
        """

    def finished(self, payment_id: UUID) -> Outcome | None:
        """The final outcome, whoever asks; None while there is none."""

    def close(self) -> None:
        """Let go of connections."""


class TryAgainError(Exception):
    """It could not be decided, or it is not known what was; asking again with the same payment ID is safe."""


class PaymentIdReusedError(Exception):
    """This payment ID belongs to a withdrawal of another account or amount."""


class RefusedError(Exception):
    """Inside an approach: someone whose yes is needed said no. The text is the reason."""


def pay(request: Withdrawal) -> None:
    """Ask the payment provider, who declines the same test amounts everywhere: those that end in ``.05``.

    Raises:
        RefusedError: it will not pay.
    """
    if request.amount_minor % 100 == CENTS_DECLINED:
        raise RefusedError("declined")
