"""Dead letters over HTTP: listed, shown, redriven and discarded by a list of IDs."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.params import Parameter

from api import access
from api.acts import ON_A_LIST
from api.bodies import StrictRequest
from api.front import Front
from api.guard import PERMISSION
from api.journal import Reason, written_down
from api.pages import PAGE_SIZE, Limit, opened, sealed
from api.problems import Problem, problems
from operations.dead_letters import actions
from operations.dead_letters.actions import Done, act
from operations.dead_letters.letters import Letter, Wanted, named
from operations.dead_letters.pages import OPEN, Page, State, page_of
from operations.dead_letters.view import DeadLetter, view
from operations.dead_letters.warning import UNVERIFIED

T = TypeVar("T")

PATH = "/v1/dead-letters"
ID_LENGTH_MAX = 300
LETTERS_MAX = 1_000
"""Letters that one request acts on."""

PAGE_BYTES_MAX = 8 * 1024 * 1024
"""Of contents on a page, which is shorter where letters are large."""

NAMED_MAX = 300
"""Letters that are asked for by name: the head of a request is bounded."""

Text = Annotated[str | None, Parameter(max_length=ID_LENGTH_MAX)]


class DeadLetters(msgspec.Struct, frozen=True):
    """A page, the newest refusal first; it has fewer than its limit where their contents are large.

    Attributes:
        total: how many match, in the state that was asked for.
        handled: how many match and are redriven or discarded, whatever state was asked for.
        cursor: for the next page; None where there is none.
    """

    dead_letters: list[DeadLetter]
    total: int
    handled: int
    cursor: str | None


class Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dead letters that an action is for, and why.

    Attributes:
        ids: as they are listed, or of messages.
    """

    ids: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LENGTH_MAX)]],
        msgspec.Meta(min_length=1, max_length=LETTERS_MAX, examples=[["account.events/0@17"]]),
    ]
    reason: Reason


class Redrive(Chosen, frozen=True, forbid_unknown_fields=True):
    """The same of those that go back to their topic."""

    unverified: Annotated[bool, msgspec.Meta(description=UNVERIFIED)] = False


class Results(msgspec.Struct, frozen=True):
    """What came of each.

    Attributes:
        request_id: of the action, in the log of what operators do.
        results: in the order of the IDs.
    """

    request_id: UUID
    results: list[Done]


@get(
    PATH,
    summary="List dead letters",
    operation_id="listDeadLetters",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems("not-found"),
)
async def list_dead_letters(
    request: StrictRequest,
    which: Annotated[State, Parameter(query="state", description="Open ones wait for somebody.")] = OPEN,
    ids: Annotated[
        list[Annotated[str, Parameter(max_length=ID_LENGTH_MAX)]] | None,
        Parameter(
            query="id",
            max_items=NAMED_MAX,
            description="Of a dead letter, its message or its withdrawal; repeat it. Each has to name one.",
        ),
    ] = None,
    topic: Text = None,
    event_type: Text = None,
    payment_id: Annotated[UUID | None, Parameter(description="Only of this withdrawal.")] = None,
    reason: Annotated[
        str | None, Parameter(max_length=ID_LENGTH_MAX, description="Part of the reason or error.")
    ] = None,
    contents: Annotated[bool, Parameter(description="With key, headers and body of each.")] = True,
    limit: Limit = PAGE_SIZE,
    cursor: Annotated[
        str | None, Parameter(max_length=ID_LENGTH_MAX, description="As the page before gave it.")
    ] = None,
) -> DeadLetters:
    """The newest first."""
    of = str(payment_id) if payment_id is not None else None
    wanted = Wanted(tuple(ids or ()), topic, event_type, reason, of)
    return await found(request.app.state.front, wanted, which, limit, cursor, contents=contents)


async def found(
    front: Front,
    wanted: Wanted,
    which: State = OPEN,
    limit: int = PAGE_SIZE,
    cursor: str | None = None,
    *,
    contents: bool = True,
) -> DeadLetters:
    """A page of the dead letters that match.

    Raises:
        Problem: the cursor is not one of this list, or Kafka does not answer.
    """
    return await front.operators.run(
        lambda: of_letters(front.letters.read(), wanted, which, limit, cursor, contents=contents)
    )


def of_letters(
    letters: Sequence[Letter],
    wanted: Wanted,
    which: State = OPEN,
    limit: int = PAGE_SIZE,
    cursor: str | None = None,
    *,
    contents: bool = True,
) -> DeadLetters:
    """The same of letters that were read.

    Raises:
        DeadLetterError: no letter has one of the IDs.
        Problem: the cursor is not one of this list.
    """
    found = page(letters, wanted, which, limit, cursor)
    if contents and (fitting := _fitting(found.letters)) < len(found.letters):
        found = page(letters, wanted, which, fitting, cursor)
    shown = [view(one, contents=contents) for one in found.letters]
    return DeadLetters(shown, found.total, found.handled, found.cursor)


def _fitting(letters: Sequence[Letter]) -> int:
    """How many of some letters a page has room for: at least one."""
    size = 0
    for number, letter in enumerate(letters):
        size += len(letter.record.key or b"") + len(letter.record.value or b"")
        size += sum(len(value or b"") for _, value in letter.record.headers)
        if size > PAGE_BYTES_MAX:
            return max(number, 1)
    return len(letters)


def page(letters: Iterable[Letter], wanted: Wanted, which: State, limit: int, cursor: str | None) -> Page:
    """A page of letters, the oldest first, with the API's cursors.

    Raises:
        DeadLetterError: no letter has one of the IDs.
        Problem: the cursor is not one of this list.
    """
    of = ("dead letters", which, wanted)
    found = page_of(letters, wanted, which, limit, opened(cursor, *of))
    return msgspec.structs.replace(found, cursor=sealed(found.cursor, *of))


@get(
    f"{PATH}/{{topic:str}}/{{place:str}}",
    summary="See a dead letter",
    operation_id="getDeadLetter",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems("not-found"),
)
async def get_dead_letter(
    request: StrictRequest,
    topic: Annotated[str, Parameter(description="Of its ID, what is before the slash.")],
    place: Annotated[str, Parameter(description="Of its ID, what is after the slash: partition@offset.")],
) -> DeadLetter:
    """All that is known of it: why, where, when, headers and body."""
    front: Front = request.app.state.front
    name = f"{topic}/{place}"
    return view(await front.operators.run(lambda: named(front.letters.read(), name)))


async def among_recent(
    front: Front, find: Callable[[Sequence[Letter]], T], is_enough: Callable[[T], bool] = lambda _found: True
) -> tuple[T, datetime]:
    """What a page finds among the dead letters of the last look, and when they were read.

    Where that is old, lacks an ID that is asked for, or what was found is not enough, they are read now.

    Raises:
        Problem: there is no such letter, or Kafka does not answer.
    """
    await front.looks.within(0)  # so that there is a look for whoever comes next
    if (last := front.looks.letters()) is not None:
        try:
            found = await front.operators.run(find, last.letters)
            if is_enough(found):
                return found, last.at
        except Problem as problem:
            if problem.kind != "not-found":
                raise
    at = datetime.now(UTC)
    return await front.operators.run(lambda: find(front.letters.read())), at


@post(f"{PATH}/redrive", summary="Redrive dead letters", operation_id="redriveDeadLetters", **ON_A_LIST)
async def redrive_dead_letters(request: StrictRequest, data: Redrive) -> Results:
    """Send exactly these back to their partition, each once; each has its own result."""
    return await _act(request, actions.REDRIVE, data, unverified=data.unverified)


@post(f"{PATH}/discard", summary="Discard dead letters", operation_id="discardDeadLetters", **ON_A_LIST)
async def discard_dead_letters(request: StrictRequest, data: Chosen) -> Results:
    """Put on record that nobody needs to look at exactly these; each has its own result."""
    return await _act(request, actions.DISCARD, data)


async def _act(
    request: StrictRequest, action: actions.Action, chosen: Chosen, *, unverified: bool = False
) -> Results:
    operators = request.app.state.front.acting
    name = f"{action} dead letters, also unverified" if unverified else f"{action} dead letters"
    async with written_down(request, name, chosen.ids, chosen.reason) as written:
        done = await operators.run(
            lambda: act(operators.bootstrap, action, chosen.ids, chosen.reason, unverified=unverified)
        )
        written.result = result = Results(written.request_id, done)
    return result


ROUTES: list[Any] = [list_dead_letters, get_dead_letter, redrive_dead_letters, discard_dead_letters]
