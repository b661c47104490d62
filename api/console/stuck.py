"""The page of withdrawals without progress: what each waits for and what holds it up, live."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.params import Parameter
from litestar.response import Stream

from api import access
from api.bodies import StrictRequest
from api.console import frame, live
from api.console.rendering import render
from api.front import Front
from api.guard import PERMISSION
from api.pages import PAGE_SIZE, SECONDS_MAX
from api.problems import Problem
from api.stuck import StuckWithdrawals, stuck_ones
from api.watch import Look
from api.withdrawals import PATH
from operations.accepted import ACCEPTED
from operations.stuck import REFUSED, Stuck
from operations.withdrawals import of_ids

HOME = f"{frame.HOME}/stuck"
EVERY_S = 5.0
"""A look asks each service's database and Kafka."""

ROWS_MAX = 300
"""The URL of the stream names them all."""

Seconds = Annotated[str | None, Parameter(query="older_than_s", max_length=20)]
Limit = Annotated[int, Parameter(ge=1, le=ROWS_MAX)]


class View(msgspec.Struct, frozen=True):
    """What a tab shows: the withdrawals of its list, and what that is a list of."""

    older_than_s: float
    limit: int
    ids: frozenset[UUID]


@get(HOME, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def stuck_page(
    request: StrictRequest, older_than: Seconds = None, limit: Limit = PAGE_SIZE
) -> Response[str]:
    """The longest without an event first."""
    front: Front = request.app.state.front
    older_than_s = _seconds(older_than, front)
    found = await stuck_ones(front, await front.looks.recent(), older_than_s, limit)
    query = urlencode({"older_than_s": f"{older_than_s:g}", "limit": limit})
    shown = urlencode({"id": [one.payment_id for one in found.withdrawals]}, doseq=True)
    now = datetime.now(UTC)
    return await frame.page(
        request,
        "stuck.html",
        title="Stuck",
        active="stuck",
        stream=f"{HOME}/stream?{query}&{shown}",
        older_than_s=older_than_s,
        stuck_s=front.settings.stuck_s,
        withdrawals=found.withdrawals,
        unnudged=(REFUSED, ACCEPTED),
        parts={"unasked": _unasked(found), "looked-at": _looked_at(found)}
        | {k: v for one in found.withdrawals for k, v in _cells(one, now).items()},
        is_full=len(found.withdrawals) == limit,
        is_whole=not found.unasked and "saga" not in found.idle,
        more=urlencode({"older_than_s": f"{older_than_s:g}", "limit": ROWS_MAX}) if limit < ROWS_MAX else None,
        limit=limit,
        nudge_path=f"{PATH}/{{}}/nudge",
        json_path=f"/v1/stuck?{query}",
    )


@get(f"{HOME}/stream", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def stuck_stream(
    request: StrictRequest,
    older_than: Seconds = None,
    limit: Limit = PAGE_SIZE,
    ids: Annotated[list[UUID] | None, Parameter(query="id", max_items=ROWS_MAX)] = None,
) -> Stream:
    """The cells of those that are shown, and how many others are stuck."""
    view = View(_seconds(older_than, request.app.state.front), limit, frozenset(ids or ()))
    return live.stream(request, frame.FRAME, (STUCK, view))


async def _find(front: Front, keys: Collection[View]) -> Mapping[View, Mapping[str, str]]:
    lists = {(key.older_than_s, key.limit) for key in keys}
    looked = await front.looks.now()
    found = {one: await stuck_ones(front, looked, *one) for one in lists}
    still = {one.payment_id for some in found.values() for one in some.withdrawals}
    gone = {one for key in keys for one in key.ids} - still
    rows = await front.readers.run("saga", of_ids, list(gone)) if gone else []
    states = {one.payment_id: one.state for one in rows}
    return {key: _fragments(key, found[key.older_than_s, key.limit], states) for key in keys}


def _fragments(key: View, found: StuckWithdrawals, states: Mapping[UUID, str]) -> dict[str, str]:
    now = datetime.now(UTC)
    there = {one.payment_id: one for one in found.withdrawals}
    shown = {"unasked": _unasked(found), "looked-at": _looked_at(found)}
    for payment_id in key.ids:
        if payment_id in there:
            shown |= _cells(there[payment_id], now)
        elif payment_id in states:
            shown |= _moved(payment_id, states[payment_id])
        elif not found.unasked and len(there) < key.limit:
            # Nobody knows it, or not yet: its dead letter was handled, or its request is published.
            shown |= _gone(payment_id)
    shown["newer"] = render("fragments/newer_stuck.html", count=len(there.keys() - key.ids))
    return shown


STUCK = Look("stuck", _find, EVERY_S)


def _cells(one: Stuck, now: datetime) -> dict[str, str]:
    """The cells of a row that change, by their names."""
    return {
        f"{name}-{one.payment_id}": render(f"fragments/stuck_{name}.html", one=one, now=now)
        for name in ("state", "waits", "silent")
    }


def _moved(payment_id: UUID, state: str) -> dict[str, str]:
    """The same of one that has moved since the page was loaded."""
    return {
        f"state-{payment_id}": render(
            "fragments/stuck_state.html", one={"payment_id": payment_id, "state": state}
        ),
        **_gone(payment_id),
    }


def _gone(payment_id: UUID) -> dict[str, str]:
    """The same where its state is not known."""
    return {f"waits-{payment_id}": render("fragments/stuck_moved.html"), f"silent-{payment_id}": ""}


def _unasked(found: StuckWithdrawals) -> str:
    return render("fragments/stuck_unasked.html", found=found)


def _looked_at(found: StuckWithdrawals) -> str:
    return render("fragments/looked_at.html", moment=found.kafka_at)


def _seconds(text: str | None, front: Front) -> float:
    try:
        seconds = float(text) if text else front.settings.stuck_s
    except ValueError:
        raise Problem("invalid", f"older_than_s: {text!r} is no number of seconds") from None
    if not 0 <= seconds <= SECONDS_MAX:
        raise Problem("invalid", f"older_than_s: {text} is not between 0 and {SECONDS_MAX}")
    return seconds


ROUTES: list[Any] = [stuck_page, stuck_stream]
