"""The page of outboxes: where each stands and what is wrong, dead rows, unread slots, lag of every step."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from litestar import Response, get
from litestar.response import Stream

from api import access
from api.bodies import StrictRequest
from api.console import frame, live
from api.console.outbox_words import Said, wrong
from api.console.rendering import render
from api.front import Front
from api.guard import PERMISSION
from api.headline import UNKNOWN
from api.outboxes import ROWS_MAX, ShownRow, as_shown
from api.problems import Problem
from api.seen import Seen
from api.watch import Look
from contracts.services import NAMES
from operations.outboxes import Dead
from outbox_relay.dead import dead_rows
from outbox_relay.errors import RelayError
from outbox_relay.names import source_name
from outbox_relay.status import OutboxStatus

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
    """Every outbox as the last look has it, and the dead rows as of now."""
    front: Front = request.app.state.front
    seen, (rows, unasked) = await asyncio.gather(front.looks.within(frame.LOOK_S), _dead(front))
    # The number is that of the list below.
    dead = {service: sum(row.service == service for row in rows) for service in NAMES if service not in unasked}
    outboxes = _outboxes(seen, dead)
    return await frame.page(
        request,
        "outboxes.html",
        title="Outboxes",
        active="outboxes",
        stream=f"{HOME}/stream",
        parts=_parts(outboxes, seen),
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
    seen = await front.looks.now()
    return dict.fromkeys(keys, _parts(_outboxes(seen), seen))


OUTBOXES = Look("outboxes", _find, EVERY_S), None


def _parts(outboxes: list[Outbox], seen: Seen | None) -> dict[str, str]:
    """The parts of the page that change."""
    found = {f"outbox-{one.service}": render("fragments/outbox.html", one=one) for one in outboxes}
    flow = seen.flow if seen is not None else None
    return {
        **found,
        "steps": render("fragments/steps.html", flow=flow),
        "looked-at": render("fragments/looked_at.html", moment=flow and flow.at),
    }


def _outboxes(seen: Seen | None, dead_rows: Mapping[str, int] | None = None) -> list[Outbox]:
    """Each outbox as the look has it, with another number of dead rows where that is known as of now.

    One whose database was away is there without its status.
    """
    if seen is None:
        return [Outbox(name, None, None, [Said(UNKNOWN, "has not been asked yet")]) for name in NAMES]
    ages = {one.service: one.oldest_s for one in seen.flow.outboxes}
    found = []
    for name in NAMES:
        if (status := seen.outboxes.get(name)) is not None:
            status = replace(status, dead_rows=(dead_rows or {}).get(name, status.dead_rows))
            found.append(Outbox(name, status, ages[name], wrong(status, ages[name])))
        else:
            why = seen.silent.get(name, "it has not answered yet")
            found.append(Outbox(name, None, None, [Said(UNKNOWN, f"could not be asked: {why}")]))
    return found


async def _dead(front: Front) -> tuple[list[ShownRow], dict[str, str]]:
    """The dead rows of every outbox, of each the oldest first; and which could not be asked, and why."""
    rows: list[ShownRow] = []
    unasked: dict[str, str] = {}
    asked = (front.readers.run(service, dead_rows) for service in NAMES)
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
