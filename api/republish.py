"""Republishing over HTTP: events that a service lacks, of withdrawals that are named."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import post

from api import access
from api.acts import ON_A_LIST
from api.bodies import LIST_BYTES_MAX, StrictRequest
from api.front import Front
from api.guard import PERMISSION
from api.journal import Reason, written_down
from api.pages import SECONDS_MAX
from api.problems import OF_A_BODY, Problem, problems
from operations import lost
from operations.lost import Lost
from operations.republish import find, preview, republish
from producers.settings import ProducerSettings

WITHDRAWALS_MAX, EVENTS_MAX = 1_000, 10_000
"""Named by one request."""

PREVIEW_MAX = 10_000
"""Withdrawals of one preview."""


class PreviewRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which events are looked for.

    Attributes:
        payment_ids: of these withdrawals; without them, of all.
        since: only of withdrawals that began then or later.
        quiet_s: leave out withdrawals that changed in the last so many seconds; by default ``SETTLE_STUCK_S``.
        limit: withdrawals at the most, by ascending payment ID.
        every_event: also those that every service has, for other readers of the topics.
        lost_requests: instead, the requests that only the API has; not together with ``payment_ids``.
    """

    payment_ids: Annotated[list[UUID], msgspec.Meta(min_length=1, max_length=WITHDRAWALS_MAX)] | None = None
    since: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    quiet_s: Annotated[float, msgspec.Meta(ge=0, le=SECONDS_MAX)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=PREVIEW_MAX)] = PREVIEW_MAX
    every_event: bool = False
    lost_requests: bool = False


class LostEvent(msgspec.Struct, frozen=True):
    """An event that can be published again.

    Attributes:
        original: whether it is the event itself; else it was made again from its service's tables.
        key: of its record.
        body: JSON text.
    """

    payment_id: UUID
    event_type: str
    topic: str
    message_id: UUID
    original: bool
    key: str
    body: str


class Preview(msgspec.Struct, frozen=True):
    """What would be republished, by withdrawal and in the order in which it happened.

    Attributes:
        lost_requests: requests that the API accepted and that only it has, where none are named, by ascending
            payment ID and up to the ``limit``: these are republished only by name, as somebody may have discarded
            them. None where that cannot be told, as the saga service is behind.
        lost_requests_total: how many there are; None likewise.
    """

    events: list[LostEvent]
    lost_requests: list[UUID] | None
    lost_requests_total: int | None


class RepublishRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Withdrawals whose events are to be published again, and why.

    Attributes:
        every_event: also those that every service has, for other readers of the topics.
        dry_run: only say which.
        message_ids: no others than these of their events.
    """

    payment_ids: Annotated[list[UUID], msgspec.Meta(min_length=1, max_length=WITHDRAWALS_MAX)]
    reason: Reason
    every_event: bool = False
    dry_run: bool = False
    message_ids: Annotated[list[UUID], msgspec.Meta(max_length=EVENTS_MAX)] | None = None


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
    "/v1/republish/preview",
    status_code=200,
    summary="See what would be republished",
    operation_id="previewRepublish",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    request_max_body_size=LIST_BYTES_MAX,
    responses=problems(*OF_A_BODY),
)
async def preview_republish(request: StrictRequest, data: PreviewRequest) -> Preview:
    """The events that Kafka lost and a service needs. Reads all withdrawals, and the topics where need be."""
    front: Front = request.app.state.front
    operators = front.operators
    quiet_s = data.quiet_s if data.quiet_s is not None else front.settings.stuck_s
    if data.lost_requests and data.payment_ids is not None:
        raise Problem("invalid", "lost_requests are all of them: a request that is named is looked for anyway")

    def look() -> Preview:
        found = preview(
            operators.dsns,
            operators.bootstrap,
            lost.everything if data.every_event else lost.lacking,
            payment_ids=data.payment_ids,
            since=data.since,
            quiet_s=quiet_s,
            limit=data.limit,
            only_lost_requests=data.lost_requests,
        )
        events = [_as_lost(one) for one in found.events]
        return Preview(events, found.lost_requests, found.lost_requests_total)

    shown: Preview = await operators.run(look)
    return shown


@post(
    "/v1/republish",
    summary="Republish events",
    operation_id="republishEvents",
    **ON_A_LIST,
)
async def republish_events(request: StrictRequest, data: RepublishRequest) -> RepublishResult:
    """Publish again what Kafka lost and a service needs, from the services' own tables; safe to repeat."""
    operators = request.app.state.front.acting
    timeout_s = ProducerSettings().delivery_timeout_s

    def act() -> list[RepublishedEvent]:
        choose = lost.everything if data.every_event else lost.lacking
        found = find(operators.dsns, operators.bootstrap, choose, payment_ids=data.payment_ids)
        if data.message_ids is not None:
            chosen = frozenset(data.message_ids)
            found = [one for one in found if one.message_id in chosen]
        dead = [] if data.dry_run else republish(operators.dsns, operators.bootstrap, found, timeout_s)
        return [_shown(one, one in dead) for one in found]

    subject = {
        "payment_ids": data.payment_ids,
        "every_event": data.every_event,
        "dry_run": data.dry_run,
        "message_ids": data.message_ids,
    }
    async with written_down(request, "republish", subject, data.reason) as action:
        action.result = result = RepublishResult(action.request_id, await operators.run(act))
    return result


def _as_lost(one: Lost) -> LostEvent:
    return LostEvent(
        one.payment_id, one.event_type, one.topic, one.message_id, not one.made_again, one.key, one.body
    )


def _shown(one: Lost, dead: bool) -> RepublishedEvent:
    return RepublishedEvent(one.payment_id, one.event_type, one.topic, one.message_id, not one.made_again, dead)


ROUTES: list[Any] = [preview_republish, republish_events]
