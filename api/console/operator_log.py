"""The page of the operator log: who did what to what, why, and what came of it, by filters in the URL, live."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.params import Parameter
from litestar.response import Stream

from api import access
from api.bodies import StrictRequest
from api.console import frame, live
from api.console.places import Target, targets
from api.console.rendering import render
from api.console.withdrawals import time_of
from api.console.words import pretty
from api.front import Front
from api.guard import PERMISSION
from api.journal import NUMBER_MAX, TEXT_MAX, Entry, Filter, listed, read_log, row_before, rows_of
from api.problems import Problem
from api.watch import Look
from contracts.services import API

HOME = f"{frame.HOME}/operator-log"
JSON = "/v1/operator-log"
ROWS = 100
"""Of the log that a page shows; an action has two."""

NEWER_MAX = 100
"""Newer actions are counted up to here."""

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


class View(msgspec.Struct, frozen=True):
    """What a tab shows.

    Attributes:
        wanted: its filter; None where newer ones are not counted.
        newest: the number of its newest row; 0 where it has none.
        open: the actions that had no result.
    """

    wanted: Filter | None
    newest: int
    open: frozenset[UUID]


@get(HOME, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def log_page(
    request: StrictRequest,
    caller: _Text = None,
    action: _Text = None,
    request_id: _Text = None,
    since: _Text = None,
    until: _Text = None,
    cursor: _Text = None,
) -> Response[str]:
    """The newest first."""
    front: Front = request.app.state.front
    chosen = _chosen(caller=caller, action=action, request_id=request_id, since=since, until=until)
    wanted = _wanted(chosen)
    found = await listed(front, wanted, ROWS, cursor)
    here = urlencode(chosen)
    acts = await _acts(front, found.entries, wanted, row_before(cursor, wanted))
    pending = [str(act.first.request_id) for act in acts if act.ended_at is None]
    newest = max((entry.number for entry in found.entries), default=0)
    watched = {"open": pending} | ({} if cursor else {"newest": newest})
    exact = {name: at.isoformat() for name in ("since", "until") if (at := getattr(wanted, name)) is not None}
    return await frame.page(
        request,
        "operator_log.html",
        title="Operator log",
        active="operator-log",
        stream=f"{HOME}/stream?{urlencode({**chosen, **watched}, doseq=True)}",
        chosen=chosen,
        acts=acts,
        parts={act.first.request_id: _result(act) for act in acts},
        here=here,
        is_first=not cursor,
        next_query=urlencode({**chosen, "cursor": found.cursor}) if found.cursor else None,
        by=lambda **more: urlencode(more),
        json_path=f"{JSON}?{urlencode({**chosen, **exact})}".rstrip("?"),
    )


@get(f"{HOME}/stream", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def log_stream(
    request: StrictRequest,
    caller: _Text = None,
    action: _Text = None,
    request_id: _Text = None,
    since: _Text = None,
    until: _Text = None,
    newest: Annotated[int | None, Parameter(ge=0, le=NUMBER_MAX)] = None,
    open_ids: Annotated[list[UUID] | None, Parameter(query="open", max_items=ROWS)] = None,
) -> Stream:
    """What came of those that are shown without a result, and how many are newer."""
    chosen = _chosen(caller=caller, action=action, request_id=request_id, since=since, until=until)
    wanted = _wanted(chosen) if newest is not None else None
    return live.stream(request, frame.FRAME, (LOG, View(wanted, newest or 0, frozenset(open_ids or ()))))


async def _find(front: Front, keys: Collection[View]) -> Mapping[View, Mapping[str, str]]:
    ids = list({one for key in keys for one in key.open})
    rows: dict[UUID, list[Entry]] = {}
    for row in await front.readers.run(API, rows_of, ids) if ids else ():
        rows.setdefault(row.request_id, []).append(row)
    newest = {
        wanted: await front.readers.run(API, read_log, wanted, 2 * NEWER_MAX, NUMBER_MAX)
        for wanted in {key.wanted for key in keys if key.wanted is not None}
    }
    return {key: _fragments(key, rows, newest) for key in keys}


def _fragments(
    key: View, rows: Mapping[UUID, Sequence[Entry]], newest: Mapping[Filter, Sequence[Entry]]
) -> dict[str, str]:
    found = {f"result-{one}": _result(_act(rows[one])) for one in key.open if one in rows}
    if key.wanted is not None:
        newer = {row.request_id for row in newest[key.wanted] if row.number > key.newest}
        found["newer"] = render("fragments/newer.html", count=len(newer - key.open), most=NEWER_MAX)
    return found


LOG = Look("operator log", _find)


def _result(act: Act) -> str:
    return render("fragments/act_result.html", one=act)


def _chosen(**given: str | None) -> dict[str, str]:
    return {name: value.strip() for name, value in given.items() if value and value.strip()}


def _wanted(chosen: dict[str, str]) -> Filter:
    try:
        request_id = UUID(chosen["request_id"]) if "request_id" in chosen else None
    except ValueError:
        raise Problem("invalid", f"request_id: {chosen['request_id']!r} is no request ID") from None
    since, until = (time_of(name, chosen.get(name, "")) for name in ("since", "until"))
    return Filter(chosen.get("caller"), chosen.get("action"), request_id, since, until)


async def _acts(front: Front, entries: Sequence[Entry], wanted: Filter, before: int | None) -> list[Act]:
    """The actions of a page's rows. One whose two rows are on two pages is on that of its newer row alone."""
    here: dict[UUID, list[Entry]] = {}
    for entry in entries:
        here.setdefault(entry.request_id, []).append(entry)
    halves = {request_id: rows[0].number for request_id, rows in here.items() if len(rows) == 1}
    if halves:
        for row in await front.readers.run(API, rows_of, list(halves)):
            if row.number == halves[row.request_id]:
                continue
            is_on_a_page_before = before is not None and row.number >= before
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


ROUTES: list[Any] = [log_page, log_stream]
