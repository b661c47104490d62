"""Republishing over HTTP: events that a service lacks, of withdrawals that are named."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import post

from api import access
from api.bodies import LIST_BYTES_MAX, StrictRequest
from api.guard import PERMISSION
from api.journal import Reason, written_down
from api.problems import OF_A_BODY, problems
from operations import lost
from operations.lost import Lost
from operations.republish import find, republish
from producers.settings import ProducerSettings

WITHDRAWALS_MAX = 1_000


class RepublishRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Withdrawals whose events are to be published again, and why.

    Attributes:
        every_event: also those that every service has, for other readers of the topics.
        dry_run: only say which.
    """

    payment_ids: Annotated[list[UUID], msgspec.Meta(min_length=1, max_length=WITHDRAWALS_MAX)]
    reason: Reason
    every_event: bool = False
    dry_run: bool = False


class RepublishedEvent(msgspec.Struct, frozen=True):
    """An event that is published again.

    Attributes:
        original: whether it is the event itself; else it was made again from its service's tables.
        dead: whether it could not be: it is a dead row of its outbox.
    """

    payment_id: UUID
    event_type: str
    topic: str
    message_id: UUID
    original: bool
    dead: bool


class RepublishResult(msgspec.Struct, frozen=True):
    """What was handed to the relay, by withdrawal and in the order in which it happened."""

    request_id: UUID
    events: list[RepublishedEvent]


@post(
    "/v1/republish",
    status_code=200,
    summary="Republish events",
    operation_id="republishEvents",
    tags=["operations"],
    opt={PERMISSION: access.OPERATE},
    request_max_body_size=LIST_BYTES_MAX,
    responses=problems(*OF_A_BODY),
)
async def republish_events(request: StrictRequest, data: RepublishRequest) -> RepublishResult:
    """Publish again what Kafka lost and a service needs, from the services' own tables; safe to repeat."""
    operators = request.app.state.front.operators
    timeout_s = ProducerSettings().delivery_timeout_s

    def act() -> list[RepublishedEvent]:
        choose = lost.everything if data.every_event else lost.lacking
        found = find(operators.dsns, operators.bootstrap, choose, payment_ids=data.payment_ids)
        dead = [] if data.dry_run else republish(operators.dsns, operators.bootstrap, found, timeout_s)
        return [_shown(one, one in dead) for one in found]

    subject = {"payment_ids": data.payment_ids, "every_event": data.every_event, "dry_run": data.dry_run}
    async with written_down(request, "republish", subject, data.reason) as action:
        action.result = result = RepublishResult(action.request_id, await operators.run(act))
    return result


def _shown(one: Lost, dead: bool) -> RepublishedEvent:
    return RepublishedEvent(one.payment_id, one.event_type, one.topic, one.message_id, not one.made_again, dead)


ROUTES: list[Any] = [republish_events]
