"""The page of withdrawals: a list by filters in the URL, live without jumping."""

from collections.abc import Collection, Mapping, Sequence
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
from api.console.words import STATES
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.lists import as_listed, listed
from api.pages import PAGE_MAX, PAGE_SIZE, SECONDS_MAX
from api.problems import Problem
from api.statuses import Withdrawal
from api.watch import Look
from api.withdrawals import PATH
from operations.accepted import ACCEPTED
from operations.withdrawals import Listed, Wanted, of_ids, page
from processors.saga.decide import FINISHED

HOME = f"{frame.HOME}/withdrawals"
EVERY_S = 0.8
"""Between two looks: with what a look takes, a change is on the page within a second of its commit."""

NEWER_MAX = 100
"""Newer ones are counted up to here."""

SHORTCUTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("All", {}),
    ("In flight", {"in_flight": "true"}),
    ("Stuck", {"silent_s": "STUCK_S"}),
    ("Compensated", {"state": ["compensated"]}),
    ("Rejected", {"state": ["rejected"]}),
)

Text = Annotated[str | None, Parameter(max_length=200)]
States = Annotated[list[str] | None, Parameter(query="state")]


class Filter(msgspec.Struct, frozen=True):
    """What somebody wants to see, as the URL has it: the parameters of the JSON route, empty ones left out."""

    states: tuple[str, ...] = ()
    account_id: str = ""
    since: str = ""
    until: str = ""
    reason: str = ""
    in_flight: str = ""
    silent_s: str = ""

    @property
    def wanted(self) -> Wanted:
        """The same for the database.

        Raises:
            Problem: a value is none of its kind.
        """
        if wrong := [state for state in self.states if state not in STATES]:
            raise Problem("invalid", f"there is no state {wrong[0]!r}: there are {', '.join(STATES)}")
        return Wanted(
            frozenset(self.states),
            self.account_id or None,
            time_of("since", self.since),
            time_of("until", self.until),
            self.reason or None,
            self.in_flight == "true",
            _seconds(self.silent_s),
        )

    @property
    def exact(self) -> "Filter":
        """The same with whole times, as the JSON route takes them."""
        wanted = self.wanted
        since, until = (at.isoformat() if at else "" for at in (wanted.since, wanted.until))
        return msgspec.structs.replace(self, since=since, until=until)

    def query(self, **more: object) -> str:
        """The URL's query, with more parameters."""
        own = {name: value for name, value in msgspec.structs.asdict(self).items() if value and name != "states"}
        return urlencode({**own, "state": self.states, **more}, doseq=True)


class View(msgspec.Struct, frozen=True):
    """What of a list is shown in a tab.

    Attributes:
        wanted: its filter; None where newer ones are not counted.
        newest: the first one; None where the list is empty.
        open: those that are not finished.
    """

    wanted: Wanted | None
    newest: UUID | None
    open: frozenset[UUID]


@get(HOME, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def withdrawals_page(
    request: StrictRequest,
    states: States = None,
    account_id: Text = None,
    since: Text = None,
    until: Text = None,
    reason: Text = None,
    in_flight: Text = None,
    silent_s: Text = None,
    cursor: Text = None,
) -> Response[str]:
    """The newest first."""
    front: Front = request.app.state.front
    chosen = _filter(states, account_id, since, until, reason, in_flight, silent_s)
    found = await listed(front, caller_of(request), chosen.wanted, PAGE_SIZE, cursor or None)
    shown = found.withdrawals
    open_ids = [str(one.payment_id) for one in shown if one.state not in FINISHED]
    # Those that are not published are shown before all, and the saga service does not know them.
    first = next((str(one.payment_id) for one in shown if one.state != ACCEPTED), None if shown else "")
    watched = {"open": open_ids} | ({} if cursor or first is None else {"newest": first})
    stuck_s = f"{front.settings.stuck_s:g}"
    return await frame.page(
        request,
        "withdrawals.html",
        title="Withdrawals",
        active="withdrawals",
        stream=f"{HOME}/stream?{chosen.query(**watched)}",
        chosen=chosen,
        withdrawals=shown,
        rows={one.payment_id: row(one) for one in shown},
        shortcuts=[(name, _shortcut(about, stuck_s)) for name, about in SHORTCUTS],
        here=chosen.query(),
        is_first=not cursor,
        next_query=chosen.query(cursor=found.cursor) if found.cursor else None,
        json_path=f"{PATH}?{chosen.exact.query()}".rstrip("?"),
    )


@get(f"{HOME}/stream", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def withdrawals_stream(
    request: StrictRequest,
    states: States = None,
    account_id: Text = None,
    since: Text = None,
    until: Text = None,
    reason: Text = None,
    in_flight: Text = None,
    silent_s: Text = None,
    newest: Text = None,
    open_ids: Annotated[list[UUID] | None, Parameter(query="open", max_items=PAGE_MAX)] = None,
) -> Stream:
    """The states of those that are shown, and how many are newer."""
    chosen = _filter(states, account_id, since, until, reason, in_flight, silent_s)
    wanted = chosen.wanted
    view = View(wanted if newest is not None else None, _uuid(newest), frozenset(open_ids or ()))
    return live.stream(request, frame.FRAME, (LISTS, view))


async def _find(front: Front, keys: Collection[View]) -> Mapping[View, Mapping[str, str]]:
    ids = {one for key in keys for one in (*key.open, key.newest) if one is not None}
    rows = await front.readers.run("saga", of_ids, list(ids)) if ids else []
    known = {one.payment_id: one for one in rows}
    newest = {
        wanted: (await front.readers.run("saga", page, wanted, NEWER_MAX)).withdrawals
        for wanted in {key.wanted for key in keys if key.wanted is not None}
    }
    return {key: _fragments(key, known, newest) for key in keys}


def _fragments(
    key: View, known: Mapping[UUID, Listed], newest: Mapping[Wanted, Sequence[Listed]]
) -> dict[str, str]:
    found = {f"row-{one}": row(as_listed(known[one])) for one in key.open if one in known}
    if key.wanted is not None:
        first = known.get(key.newest) if key.newest is not None else None
        count = sum(first is None or _place(one) > _place(first) for one in newest[key.wanted])
        found["newer"] = render("fragments/newer.html", count=count, most=NEWER_MAX)
    return found


LISTS = Look("withdrawals", _find, EVERY_S)


def row(one: Withdrawal) -> str:
    """The cells of a withdrawal."""
    return render("fragments/row.html", one=one)


def _place(one: Listed) -> tuple[datetime, UUID]:
    return one.created_at, one.payment_id


def _filter(states: list[str] | None, *values: str | None) -> Filter:
    return Filter(
        tuple(dict.fromkeys(one for one in states or () if one)), *((one or "").strip() for one in values)
    )


def _shortcut(about: Mapping[str, Any], stuck_s: str) -> tuple[str, Filter]:
    known = {"states": tuple(about["state"])} if "state" in about else dict(about)
    chosen = Filter(**known)
    if chosen.silent_s:
        chosen = msgspec.structs.replace(chosen, silent_s=stuck_s)
    return chosen.query(), chosen


def time_of(name: str, text: str) -> datetime | None:
    """A time as a person or a form writes it, without a zone in UTC."""
    try:
        at = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise Problem("invalid", f"{name}: {text!r} is no time such as 2026-11-30T02:15") from None
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text) if text else None
    except ValueError:
        raise Problem("invalid", f"silent_s: {text!r} is no number of seconds") from None
    if seconds is not None and not 0 <= seconds <= SECONDS_MAX:
        raise Problem("invalid", f"silent_s: {text} is not between 0 and {SECONDS_MAX}")
    return seconds


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        raise Problem("invalid", f"{text!r} is no payment ID") from None


ROUTES: list[Any] = [withdrawals_page, withdrawals_stream]
