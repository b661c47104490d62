"""Withdrawals that make no progress, over HTTP: which, what holds each up, and a nudge."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from confluent_kafka import KafkaError, KafkaException
from litestar import get, post
from litestar.params import Parameter

from api import access, store
from api.bodies import StrictRequest
from api.front import Front
from api.guard import PERMISSION
from api.journal import Reason, written_down
from api.pages import PAGE_SIZE, SECONDS_MAX, Limit
from api.problems import OF_A_BODY, Problem, problems
from contracts.events import CancelRequested
from contracts.redaction import hide
from operations.hold_ups import Pending
from operations.lost import Lost
from operations.nudge import Nudged, nudge
from operations.stuck import Stuck, stuck
from operations.waits import look
from processors.saga.status import find_status
from producers.settings import ProducerSettings


class StuckWithdrawals(msgspec.Struct, frozen=True):
    """Withdrawals without progress, longest first.

    Attributes:
        idle: services that do not run; if ``saga`` is one, withdrawals that it has not read are not here.
        unasked: what could not be asked for what holds them up, and why.
    """

    withdrawals: list[Stuck]
    idle: list[str]
    unasked: dict[str, str]


class Waiting(msgspec.Struct, frozen=True):
    """What a withdrawal waits for.

    Attributes:
        waiting_for: the next step, or what blocks it, in words; None once it is finished.
        held_up_by: what blocks it, if anything.
        pending: what a service is retrying, with the time of the next attempt.
        unasked: what could not be asked, and why.
    """

    waiting_for: str | None
    held_up_by: str | None = None
    pending: Pending | None = None
    unasked: dict[str, str] = {}


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why something is done."""

    reason: Reason


class Republished(msgspec.Struct, frozen=True):
    """An event that is published again."""

    event_type: str
    topic: str
    message_id: UUID


class NudgeResult(msgspec.Struct, frozen=True):
    """What a nudge has done.

    Attributes:
        request_id: of the action, in the log of what operators do.
        republished: handed to the relay.
        dead: could not be: dead rows of an outbox.
    """

    request_id: UUID
    republished: list[Republished]
    dead: list[Republished]


@get(
    "/v1/stuck",
    summary="List withdrawals without progress",
    operation_id="listStuck",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems("invalid"),
)
async def list_stuck(
    request: StrictRequest,
    older_than_s: Annotated[
        float | None, Parameter(ge=0, le=SECONDS_MAX, description="Without an event for so many seconds.")
    ] = None,
    limit: Limit = PAGE_SIZE,
) -> StuckWithdrawals:
    """Those without an event for some time, and what each waits for."""
    front: Front = request.app.state.front
    return await stuck_ones(front, older_than_s if older_than_s is not None else front.settings.stuck_s, limit)


async def stuck_ones(front: Front, older_than_s: float, limit: int) -> StuckWithdrawals:
    """The withdrawals without an event for so many seconds, at most so many.

    Raises:
        Problem: the saga service's database does not answer.
    """
    operators = front.operators
    found, holds = await operators.run(stuck, operators.dsns, operators.bootstrap, older_than_s, limit)
    return StuckWithdrawals(found, sorted(holds.idle), _said(holds.unasked))


@get(
    "/v1/withdrawals/{payment_id:uuid}/waiting",
    summary="See what a withdrawal waits for",
    operation_id="getWaiting",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems("not-found"),
)
async def get_waiting(
    request: StrictRequest,
    payment_id: UUID,
    cancelled: Annotated[bool, Parameter(description="It may also wait for its cancellation.")] = False,
) -> Waiting:
    """Its next step, or what blocks it: outboxes, dead letters, services that do not run or are behind."""
    return await waiting(request.app.state.front, payment_id, cancelled=cancelled)


async def waiting(front: Front, payment_id: UUID, *, cancelled: bool = False) -> Waiting:
    """What a withdrawal waits for, its cancellation as well if that was asked for.

    Raises:
        Problem: none is known, or a database does not answer.
    """
    operators = front.operators
    async with front.connected() as connection:
        stored = await store.find(connection, payment_id)
    also = frozenset({CancelRequested.__name__}) if cancelled else frozenset[str]()

    def find() -> Waiting:
        status = find_status(operators.dsns["saga"], payment_id)
        if status is not None and status.finished:
            return Waiting(None)
        dsns = {name: dsn for name, dsn in operators.dsns.items() if name != "saga"}
        account_id = stored.account_id if stored is not None else None
        waits = look(dsns, operators.bootstrap, payment_id, status, account_id=account_id, also_acts_on=also)
        if status is None and stored is None and waits.held_up_by is None:
            raise Problem("not-found", f"no withdrawal {payment_id} is known")
        return Waiting(waits.words, waits.held_up_by, waits.pending, _said(waits.unasked))

    return await operators.run(find)


@post(
    "/v1/withdrawals/{payment_id:uuid}/nudge",
    status_code=200,
    summary="Nudge a withdrawal",
    operation_id="nudgeWithdrawal",
    tags=["operations"],
    opt={PERMISSION: access.OPERATE},
    responses=problems(*OF_A_BODY, "not-found", "finished"),
)
async def nudge_withdrawal(request: StrictRequest, payment_id: UUID, data: Why) -> NudgeResult:
    """Republish the event that its next step acts on and those that a service lacks; harmless when repeated."""
    operators = request.app.state.front.operators
    timeout_s = ProducerSettings().delivery_timeout_s
    async with written_down(request, "nudge", payment_id, data.reason) as action:
        done: Nudged = await operators.run(nudge, operators.dsns, operators.bootstrap, payment_id, timeout_s)
        if done.status is None and not done.republished and not done.dead:
            raise Problem("not-found", f"no withdrawal {payment_id} is known")
        result = NudgeResult(action.request_id, _shown(done.republished), _shown(done.dead))
        action.result = result
    return result


def _shown(events: list[Lost]) -> list[Republished]:
    return [Republished(one.event_type, one.topic, one.message_id) for one in events]


def _said(unasked: dict[str, Exception]) -> dict[str, str]:
    return {what: hide(" ".join(_words(error).split())) for what, error in unasked.items()}


def _words(error: Exception) -> str:
    """What an error says; of Kafka's without the frame in which its client shows it."""
    kafka = error.args[0] if isinstance(error, KafkaException) and error.args else None
    return kafka.str() if isinstance(kafka, KafkaError) else str(error)


ROUTES: list[Any] = [list_stuck, get_waiting, nudge_withdrawal]
