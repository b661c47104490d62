"""The interface to a payment provider: charges and voids, idempotent by payment ID.

The payment ID is the provider's idempotency key: charging it again must give the first answer again. A void is
query *and* fence: a payment that was made is answered as paid, and one that was not never will be, not even by a
charge still in flight. Real providers offer it as "cancel". Only a final answer may make a payment fail, so money
never leaves after it was refunded.
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
        context: the trace context that the call continues; neither is sent to the provider.
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
    """No answer: it may have been paid or not. To be retried or voided, never treated as a refusal.

    Attributes:
        reason: why, for people.
        retry_after_s: when the provider wants to be asked again, seconds.
        counts: as an attempt. Not where the provider takes no more calls just now: it did nothing then, and after
            an outage that would use up the attempts of payments which lack nothing but their turn.
    """

    reason: str
    retry_after_s: float = 0.0
    counts: bool = True


class NotTried(msgspec.Struct, frozen=True):
    """Not called, as the circuit is open or the time was up. Does not count as an attempt."""


Outcome = Paid | Declined | Voided | Unavailable | NotTried


class PaymentGateway(Protocol):
    """A client of a payment provider. Outages are outcomes, not exceptions.

    Attributes:
        round_s_max: the longest that one call of :meth:`charge` or :meth:`void` can take, seconds.
    """

    round_s_max: float

    async def open(self) -> None:
        """Connect, as far as possible in advance."""

    def capacity(self, at_most: int) -> int:
        """How many charges are worth preparing now, up to ``at_most``; none while the circuit is open."""

    async def charge(self, charges: Sequence[Charge], *, probe: bool) -> Mapping[UUID, Outcome]:
        """Pay each charge once; an outcome for every payment ID.

        Args:
            charges: what to pay, each payment ID only once.
            probe: whether one of them may probe the provider when the circuit is open, and wait for it.
        """

    async def void(self, charges: Sequence[Charge]) -> Mapping[UUID, Outcome]:
        """Ensure that each is never paid, unless it has been already: then that outcome is returned."""

    async def close(self) -> None:
        """Close the connections."""
