"""Lists of withdrawals: a caller's own as it asked for them, and all, with those that are not published."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import get
from litestar.params import Parameter

from api import access, store
from api.access import Caller
from api.bodies import StrictRequest
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.pages import PAGE_SIZE, SECONDS_MAX, Cursor, Limit, opened, sealed
from api.problems import Problem, problems
from api.statuses import Withdrawal, as_accepted, as_requested
from api.store import Stored
from api.texts import amount_text
from api.withdrawals import PATH
from contracts.events import same_withdrawal
from contracts.services import API
from operations.accepted import ACCEPTED, Waiting, waiting
from operations.withdrawals import Listed, Wanted, of_ids, page
from processors.saga.decide import FINISHED, is_decided
from tracing import TraceContext

State = Literal[
    "accepted",
    "incomplete",
    "requested",
    "deducted",
    "paid",
    "completed",
    "compensating",
    "compensated",
    "rejected",
]
"""Those that a list may be asked for."""


class Withdrawals(msgspec.Struct, frozen=True):
    """A page, the newest first; there are more as long as there is a cursor, also if this page is short."""

    withdrawals: list[Withdrawal]
    cursor: str | None


@get(
    PATH,
    summary="List withdrawals",
    operation_id="listWithdrawals",
    tags=["withdrawals"],
    opt={PERMISSION: access.READ},
    responses=problems(),
)
async def list_withdrawals(
    request: StrictRequest,
    states: Annotated[
        list[State] | None, Parameter(query="state", description="Only those in these states; repeat it.")
    ] = None,
    account_id: Annotated[str | None, Parameter(max_length=64, description="Only of this account.")] = None,
    since: Annotated[datetime | None, Parameter(description="Only those recorded then or later.")] = None,
    until: Annotated[datetime | None, Parameter(description="Only those recorded before then.")] = None,
    reason: Annotated[str | None, Parameter(max_length=200, description="Only with exactly this reason.")] = None,
    in_flight: Annotated[bool, Parameter(description="Only those that are not finished.")] = False,
    silent_s: Annotated[
        float | None,
        Parameter(ge=0, le=SECONDS_MAX, description="Only those without an event for so many seconds."),
    ] = None,
    limit: Limit = PAGE_SIZE,
    cursor: Cursor = None,
) -> Withdrawals:
    """The newest first. A client sees its own; what it has just asked for is among them at once.

    For others, those that the API has accepted and that are not published after seconds come before all.
    """
    wanted = Wanted(frozenset(states or ()), account_id, since, until, reason, in_flight, silent_s)
    return await listed(request.app.state.front, caller_of(request), wanted, limit, cursor)


async def listed(front: Front, caller: Caller, wanted: Wanted, limit: int, cursor: str | None) -> Withdrawals:
    """A page of the withdrawals that match, for a caller.

    Raises:
        Problem: the cursor is not one of this list, or a database does not answer.
    """
    of = ("withdrawals", caller.name if caller.sees_only_its_own else None, wanted)
    place = opened(cursor, *of)
    page_of = _own_page if caller.sees_only_its_own else _whole_page
    withdrawals, last = await page_of(front, caller, wanted, limit, place)
    return Withdrawals(withdrawals, sealed(last, *of))


async def _own_page(
    front: Front, caller: Caller, wanted: Wanted, limit: int, place: str | None
) -> tuple[list[Withdrawal], str | None]:
    """A page of a caller's withdrawals, in the order of their requests, and the place of the next."""
    before = _place(place) if place is not None else (_END, UUID(int=2**128 - 1))
    async with front.connected() as connection:
        stored = await store.of_caller(connection, caller.name, before, limit + 1)
    rest, stored = stored[limit:], stored[:limit]
    known = await front.readers.run("saga", of_ids, [one.payment_id for one in stored])
    by_id = {one.payment_id: one for one in known}
    found = [_own(s, by_id.get(s.payment_id)) for s in stored]
    last = f"{_micros(stored[-1].requested_at)}.{stored[-1].payment_id}" if rest else None
    return [one for one, moved_at in found if _matches(one, moved_at, wanted)], last


def _own(stored: Stored, known: Listed | None) -> tuple[Withdrawal, datetime]:
    """A caller's withdrawal, by what the saga service knows of its payment ID, and when it last moved."""
    if known is None:
        return as_accepted(stored), stored.requested_at
    if not same_withdrawal(stored, known):
        return as_requested(stored, is_taken=is_decided(known.seen)), stored.requested_at
    return as_listed(known), known.updated_at


def _matches(one: Withdrawal, moved_at: datetime, wanted: Wanted) -> bool:
    at = one.requested_at or _EPOCH
    silent_s = (datetime.now(UTC) - moved_at).total_seconds()
    return (
        (not wanted.states or one.state in wanted.states)
        and (wanted.account_id is None or one.account_id == wanted.account_id)
        and (wanted.since is None or at >= wanted.since)
        and (wanted.until is None or at < wanted.until)
        and (wanted.reason is None or one.reason == wanted.reason)
        and not ((wanted.in_flight or wanted.silent_s is not None) and one.state in FINISHED)
        and (wanted.silent_s is None or silent_s > wanted.silent_s)
    )


async def _whole_page(
    front: Front, _: Caller, wanted: Wanted, limit: int, place: str | None
) -> tuple[list[Withdrawal], str | None]:
    """A page of all withdrawals, and the place of the next: those that wait to be published, and then the others.

    The place of a page that begins among the former has the moment of the first page: who is recorded after it has
    been shown, as one that waits.
    """
    shown: list[Withdrawal] = []
    if place is None or place.startswith(_UNPUBLISHED):
        at, before = _unpublished_place(place) if place is not None else (datetime.now(UTC), None)
        found, shown = await _unpublished(front, wanted, limit + 1, before)
        more, shown = len(found) > limit, shown[:limit]
        # Where the saga service knows all of them, their rows are only kept: those before them are no others.
        if shown and (more or len(shown) == limit):
            last = found[:limit][-1]
            return shown, f"{_UNPUBLISHED}{_micros(at)}.{_micros(last.accepted_at)}.{last.payment_id}"
        if place is not None:
            wanted = msgspec.structs.replace(wanted, until=min(at, wanted.until or at))
            place = None
    rest = await front.readers.run("saga", page, wanted, limit - len(shown), place)
    return shown + [as_listed(one) for one in rest.withdrawals], rest.cursor


async def _unpublished(
    front: Front, wanted: Wanted, limit: int, before: tuple[datetime, UUID] | None
) -> tuple[list[Waiting], list[Withdrawal]]:
    """Requests in the API's outbox, and of those the ones that match and that the saga service does not know."""
    if (wanted.states and ACCEPTED not in wanted.states) or wanted.reason is not None:
        return [], []
    if before is None and wanted.until is not None:
        before = wanted.until, UUID(int=0)
    found = await front.readers.run(API, waiting, limit, wanted.account_id, before, wanted.silent_s or 0)
    known = await front.readers.run("saga", of_ids, [one.payment_id for one in found]) if found else []
    others = {one.payment_id for one in known}
    return found, [
        shown
        for one in found
        if one.payment_id not in others and _matches(shown := as_waiting(one), one.accepted_at, wanted)
    ]


def _unpublished_place(place: str) -> tuple[datetime, tuple[datetime, UUID]]:
    at, _, before = place.removeprefix(_UNPUBLISHED).partition(".")
    return _place(f"{at}.{UUID(int=0)}")[0], _place(before)


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def as_waiting(one: Waiting) -> Withdrawal:
    """One that waits to be published."""
    return Withdrawal(
        payment_id=one.payment_id,
        account_id=one.account_id,
        amount=amount_text(one.amount_minor, one.currency),
        currency=one.currency,
        state=ACCEPTED,
        reason=None,
        trace_id=TraceContext(one.traceparent).trace_id or "",
        requested_at=one.requested_at,
        finished_at=None,
        finished_by=None,
    )


def as_listed(one: Listed) -> Withdrawal:
    """One of a list."""
    return Withdrawal(
        payment_id=one.payment_id,
        account_id=one.account_id,
        amount=amount_text(one.amount_minor, one.currency),
        currency=one.currency,
        state=one.state,
        reason=one.reason,
        trace_id=one.trace_id,
        requested_at=one.requested_at,
        finished_at=one.finished_at,
        finished_by=one.finished_by,
    )


def _place(cursor: str) -> tuple[datetime, UUID]:
    microseconds, _, payment_id = cursor.partition(".")
    try:
        return _EPOCH + int(microseconds) * _MICROSECOND, UUID(payment_id)
    except (ValueError, OverflowError):
        raise Problem("invalid", f"{cursor!r} is no cursor of this list") from None


_UNPUBLISHED = "unpublished."
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(9999, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


ROUTES: list[Any] = [list_withdrawals]
