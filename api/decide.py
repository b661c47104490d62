"""What the answer to a request for a withdrawal is, by what is stored: no SQL, no HTTP."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from api.store import Asked, Stored
from contracts.events import same_withdrawal


class Accepted(msgspec.Struct, frozen=True):
    """It is stored, now or by an earlier request with the same key or payment ID."""

    stored: Stored
    replayed: bool


class KeyReused(msgspec.Struct, frozen=True):
    """The caller has used the key for a request with other contents."""


class PaymentTaken(msgspec.Struct, frozen=True):
    """The payment ID is that of another caller's withdrawal, or of one with other contents."""


class StillRunning(msgspec.Struct, frozen=True):
    """Another request with the key or payment ID is under way, and may yet fail."""


Outcome = Accepted | KeyReused | PaymentTaken | StillRunning


def first(asked: Asked) -> Stored:
    """The row that a request becomes whose key and payment ID are new."""
    request = asked.request
    return Stored(
        payment_id=request.payment_id,
        caller=asked.caller,
        idempotency_key=asked.key,
        names_payment=asked.names_payment,
        account_id=request.account_id,
        amount_minor=request.amount_minor,
        currency=request.currency,
        requested_at=request.occurred_at,
        traceparent=asked.context.traceparent or "",
    )


def decide(batch: Sequence[Asked], new: set[UUID], known: Sequence[Stored]) -> list[Outcome]:
    """The outcome of each request of a batch.

    Args:
        batch: with distinct keys and distinct payment IDs.
        new: the payment IDs of those that were stored now.
        known: the stored withdrawals with the key or the payment ID of one of the others.
    """
    by_key = {(stored.caller, stored.idempotency_key): stored for stored in known}
    by_payment = {stored.payment_id: stored for stored in known}
    return [
        Accepted(first(asked), replayed=False)
        if asked.request.payment_id in new
        else _of_known(asked, by_key.get((asked.caller, asked.key)), by_payment.get(asked.request.payment_id))
        for asked in batch
    ]


def _of_known(asked: Asked, of_key: Stored | None, of_payment: Stored | None) -> Outcome:
    if of_key is not None:
        if not _is_repeat(asked, of_key):
            return KeyReused()
        # Its own row, if the answer to an earlier attempt to commit was lost.
        return Accepted(of_key, replayed=of_key.traceparent != asked.context.traceparent)
    if of_payment is None:
        return StillRunning()
    if of_payment.caller != asked.caller or not same_withdrawal(asked.request, of_payment):
        return PaymentTaken()
    return Accepted(of_payment, replayed=True)


def _is_repeat(asked: Asked, stored: Stored) -> bool:
    if asked.names_payment != stored.names_payment:
        return False
    request = asked.request
    if not asked.names_payment:  # the ID is ours, a new one for each request
        request = msgspec.structs.replace(request, payment_id=stored.payment_id)
    return same_withdrawal(request, stored)
