"""Cancelling a withdrawal over HTTP: the request for it is stored, and the payment service decides."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar import post
from uuid_utils.compat import uuid7

from api import access, store
from api.access import Caller
from api.bodies import StrictRequest
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.journal import Reason, written_down
from api.problems import OF_A_BODY, Problem, problems
from api.statuses import PAYMENT_ID_TAKEN, is_anothers, is_taken, unknown, visible
from api.withdrawals import PATH
from contracts.events import CancelRequested, follow
from operations.accepted import ACCEPTED
from operations.errors import FinishedError
from processors.saga.decide import INCOMPLETE, REJECTED
from processors.saga.status import status_of
from tracing import new_unsampled


class Cancellation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a withdrawal is cancelled; who cancels another's has to say it."""

    reason: Reason | None = None


class Cancelled(msgspec.Struct, frozen=True):
    """A cancellation that the payment service will decide on; the withdrawal's events tell what it decided."""

    payment_id: UUID
    state: str


@post(
    f"{PATH}/{{payment_id:uuid}}/cancel",
    status_code=202,
    summary="Ask for a cancellation",
    operation_id="cancelWithdrawal",
    tags=["withdrawals"],
    opt={PERMISSION: access.CANCEL},
    responses=problems(*OF_A_BODY, "not-found", "finished"),
)
async def cancel_withdrawal(
    request: StrictRequest, payment_id: UUID, data: Cancellation | None = None
) -> Cancelled:
    """Ask the payment service not to pay. Repeating it is harmless, so it needs no idempotency key.

    A client cancels its own without a reason; who cancels another's says why, for the log of what operators do.
    """
    front: Front = request.app.state.front
    caller = caller_of(request)
    if caller.sees_only_its_own:
        return await _cancel(front, caller, payment_id)
    if data is None or data.reason is None:
        raise Problem("invalid", 'say why, for the log of what operators do: {"reason": "…"}')
    async with written_down(request, "cancel", payment_id, data.reason) as action:
        action.result = result = await _cancel(front, caller, payment_id)
    return result


async def _cancel(front: Front, caller: Caller, payment_id: UUID) -> Cancelled:
    stored = await visible(front, caller, payment_id)
    status = await front.readers.run("saga", status_of, payment_id)
    if status is not None and is_anothers(caller, stored, status):
        if is_taken(caller, stored, status):
            raise Problem("finished", f"withdrawal {payment_id} is finished: {REJECTED} ({PAYMENT_ID_TAKEN})")
        status = None
    withdrawal = status if status is not None and status.state != INCOMPLETE else stored
    if withdrawal is None:
        raise unknown(payment_id)
    if status is not None and status.finished:
        raise Problem("finished", str(FinishedError(status)))
    wish = follow(CancelRequested, withdrawal, datetime.now(UTC))
    async with front.connected() as connection:
        await store.cancel(connection, uuid7(), wish, new_unsampled())
    return Cancelled(payment_id, status.state if status is not None else ACCEPTED)


ROUTES: list[Any] = [cancel_withdrawal]
