"""The page of outboxes: where each stands and what is wrong, dead rows, unread slots, lag of every step."""

import asyncio
from collections.abc import Collection
from typing import Any, NamedTuple

from litestar import Response, get
from litestar.response import Stream

from api import access
from api.bodies import StrictRequest
from api.console import frame, live
from api.console.flow import recent
from api.console.outbox_words import Said, wrong
from api.console.rendering import render
from api.front import Front
from api.guard import PERMISSION
from api.headline import UNKNOWN
from api.looks import Flow
from api.outboxes import ROWS_MAX, ShownRow, as_shown, topics_there
from api.problems import Problem
from api.watch import Look
from contracts.services import NAMES
from operations.outboxes import Dead
from outbox_relay.dead import dead_rows
from outbox_relay.errors import RelayError
from outbox_relay.names import source_name
from outbox_relay.status import OutboxStatus, outbox_status

HOME = f"{frame.HOME}/outboxes"
EVERY_S = 2.0


class Outbox(NamedTuple):
    """An outbox: its status, if its database answered, the age of its oldest row, seconds, and what is wrong."""

    service: str
    status: OutboxStatus | None
    oldest_s: float | None
    wrong: list[Said]


@get(HOME, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def outboxes_page(request: StrictRequest) -> Response[str]:
    """Every outbox, and the dead rows as of now."""
    front: Front = request.app.state.front
    (outboxes, flow), (rows, unasked) = await asyncio.gather(_look(front), _dead(front))
    return await frame.page(
        request,
        "outboxes.html",
        title="Outboxes",
        active="outboxes",
        stream=f"{HOME}/stream",
        parts=_parts(outboxes, flow),
        names=NAMES,
        dead=rows[:ROWS_MAX],
        total=len(rows),
        unasked=unasked,
        unread=[one for one in outboxes if one.status is not None and one.status.slot and not one.status.active],
    )


@get(f"{HOME}/stream", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def outboxes_stream(request: StrictRequest) -> Stream:
    """The outboxes and steps as they change."""
    return live.stream(request, frame.FRAME, OUTBOXES)


async def _find(front: Front, keys: Collection[None]) -> dict[None, dict[str, str]]:
    return dict.fromkeys(keys, _parts(*await _look(front)))


OUTBOXES = Look("outboxes", _find, EVERY_S), None


def _parts(outboxes: list[Outbox], flow: Flow | None) -> dict[str, str]:
    """The parts of the page that change."""
    found = {f"outbox-{one.service}": render("fragments/outbox.html", one=one) for one in outboxes}
    return {**found, "steps": render("fragments/steps.html", flow=flow)}


async def _look(front: Front) -> tuple[list[Outbox], Flow | None]:
    """Each outbox, and the look with lags and ages; one whose database is away is there without its status."""
    topics, flow = await asyncio.gather(_topics(front), recent(front))
    ages = {one.service: one.oldest_s for one in (flow.outboxes if flow is not None else ())}
    return await asyncio.gather(*(_outbox(front, name, topics, ages.get(name)) for name in NAMES)), flow


async def _topics(front: Front) -> set[str] | None:
    return await asyncio.to_thread(topics_there, front.operators.bootstrap)


async def _outbox(front: Front, service: str, topics: set[str] | None, oldest_s: float | None) -> Outbox:
    try:
        status = await front.readers.run((service,), outbox_status, topics)
    except (Problem, RelayError) as error:
        return Outbox(service, None, None, [Said(UNKNOWN, f"could not be asked: {_why(error)}")])
    return Outbox(service, status, oldest_s, wrong(status, oldest_s))


async def _dead(front: Front) -> tuple[list[ShownRow], dict[str, str]]:
    """The dead rows of every outbox, of each the oldest first; and which could not be asked, and why."""
    rows: list[ShownRow] = []
    unasked: dict[str, str] = {}
    asked = (front.readers.run((service,), dead_rows) for service in NAMES)
    for service, found in zip(NAMES, await asyncio.gather(*asked, return_exceptions=True), strict=True):
        if isinstance(found, Problem | RelayError):
            unasked[service] = _why(found)
        elif isinstance(found, BaseException):
            raise found
        else:
            source = source_name(front.operators.dsns[service])
            rows += [as_shown(Dead(service, source, row)) for row in found]
    return rows, unasked


def _why(error: Problem | RelayError) -> str:
    return error.detail if isinstance(error, Problem) else str(error)


ROUTES: list[Any] = [outboxes_page, outboxes_stream]
