"""Spans and metrics of calls to the payment provider: a gateway that wraps the one that calls."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import UUID

import msgspec
from opentelemetry.trace import SpanKind

from processors.payment.decide import NOT_TRIED
from processors.payment.gateway import (
    Charge,
    Declined,
    NotTried,
    Outcome,
    Paid,
    PaymentGateway,
    Unavailable,
    Voided,
)
from processors.runtime import metrics
from processors.runtime.hops import Hops, context_in, fail, retry, spans
from tracing import attributes as names

CHARGE, VOID = "charge", "void"

OUTCOME = "settle.provider.outcome"
_OUTCOMES: dict[type[Outcome], str] = {
    Paid: "paid",
    Declined: "declined",
    Voided: "voided",
    Unavailable: "unavailable",
    NotTried: names.NOT_TRIED,
}


class InstrumentedGateway:
    """A gateway that adds a span to the trace of each charge, as parent of the wrapped gateway's calls."""

    def __init__(self, gateway: PaymentGateway) -> None:
        self._gateway = gateway
        self.round_s_max = gateway.round_s_max

    async def open(self) -> None:
        """Connect."""
        await self._gateway.open()

    def capacity(self, at_most: int) -> int:
        """How many charges are worth preparing now."""
        return self._gateway.capacity(at_most)

    async def close(self) -> None:
        """Close the connections."""
        await self._gateway.close()

    async def charge(self, charges: Sequence[Charge], *, probe: bool) -> Mapping[UUID, Outcome]:
        """Pay each charge once."""
        with _asking(CHARGE, charges) as hops:
            outcomes = await self._gateway.charge(_continued(charges, hops), probe=probe)
            _note(CHARGE, charges, hops, outcomes)
        return outcomes

    async def void(self, charges: Sequence[Charge]) -> Mapping[UUID, Outcome]:
        """Ensure that each is never paid."""
        with _asking(VOID, charges) as hops:
            outcomes = await self._gateway.void(_continued(charges, hops))
            _note(VOID, charges, hops, outcomes)
        return outcomes


@contextmanager
def _asking(operation: str, charges: Sequence[Charge]) -> Iterator[Hops]:
    about = {names.MESSAGES: len(charges)}
    with spans([one.context for one in charges], f"{operation} provider", SpanKind.CLIENT, about) as hops:
        yield hops


def _continued(charges: Sequence[Charge], hops: Hops) -> Sequence[Charge]:
    """The charges, each with its span as parent context."""
    if not hops:
        return charges
    return [
        msgspec.structs.replace(charge, context=context_in(hops, place, charge.context))
        for place, charge in enumerate(charges)
    ]


def _note(operation: str, charges: Sequence[Charge], hops: Hops, outcomes: Mapping[UUID, Outcome]) -> None:
    """Count calls without an answer, and record the outcome on each span."""
    metrics.RETRIES.labels(operation).inc(sum(isinstance(outcome, Unavailable) for outcome in outcomes.values()))
    for place, span in hops.items():
        charge = charges[place]
        outcome = outcomes[charge.payment_id]
        span.set_attribute(OUTCOME, _OUTCOMES[type(outcome)])
        if isinstance(outcome, NotTried):
            span.add_event(names.NOT_TRIED, {names.REASON: NOT_TRIED})
            continue
        if operation == CHARGE:
            span.set_attribute(names.ATTEMPT, charge.attempt)
        if isinstance(outcome, Declined):
            fail(span, "declined", f"the provider declined: {outcome.reason}")
        elif isinstance(outcome, Unavailable):
            kind = outcome.reason.partition(":")[0]
            fail(span, kind, f"no answer: {outcome.reason}; it is asked again, or voided")
            retry(span, kind, outcome.reason)
