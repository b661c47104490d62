"""Withdrawals as they stand: one, and their events, as JSON or as a stream."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.params import Parameter
from litestar.response import Stream

from api import access, store
from api.access import Caller
from api.bodies import StrictRequest
from api.follow import is_outage
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.problems import Problem, problems
from api.store import Stored
from api.streams import CHECK_S, HEARTBEAT_S, check_room, stream, wants_stream
from api.texts import amount_text
from api.withdrawals import PATH
from api.withheld import shown_to
from contracts.events import (
    WithdrawalCompensated,
    WithdrawalCompleted,
    WithdrawalRejected,
    WithdrawalRequested,
    same_withdrawal,
)
from operations.accepted import ACCEPTED
from operations.endings import Ending, latest
from operations.events import Recorded, events_of
from processors.saga.decide import REJECTED, is_decided
from processors.saga.status import Status, Step, status_of

PAYMENT_ID_TAKEN = "payment_id_taken"
"""Why a client's withdrawal is rejected whose payment ID is that of one that did not come through the API."""

_ONE = f"{PATH}/{{payment_id:uuid}}"

LastEventId = Annotated[
    str | None, Parameter(header="Last-Event-ID", max_length=100, description="Go on after this event.")
]


class Withdrawal(msgspec.Struct, frozen=True, kw_only=True):
    """A withdrawal as it stands.

    Attributes:
        amount: decimal text, in major units.
        state: ``accepted``, or as ``settle status`` says it.
        reason: why it was rejected or failed.
        finished_by: the event that finished it; of one whose payment ID was taken its own request.
    """

    payment_id: UUID
    account_id: str
    amount: str
    currency: str
    state: str
    reason: str | None
    trace_id: str | None
    requested_at: datetime | None
    finished_at: datetime | None
    finished_by: str | None


class WithdrawalStatus(Withdrawal, frozen=True, kw_only=True):
    """The same with its steps.

    Attributes:
        waiting_for: the step that is next, in words; None once it is finished.
        steps: its events in the order in which they happened.
    """

    waiting_for: str | None
    steps: list[Step]


class Events(msgspec.Struct, frozen=True):
    """Events of a withdrawal in the order in which they were stored; more come after the ID of the last."""

    events: list[Recorded]


@get(
    _ONE,
    summary="See where a withdrawal stands",
    operation_id="getWithdrawal",
    tags=["withdrawals"],
    opt={PERMISSION: access.READ},
    responses=problems("not-found"),
)
async def get_withdrawal(request: StrictRequest, payment_id: UUID) -> WithdrawalStatus:
    """Its state, its steps, and what it waits for."""
    return await standing(request.app.state.front, caller_of(request), payment_id)


async def standing(front: Front, caller: Caller, payment_id: UUID) -> WithdrawalStatus:
    """Where a withdrawal stands, for a caller.

    Raises:
        Problem: there is none that the caller may see, or a database does not answer.
    """
    stored = await visible(front, caller, payment_id)
    status = await front.readers.run("saga", status_of, payment_id)
    if status is None:
        if stored is None:
            raise unknown(payment_id)
        return _of_request(as_accepted(stored))
    if stored is not None and is_anothers(caller, stored, status):
        return _of_request(as_requested(stored, is_taken=is_decided(status.seen)))
    return shown(status)


def _of_request(one: Withdrawal) -> WithdrawalStatus:
    """One of which the saga service has recorded nothing."""
    waits_for = "the relay and the account service" if one.state == ACCEPTED else None
    return WithdrawalStatus(**msgspec.structs.asdict(one), waiting_for=waits_for, steps=[])


def shown(status: Status) -> WithdrawalStatus:
    """One as the saga service knows it."""
    requested = next((step.at for step in status.steps if step.event == "WithdrawalRequested"), None)
    return WithdrawalStatus(
        payment_id=status.payment_id,
        account_id=status.account_id,
        amount=amount_text(status.amount_minor, status.currency),
        currency=status.currency,
        state=status.state,
        reason=status.reason,
        trace_id=status.trace_id,
        requested_at=requested,
        finished_at=status.finished_at,
        finished_by=status.finished_by,
        waiting_for=status.waiting_for,
        steps=status.steps,
    )


@get(
    f"{_ONE}/events",
    summary="Follow a withdrawal",
    operation_id="getWithdrawalEvents",
    tags=["events"],
    opt={PERMISSION: access.READ},
    responses=problems("not-found"),
)
async def get_events(
    request: StrictRequest,
    payment_id: UUID,
    after: Annotated[int, Parameter(ge=0, le=2**63 - 1, description="Only those after this ID.")] = 0,
    last_event_id: LastEventId = None,
) -> Response[Events]:
    """Its events so far, as JSON; with `Accept: text/event-stream` a stream that ends when the withdrawal has.

    Who may not see accounts gets neither the balance nor the address that somebody was notified at.
    """
    front: Front = request.app.state.front
    caller = caller_of(request)
    if last_event_id:
        after = _number(last_event_id)
    stored = await visible(front, caller, payment_id)
    status = await front.readers.run("saga", status_of, payment_id)
    if status is None and stored is None:
        raise unknown(payment_id)
    if after:
        await _check_event(front, payment_id, after)
    if not wants_stream(request):
        events = await front.readers.run("saga", events_of, payment_id, after)
        return Response(Events(shown_to(caller, events, stored)))
    if status is not None and (
        is_taken(caller, stored, status)
        or (status.finished and not await front.readers.run("saga", events_of, payment_id, after, 1))
    ):
        return Response(None, status_code=204)  # type: ignore[arg-type]  # a browser does not come back then
    check_room(request)
    return stream(request, _of_one(front, caller, stored, payment_id, after))  # type: ignore[return-value]  # documented by hand


@get(
    "/v1/events",
    summary="Follow the endings of withdrawals",
    operation_id="followEndings",
    tags=["events"],
    opt={PERMISSION: access.READ},
    responses=problems(),
)
async def follow_endings(request: StrictRequest, last_event_id: LastEventId = None) -> Stream:
    """A stream of what is completed, rejected or compensated from now on; with `Last-Event-ID` after that one.

    A client is told of its own withdrawals, and not of one that was rejected as its payment ID was taken. An `id`
    without data is where the stream begins, to come back to.
    """
    check_room(request)
    front: Front = request.app.state.front
    place = last_event_id if last_event_id else await front.readers.run("saga", latest)
    endings = front.follow.endings(place, CHECK_S)
    # Its first answer comes before the stream's head: an ID that is none is an error, and not a stream that ends.
    first = await anext(endings)
    try:
        check_room(request)  # others have come while this one waited
    except Problem:
        await endings.aclose()
        raise
    return stream(request, _of_all(front, caller_of(request), place, first, endings))


async def visible(front: Front, caller: Caller, payment_id: UUID) -> Stored | None:
    """The request of a withdrawal, if it came through the API.

    Raises:
        Problem: the caller may see only its own, and this is none.
    """
    async with front.connected() as connection:
        stored = await store.find(connection, payment_id)
    if caller.sees_only_its_own and (stored is None or stored.caller != caller.name):
        raise unknown(payment_id)
    return stored


async def _of_one(
    front: Front, caller: Caller, stored: Stored | None, payment_id: UUID, after: int
) -> AsyncGenerator[bytes, None]:
    asked_at = float("-inf")
    async with aclosing(front.follow.withdrawal(payment_id, after, CHECK_S)) as followed:
        async for events in followed:
            yield _shown(caller, events, stored)
            after = events[-1].id if events else after
            is_quiet = not events and time.monotonic() - asked_at >= HEARTBEAT_S
            if is_quiet or any(event.type in _MAY_END for event in events):
                asked_at = time.monotonic()
                try:
                    rest = await _rest(front, caller, stored, payment_id, after)
                except Problem as problem:
                    if not is_outage(problem):
                        raise
                    asked_at = float("-inf")
                    continue
                if rest is not None:
                    yield _shown(caller, rest, stored)
                    return


async def _rest(
    front: Front, caller: Caller, stored: Stored | None, payment_id: UUID, after: int
) -> list[Recorded] | None:
    """The events of a withdrawal that have been stored since the look before, if it has ended; else None."""
    status = await front.readers.run("saga", status_of, payment_id)
    if status is None or not (status.finished or is_taken(caller, stored, status)):
        return None
    return await front.readers.run("saga", events_of, payment_id, after)


def _shown(caller: Caller, events: Sequence[Recorded], stored: Stored | None) -> bytes:
    return _messages([(str(event.id), event.type, event) for event in shown_to(caller, events, stored)])


async def _of_all(
    front: Front,
    caller: Caller,
    place: str,
    first: list[Ending],
    endings: AsyncGenerator[list[Ending], None],
) -> AsyncGenerator[bytes, None]:
    async with aclosing(endings):
        yield f"id: {place}\n\n".encode()  # who is cut off before its first event misses nothing either
        found: list[Ending] | None = first
        while found is not None:
            # What comes next waits meanwhile.
            while (said := await _endings_for(front, caller, found)) is None:
                yield b""
                await asyncio.sleep(CHECK_S)
            yield said
            found = await anext(endings, None)


async def _endings_for(front: Front, caller: Caller, endings: Sequence[Ending]) -> bytes | None:
    """Messages of those that a caller sees; of the others not even that there are some, as an ID is a payment's.

    None while nobody can be asked whose they are.
    """
    if caller.sees_only_its_own and endings:
        try:
            requests = await front.callers.of(endings)
        except Problem as problem:
            if not is_outage(problem):
                raise
            return None
        endings = [one for one in endings if _is_own(caller, requests.get(one.payment_id), one)]
    return _messages([(one.id, one.state, _as_ending(one)) for one in endings])


def _is_own(caller: Caller, stored: Stored | None, ending: Ending) -> bool:
    return stored is not None and stored.caller == caller.name and same_withdrawal(stored, ending)


def is_anothers(caller: Caller, stored: Stored | None, status: Status) -> bool:
    """Whether what the saga service knows by a payment ID is another withdrawal than a client's own."""
    return caller.sees_only_its_own and stored is not None and not same_withdrawal(stored, status)


def is_taken(caller: Caller, stored: Stored | None, status: Status) -> bool:
    """Whether it is, and stays so: the account service has decided on the other."""
    return is_anothers(caller, stored, status) and is_decided(status.seen)


def _messages(found: Sequence[tuple[str, str, object]]) -> bytes:
    """Server-sent events."""
    return b"".join(
        b"id: %b\nevent: %b\ndata: %b\n\n" % (i.encode(), e.encode(), _in_one_line(d)) for i, e, d in found
    )


def _in_one_line(one: object) -> bytes:
    """Its JSON: in an event as it was received line breaks are white space, and here they would end a field."""
    return _ENCODER.encode(one).translate(_LINE_BREAKS_AS_SPACES)


def as_accepted(stored: Stored) -> Withdrawal:
    """One that the saga service has not recorded yet, as in a list."""
    return Withdrawal(
        payment_id=stored.payment_id,
        account_id=stored.account_id,
        amount=amount_text(stored.amount_minor, stored.currency),
        currency=stored.currency,
        state=ACCEPTED,
        reason=None,
        trace_id=stored.trace_id,
        requested_at=stored.requested_at,
        finished_at=None,
        finished_by=None,
    )


def as_requested(stored: Stored, *, is_taken: bool) -> Withdrawal:
    """One whose payment ID the saga service knows with other contents, as a client sees it, also in a list.

    Args:
        stored: its request.
        is_taken: whether the account service has decided on the other. Until then it may take either of the two.
    """
    one = as_accepted(stored)
    if not is_taken:
        return one
    ended = {"finished_at": stored.requested_at, "finished_by": WithdrawalRequested.__name__}
    return msgspec.structs.replace(one, state=REJECTED, reason=PAYMENT_ID_TAKEN, **ended)


def _as_ending(one: Ending) -> dict[str, Any]:
    found = msgspec.structs.asdict(one)
    return {**found, "amount": amount_text(found.pop("amount_minor"), one.currency)}


def unknown(payment_id: UUID) -> Problem:
    """The problem of a withdrawal that is none, or another caller's."""
    return Problem("not-found", f"there is no withdrawal {payment_id} that this caller may see")


def _number(event_id: str) -> int:
    if not (event_id.isascii() and event_id.isdigit() and int(event_id) < 2**63):
        raise Problem("invalid", f"{event_id!r} is no ID of an event")
    return int(event_id)


async def _check_event(front: Front, payment_id: UUID, number: int) -> None:
    """Refuse the ID of an event that is not this withdrawal's."""
    found = await front.readers.run("saga", events_of, payment_id, number - 1, 1)
    if not found or found[0].id != number:
        raise Problem("invalid", f"{number} is no ID of an event of this withdrawal")


_MAY_END = frozenset(
    kind.__name__ for kind in (WithdrawalCompleted, WithdrawalCompensated, WithdrawalRejected, WithdrawalRequested)
)
"""What a withdrawal may end with: a rejection is an end once the request is stored, which may come second."""

_ENCODER = msgspec.json.Encoder()
_LINE_BREAKS_AS_SPACES = bytes.maketrans(b"\r\n", b"  ")


ROUTES: list[Any] = [get_withdrawal, get_events, follow_endings]
