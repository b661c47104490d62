"""The page of the operator log: who did what to what, why, and what came of it, by filters in the URL."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.params import Parameter

from api import access
from api.bodies import StrictRequest
from api.console import frame
from api.console.places import Target, targets
from api.console.withdrawals import time_of
from api.console.words import pretty
from api.front import Front
from api.guard import PERMISSION
from api.journal import NUMBER_MAX, TEXT_MAX, Entry, Filter, listed, rows_of
from api.problems import Problem
from contracts.services import API

HOME = f"{frame.HOME}/operator-log"
JSON = "/v1/operator-log"
ROWS = 100
"""Of the log that a page shows; an action has two."""

_Text = Annotated[str | None, Parameter(max_length=TEXT_MAX)]


class Act(NamedTuple):
    """An action: what was written before it, and what came of it.

    Attributes:
        first: the row that was written first, or the only one that is here.
        at: when that was.
        ended_at: when its result was written; None where there is none.
        refusal: why it was not done; None where it was, or where there is no result.
        targets: what it was done to, the first ones; ``more`` are not among them.
        subject, result: as JSON, indented.
    """

    first: Entry
    at: datetime
    ended_at: datetime | None
    refusal: str | None
    targets: Sequence[Target]
    more: int
    subject: str
    result: str | None


@get(HOME, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def log_page(
    request: StrictRequest,
    caller: _Text = None,
    action: _Text = None,
    request_id: _Text = None,
    since: _Text = None,
    until: _Text = None,
    cursor: Annotated[int | None, Parameter(ge=1, le=NUMBER_MAX)] = None,
) -> Response[str]:
    """The newest first."""
    front: Front = request.app.state.front
    given = {"caller": caller, "action": action, "request_id": request_id, "since": since, "until": until}
    chosen = {name: value.strip() for name, value in given.items() if value and value.strip()}
    wanted = _wanted(chosen)
    found = await listed(front, wanted, ROWS, cursor or NUMBER_MAX)
    here = urlencode(chosen)
    exact = {name: at.isoformat() for name in ("since", "until") if (at := getattr(wanted, name)) is not None}
    return await frame.page(
        request,
        "operator_log.html",
        title="Operator log",
        active="operator-log",
        chosen=chosen,
        acts=await _acts(front, found.entries, wanted, cursor),
        here=here,
        is_first=cursor is None,
        next_query=urlencode({**chosen, "cursor": found.cursor}) if found.cursor else None,
        by=lambda **more: urlencode(more),
        json_path=f"{JSON}?{urlencode({**chosen, **exact})}".rstrip("?"),
    )


def _wanted(chosen: dict[str, str]) -> Filter:
    try:
        request_id = UUID(chosen["request_id"]) if "request_id" in chosen else None
    except ValueError:
        raise Problem("invalid", f"request_id: {chosen['request_id']!r} is no request ID") from None
    since, until = (time_of(name, chosen.get(name, "")) for name in ("since", "until"))
    return Filter(chosen.get("caller"), chosen.get("action"), request_id, since, until)


async def _acts(front: Front, entries: Sequence[Entry], wanted: Filter, cursor: int | None) -> list[Act]:
    """The actions of a page's rows. One whose two rows are on two pages is on that of its newer row alone."""
    here: dict[UUID, list[Entry]] = {}
    for entry in entries:
        here.setdefault(entry.request_id, []).append(entry)
    halves = {request_id: rows[0].number for request_id, rows in here.items() if len(rows) == 1}
    if halves:
        for row in await front.readers.run((API,), rows_of, list(halves)):
            if row.number == halves[row.request_id]:
                continue
            is_on_a_page_before = cursor is not None and row.number >= cursor
            if is_on_a_page_before and (wanted.until is None or row.at < wanted.until):
                del here[row.request_id]
            else:
                here[row.request_id].append(row)
    return [_act(rows) for rows in here.values()]


def _act(rows: Iterable[Entry]) -> Act:
    first, *rest = sorted(rows, key=lambda row: row.number)
    end = rest[-1] if rest else None
    result = msgspec.json.decode(end.result) if end is not None and end.result is not None else None
    shown, more = targets(first.action, msgspec.json.decode(first.subject), result)
    refusal = None
    if isinstance(result, dict) and "problem" in result:
        refusal = str(result.get("detail") or result["problem"])
    return Act(
        first,
        first.at,
        end.at if end is not None else None,
        refusal,
        shown,
        more,
        pretty(first.subject),
        pretty(end.result) if end is not None and end.result is not None else None,
    )


ROUTES: list[Any] = [log_page]
