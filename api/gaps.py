"""Gaps over HTTP: records that Kafka deleted before a service had read them, listed and acknowledged."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import get, post

from api import access
from api.bodies import StrictRequest
from api.guard import PERMISSION
from api.journal import Reason, written_down
from api.operators import Operators
from api.problems import OF_A_BODY, problems
from contracts.services import READ_BY
from processors.runtime.gaps import NotedGap, acknowledge, noted_gaps

PATH = "/v1/gaps"
GAPS_MAX = 1_000


class Gaps(msgspec.Struct, frozen=True):
    """What each service has missed, the oldest first."""

    gaps: list[NotedGap]


class GapName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which gap: as it is listed. One that has grown since is another."""

    service: str
    topic: str
    partition: int
    first: int
    until: int


class Acknowledgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Gaps that somebody has looked after, and what was done about them, which is kept with each."""

    gaps: Annotated[list[GapName], msgspec.Meta(min_length=1, max_length=GAPS_MAX)]
    reason: Reason


class Acknowledged(msgspec.Struct, frozen=True):
    """How many of them are acknowledged now, and were not before."""

    request_id: UUID
    count: int


@get(
    PATH,
    summary="List what was deleted unread",
    operation_id="listGaps",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems(),
)
async def list_gaps(request: StrictRequest) -> Gaps:
    """What Kafka deleted before a service had read it."""
    operators = request.app.state.front.operators
    return Gaps(await operators.run(noted_gaps, _dsns(operators)))


@post(
    f"{PATH}/acknowledge",
    status_code=200,
    summary="Acknowledge gaps",
    operation_id="acknowledgeGaps",
    tags=["operations"],
    opt={PERMISSION: access.OPERATE},
    responses=problems(*OF_A_BODY),
)
async def acknowledge_gaps(request: StrictRequest, data: Acknowledgement) -> Acknowledged:
    """Say what became of exactly these, so that the audit holds again."""
    operators = request.app.state.front.acting

    def act() -> int:
        dsns = _dsns(operators)
        names = set(data.gaps)
        return acknowledge(dsns, [one for one in noted_gaps(dsns) if _name_of(one) in names], data.reason)

    async with written_down(request, "acknowledge gaps", data.gaps, data.reason) as action:
        action.result = result = Acknowledged(action.request_id, await operators.run(act))
    return result


def _dsns(operators: Operators) -> dict[str, str]:
    return {service: operators.dsns[service] for service in READ_BY}


def _name_of(one: NotedGap) -> GapName:
    gap = one.gap
    return GapName(one.service, gap.topic, gap.partition, gap.first, gap.until)


ROUTES: list[Any] = [list_gaps, acknowledge_gaps]
