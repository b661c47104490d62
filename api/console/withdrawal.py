"""The page of one withdrawal: where it stands and why, its journal, events, ledger, attempts, trace and JSON."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.response import Stream

from api import access, dead_letters
from api.bodies import StrictRequest
from api.console import frame, live
from api.console.ledger_words import net
from api.console.rendering import render
from api.console.steps import WIDTH, journal
from api.console.waterfall import WIDTH as BAR_WIDTH
from api.console.waterfall import waterfall
from api.console.withdrawals import EVERY_S, HOME
from api.console.words import cause, pretty
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.problems import Problem
from api.statuses import WithdrawalStatus, standing
from api.stuck import Waiting, waiting
from api.traces import WithdrawalTrace, trace
from api.watch import Look
from api.withdrawals import PATH
from broker.timestamps import RecordPlace, timestamps
from operations.dead_letters.letters import Wanted
from operations.events import Recorded, events_of
from operations.ledger import of_payment
from processors.saga.decide import FINISHED

ONE = f"{HOME}/{{payment_id:uuid}}"

EVENTS_MAX = 200
"""Events that the page shows; a withdrawal has seven, unless somebody repeats its messages."""

WAITS_S = 0.06
"""How long the page waits for what a withdrawal waits for; then its stream tells."""

TIMES_S = 0.1
"""How long the page waits for the times of its records in Kafka; then its stream tells."""

WAITS_EVERY_S = 5.0

KAFKA_S = 1.5
"""For the times of its records in Kafka."""

TRACE_S = 5.0
"""For Jaeger's answer."""

TIMES_MAX = 20_000
"""Times that are remembered: a record's never changes, nor that it is gone."""


class Tab(NamedTuple):
    """A part of the page, by its link."""

    name: str
    title: str


TABS = (
    Tab("journal", "Journal"),
    Tab("events", "Events"),
    Tab("ledger", "Ledger"),
    Tab("attempts", "Attempts"),
    Tab("trace", "Trace"),
    Tab("json", "JSON"),
)

TabName = Literal["journal", "events", "ledger", "attempts", "trace", "json"]

_times: OrderedDict[RecordPlace, datetime | None] = OrderedDict()
_asking: set[asyncio.Task[None]] = set()


@get(ONE, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def withdrawal_page(request: StrictRequest, payment_id: UUID, tab: TabName = "journal") -> Response[str]:
    """One withdrawal."""
    front: Front = request.app.state.front
    status = await standing(front, caller_of(request), payment_id)
    events = await front.readers.run("saga", events_of, payment_id, 0, EVENTS_MAX)
    waits, parts, of_tab = await asyncio.gather(
        _waits(front, status) if tab != "attempts" else _nothing(),
        _parts(front, status, events, TIMES_S),
        _of_tab(front, tab, status),
    )
    return await frame.page(
        request,
        "withdrawal.html",
        title=f"{status.amount} {status.currency} of {status.account_id}",
        active="withdrawals",
        stream=f"{HOME}/{payment_id}/stream",
        status_=status,
        parts=parts | {"waits": _waits_shown(status, waits)},
        tabs=TABS,
        tab=tab,
        events=events,
        pretty=pretty,
        json_path=f"{PATH}/{payment_id}",
        **of_tab,
    )


async def _nothing() -> None:
    return None


async def _of_tab(front: Front, tab: str, status: WithdrawalStatus) -> dict[str, Any]:
    """What a tab shows beside the events."""
    if tab == "ledger":
        bookings = await front.readers.run("account", of_payment, status.payment_id)
        return {"bookings": bookings, "net": net(status.state, status.amount, status.currency, bookings)}
    if tab == "attempts":
        return await _attempts(front, status)
    if tab == "trace":
        return await _trace(front, status.payment_id)
    if tab == "json":
        return {"document": pretty(msgspec.json.encode(status))}
    return {}


async def _trace(front: Front, payment_id: UUID) -> dict[str, Any]:
    """The spans as a tree; where Jaeger is away, that."""
    found: WithdrawalTrace | None = None
    unasked = None
    try:
        async with asyncio.timeout(TRACE_S):
            found = await trace(front.tracing, payment_id)
    except TimeoutError:
        unasked = f"Jaeger has not answered within {TRACE_S:g} seconds"
    except Problem as problem:
        unasked = problem.detail
    picture = waterfall(found.spans) if found is not None else None
    return {"trace": found, "picture": picture, "unasked": unasked, "bar_width": BAR_WIDTH}


async def _attempts(front: Front, status: WithdrawalStatus) -> dict[str, Any]:
    """What is retried, and the dead letters; what cannot be asked is said."""
    found: dict[str, Any] = {"waiting": None, "letters": None, "unasked": {}}
    try:
        if status.state not in FINISHED:
            looked = await front.looks.recent()
            found["waiting"] = waits = await waiting(front, looked, status.payment_id)
            found["unasked"] |= waits.unasked
        wanted = Wanted(payment_id=str(status.payment_id))
        found["letters"], found["read_at"] = await dead_letters.among_recent(
            front, lambda letters: dead_letters.of_letters(letters, wanted, "all", contents=False)
        )
    except Problem as problem:
        found["unasked"]["Kafka or a database"] = problem.detail
    return found


@get(f"{ONE}/stream", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def withdrawal_stream(request: StrictRequest, payment_id: UUID) -> Stream:
    """The same as it changes."""
    await standing(request.app.state.front, caller_of(request), payment_id)
    return live.stream(request, frame.FRAME, (WITHDRAWAL, payment_id), (WAITS, payment_id))


async def _find(front: Front, keys: Collection[UUID]) -> Mapping[UUID, Mapping[str, str]]:
    return {key: await _parts_of(front, key) for key in keys}


async def _find_waits(front: Front, keys: Collection[UUID]) -> Mapping[UUID, Mapping[str, str]]:
    found = {}
    for key in keys:
        status = await standing(front, _ANYBODY, key)
        waits = await waiting(front, await front.looks.now(), key) if status.state not in FINISHED else None
        found[key] = {"waits": _waits_shown(status, waits)}
    return found


WITHDRAWAL = Look("withdrawal", _find, EVERY_S)
WAITS = Look("waits", _find_waits, WAITS_EVERY_S)

_ANYBODY = access.Caller("console", access.VIEWER, access.MAY[access.VIEWER])
"""Who looks for all who watch: each of them may see every withdrawal, or has no stream."""


async def _parts_of(front: Front, payment_id: UUID) -> dict[str, str]:
    status = await standing(front, _ANYBODY, payment_id)
    events = await front.readers.run("saga", events_of, payment_id, 0, EVENTS_MAX)
    return await _parts(front, status, events)


async def _parts(
    front: Front, status: WithdrawalStatus, events: Sequence[Recorded], wait_s: float | None = None
) -> dict[str, str]:
    """The parts of the page that change; what Kafka does not tell within so many seconds is left to its stream."""
    published, is_asked = await _published(front, events, wait_s)
    steps = journal(events, published)
    about = {"one": status, "journal": steps, "width": WIDTH, "cause": cause(status.state, status.reason)}
    return {
        **{
            name: render(f"fragments/{name}.html", **about, is_asked=is_asked)
            for name in ("standing", "cause", "journal")
        },
        "count-events": render("fragments/count.html", count=len(events), tone=""),
    }


async def _published(
    front: Front, events: Sequence[Recorded], wait_s: float | None
) -> tuple[dict[int, datetime], bool]:
    """When each event was in Kafka, and whether that is still being asked; without those that it has no more."""
    places = {
        one.id: (one.topic, one.partition, one.offset)
        for one in events
        if one.topic is not None and one.partition is not None and one.offset is not None
    }
    is_asked = False
    if asked := [place for place in places.values() if place not in _times]:
        task = asyncio.create_task(_ask_times(front, asked))
        _asking.add(task)
        task.add_done_callback(_asking.discard)
        _, left = await asyncio.wait([task], timeout=wait_s)
        is_asked = bool(left)
    known = ((number, _times.get(place)) for number, place in places.items())
    return {number: at for number, at in known if at is not None}, is_asked


async def _ask_times(front: Front, asked: Collection[RecordPlace]) -> None:
    with suppress(Problem):
        _times.update(await front.glancing.run(timestamps, front.glancing.bootstrap, asked, KAFKA_S))
    while len(_times) > TIMES_MAX:
        _times.popitem(last=False)


async def _waits(front: Front, status: WithdrawalStatus) -> Waiting | None:
    """What it waits for, as far as that is known in time."""
    if status.state in FINISHED:
        return None
    try:
        async with asyncio.timeout(WAITS_S):
            seen = await front.looks.recent()
            return await waiting(front, seen, status.payment_id, operators=front.glancing)
    except (TimeoutError, Problem):
        return None


def _waits_shown(status: WithdrawalStatus, waits: Waiting | None) -> str:
    return render("fragments/waits.html", one=status, waits=waits)


ROUTES: list[Any] = [withdrawal_page, withdrawal_stream]
