"""Withdrawals that make no progress, over HTTP: which, what holds each up, and a nudge."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
import psycopg
from confluent_kafka import KafkaError, KafkaException
from litestar import get, post
from litestar.params import Parameter

from api import access, store
from api.bodies import StrictRequest
from api.front import Front
from api.guard import PERMISSION
from api.journal import Reason, written_down
from api.looks import RECENT_S
from api.operators import Operators
from api.pages import PAGE_SIZE, SECONDS_MAX, Limit
from api.problems import OF_A_BODY, Problem, problems
from api.seen import Seen
from contracts.events import CancelRequested
from contracts.redaction import hide
from contracts.services import API, NAMES
from operations.dead_letters.letters import Letter
from operations.hold_ups import ANSWER_S, Found, Open, Pending, ServiceSays, find, found_of, service_says
from operations.lost import Lost
from operations.lost_requests import READ_S_MAX, newest_accepted, still_lost, unknown
from operations.nudge import Nudged, nudge
from operations.refused import refused_by_saga
from operations.stuck import (
    Silent,
    Stuck,
    known,
    listed,
    lost_ones,
    silent,
    unasked_of,
    unpublished,
    with_lost,
    with_unpublished,
)
from operations.waits import as_open, waits_of
from outbox_relay.errors import RelayError
from processors.saga.status import status_of
from producers.settings import ProducerSettings

T = TypeVar("T")


class StuckWithdrawals(msgspec.Struct, frozen=True):
    """Withdrawals without progress, longest first.

    Attributes:
        idle: services that do not run; if ``saga`` is one, withdrawals that it has not read are not here.
        unasked: what could not be asked for what holds them up, and why.
        kafka_at: when Kafka was asked for topics, lags, dead letters and services that run.
    """

    withdrawals: list[Stuck]
    idle: list[str]
    unasked: dict[str, str]
    kafka_at: datetime


class Waiting(msgspec.Struct, frozen=True):
    """What a withdrawal waits for.

    Attributes:
        waiting_for: the next step, or what blocks it, in words; None once it is finished.
        held_up_by: what blocks it, if anything.
        pending: what a service is retrying, with the time of the next attempt.
        unasked: what could not be asked, and why.
        kafka_at: when Kafka was asked.
    """

    waiting_for: str | None
    held_up_by: str | None = None
    pending: Pending | None = None
    unasked: dict[str, str] = {}
    kafka_at: datetime | None = None


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
    responses=problems(),
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
    older_than_s = older_than_s if older_than_s is not None else front.settings.stuck_s
    return await stuck_ones(front, await front.looks.now(), older_than_s, limit)


async def stuck_ones(front: Front, seen: Seen, older_than_s: float, limit: int) -> StuckWithdrawals:
    """The withdrawals without an event for so many seconds, at most so many, with what a look found of Kafka.

    Raises:
        Problem: the saga service's database does not answer.
    """
    rows, (accepted, away) = await asyncio.gather(
        front.readers.run("saga", silent, older_than_s, limit), _accepted(front, unpublished, older_than_s, limit)
    )
    known_ones = await _known(front, [one.payment_id for one in accepted])
    lost, unasked = await _lost(front, older_than_s) if away is None else ([], {"the api database": away})
    rows = with_unpublished(rows, [*accepted, *lost], known_ones, limit)
    holds, refused = await asyncio.gather(
        hold_ups(front, seen, [row.as_open for row in rows]), _refused(front, seen)
    )
    holds = with_lost(holds, lost)
    for what, why in unasked.items():
        holds.unasked.setdefault(what, why)
    found = listed(rows, holds, refused, older_than_s, limit)
    return StuckWithdrawals(found, sorted(holds.idle), _said(holds.unasked), seen.flow.at)


async def hold_ups(
    front: Front, seen: Seen, withdrawals: Sequence[Open], operators: Operators | None = None
) -> Found:
    """What holds withdrawals up: of the services' databases as of now, of Kafka as a look found it.

    Args:
        front: what the handlers share.
        seen: the look.
        withdrawals: those that are asked about.
        operators: run what the look lacks; by default those of whoever waits for the answer.
    """
    names = [name for name in NAMES if name != "saga"]
    if not seen.has_letters:
        operators = operators or front.operators
        dsns = {name: operators.dsns[name] for name in names}
        found: Found = await operators.run(find, dsns, operators.bootstrap, withdrawals)
        return found
    names = names if withdrawals else []
    said = await asyncio.gather(*(_service(front, seen, name, withdrawals) for name in names))
    return found_of(withdrawals, dict(zip(names, said, strict=True)), seen.kafka.of(withdrawals))


async def _refused(front: Front, seen: Seen) -> dict[UUID, list[Letter]]:
    """Open dead letters of requests that the saga service refused and does not know."""
    found = refused_by_saga(seen.kafka.letters)
    known_ones = await _known(front, list(found))
    return {payment_id: letters for payment_id, letters in found.items() if payment_id not in known_ones}


async def _accepted(front: Front, read: Callable[..., list[T]], *args: Any) -> tuple[list[T], Exception | None]:
    """What the API's database knows of requests that it accepted, and why it could not be asked, if so."""
    try:
        return await front.readers.run(API, read, *args, limit_s=ANSWER_S), None
    except Problem as problem:
        return [], _reason(problem)


async def _lost(front: Front, older_than_s: float) -> tuple[list[Silent], dict[str, Exception]]:
    """Requests that are lost, and what could not be asked for them, and why."""
    newest, away = await _accepted(front, newest_accepted, older_than_s)
    candidates = await front.readers.run("saga", unknown, newest) if newest else []
    found: dict[UUID, bool] = {}
    if candidates:
        operators = front.operators
        try:
            found = await operators.run(still_lost, operators.dsns, operators.bootstrap, candidates, READ_S_MAX)
        except Problem as problem:
            if problem.__cause__ is None:
                return [], {"the API": problem}
            return [], unasked_of(_reason(problem))
    lost, away = await _accepted(front, lost_ones, found) if found else ([], away)
    return lost, {"the api database": away} if away is not None else {}


def _reason(problem: Problem) -> Exception:
    error = problem.__cause__
    return error if isinstance(error, Exception) else problem


async def _known(front: Front, payment_ids: list[UUID]) -> set[UUID]:
    """Which of some withdrawals the saga service knows."""
    return {*await front.readers.run("saga", known, payment_ids)} if payment_ids else set()


async def _service(front: Front, seen: Seen, name: str, withdrawals: Sequence[Open]) -> ServiceSays:
    # Where the look found all in flight, its table is not searched again: that takes time where much is.
    ask = partial(service_says, has_dead=seen.has_dead_rows(name), has_late=not seen.flows(name, RECENT_S))
    try:
        return await front.readers.run(name, ask, name, withdrawals, limit_s=ANSWER_S)
    except Problem as problem:
        return ServiceSays(error=_reason(problem))
    except (psycopg.Error, RelayError) as error:
        return ServiceSays(error=error)


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
    front: Front = request.app.state.front
    return await waiting(front, await front.looks.now(), payment_id, cancelled=cancelled)


async def waiting(
    front: Front, seen: Seen, payment_id: UUID, *, cancelled: bool = False, operators: Operators | None = None
) -> Waiting:
    """What a withdrawal waits for, its cancellation as well if that was asked for, with a look at Kafka.

    ``operators`` are those of :func:`hold_ups`.

    Raises:
        Problem: none is known, or a database does not answer.
    """
    async with front.connected() as connection:
        stored = await store.find(connection, payment_id)
    status = await front.readers.run("saga", status_of, payment_id)
    if status is not None and status.finished:
        return Waiting(None)
    also = frozenset({CancelRequested.__name__}) if cancelled else frozenset[str]()
    one = as_open(payment_id, status, stored.account_id if stored is not None else None, also)
    waits = waits_of(one, status, await hold_ups(front, seen, [one], operators))
    if status is None and stored is None and waits.held_up_by is None:
        raise Problem("not-found", f"no withdrawal {payment_id} is known")
    return Waiting(waits.words, waits.held_up_by, waits.pending, _said(waits.unasked), seen.flow.at)


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
    operators = request.app.state.front.acting
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
