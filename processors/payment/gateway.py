"""The interface to a payment provider: it charges once per payment ID, and can say that it never will.

The payment ID is the provider's idempotency key: charging it again must give the first answer again. Voiding it
is the question *and* the fence: whoever was paid is told so, and what was not taken by then never will be, not
even by a charge that is still on its way. Real providers offer it as "cancel". Only an answer that is final may
make a payment fail, so money never leaves after it was refunded.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from tracing import NO_CONTEXT, TraceContext


class Charge(msgspec.Struct, frozen=True):
    """One payout to make; the amount in minor units.

    Attributes:
        attempt: which one this is, from 1 on.
        context: the trace context that the call continues; the provider is told neither.
    """

    payment_id: UUID
    account_id: str
    amount_minor: int
    currency: str
    context: TraceContext = NO_CONTEXT
    attempt: int = 1


class Paid(msgspec.Struct, frozen=True):
    """The money left. Final."""

    reference: str


class Declined(msgspec.Struct, frozen=True):
    """The provider will not pay. Final."""

    reason: str


class Voided(msgspec.Struct, frozen=True):
    """The payment ID was voided before any money left, and will never be paid. Final."""


class Unavailable(msgspec.Struct, frozen=True):
    """No answer: it may have been paid or not. To be tried again or voided, never taken for a refusal."""

    reason: str
    retry_after_s: float = 0.0


class NotTried(msgspec.Struct, frozen=True):
    """Not even asked, as the provider is given a rest or the time was up. Counts as no attempt."""


Outcome = Paid | Declined | Voided | Unavailable | NotTried


class PaymentGateway(Protocol):
    """A way to a payment provider. Outages are outcomes, not exceptions.

    Attributes:
        round_s_max: seconds that one call of :meth:`charge` or :meth:`void` can take at the most.
    """

    round_s_max: float

    async def open(self) -> None:
        """Connect, as far as that can be done ahead."""

    def capacity(self, at_most: int) -> int:
        """How many charges are worth preparing now, up to ``at_most``; none while the provider is given a rest."""

    async def charge(self, charges: Sequence[Charge], *, probe: bool) -> Mapping[UUID, Outcome]:
        """Pay each charge once; an outcome for every payment ID.

        Args:
            charges: what to pay, at any rate each payment ID only once.
            probe: whether one of them may test a provider that is given a rest, and wait for it.
        """

    async def void(self, charges: Sequence[Charge]) -> Mapping[UUID, Outcome]:
        """Make sure that each is never paid, unless it is already: then its outcome stands."""

    async def close(self) -> None:
        """Let go of connections."""
