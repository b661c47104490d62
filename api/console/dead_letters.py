"""The pages of dead letters: groups and a list by filters in the URL, and one letter beside its error."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.params import Parameter

from api import access
from api.bodies import StrictRequest
from api.console import contents, frame
from api.dead_letters import ID_LENGTH_MAX, NAMED_MAX, PATH, among_recent, page
from api.front import Front
from api.guard import PERMISSION
from api.pages import PAGE_SIZE
from api.problems import Problem
from operations.dead_letters.letters import Letter, Refusal, Wanted, named
from operations.dead_letters.pages import ALL, HANDLED, OPEN, Group, Page, State, groups, matching
from operations.dead_letters.view import DeadLetter, view

HOME = f"{frame.HOME}/dead-letters"

ITEMS_MAX = 100_000
"""Letters that are chosen by one filter at a time, the oldest."""

TABS: tuple[tuple[str, State], ...] = (("Open", OPEN), ("Handled", HANDLED), ("All", ALL))

Text = Annotated[str | None, Parameter(max_length=ID_LENGTH_MAX)]
Ids = Annotated[
    list[Annotated[str, Parameter(max_length=ID_LENGTH_MAX)]] | None, Parameter(query="id", max_items=NAMED_MAX)
]
Which = Annotated[State, Parameter(query="state")]


class Filter(msgspec.Struct, frozen=True):
    """What somebody wants to see, as the URL has it: the parameters of the JSON route, empty ones left out."""

    state: State = OPEN
    ids: tuple[str, ...] = ()
    topic: str = ""
    event_type: str = ""
    payment_id: str = ""
    reason: str = ""

    @property
    def wanted(self) -> Wanted:
        """The same for the topics.

        Raises:
            Problem: the payment ID is none.
        """
        return Wanted(
            self.ids,
            self.topic or None,
            self.event_type or None,
            self.reason or None,
            _payment_id(self.payment_id) if self.payment_id else None,
        )

    @property
    def is_narrowed(self) -> bool:
        """Whether it is for some letters alone, apart from their state."""
        return not self.wanted.anything

    @property
    def is_group(self) -> bool:
        """Whether it is for those of a topic with a reason."""
        return bool(self.topic and self.reason)

    def query(self, **more: object) -> str:
        """The URL's query, with more parameters."""
        own = {name: value for name, value in msgspec.structs.asdict(self).items() if value and name != "ids"}
        if self.state == OPEN:
            del own["state"]
        return urlencode({**own, "id": self.ids, **more}, doseq=True)

    def of_group(self, group: Group) -> str:
        """The query that opens a group."""
        return msgspec.structs.replace(self, topic=group.topic, reason=group.reason).query()

    def in_state(self, state: State) -> str:
        """The query for another state."""
        return msgspec.structs.replace(self, state=state).query()


class Row(NamedTuple):
    """A letter in the list: as the JSON has it, without contents; its withdrawal, if any; and its last refusal."""

    letter: DeadLetter
    payment_id: UUID | None
    last: Refusal


class Items(msgspec.Struct, frozen=True):
    """The IDs that an action is for, the oldest letter first; ``total`` match."""

    items: list[str]
    total: int


@get(HOME, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def dead_letters_page(
    request: StrictRequest,
    which: Which = OPEN,
    ids: Ids = None,
    topic: Text = None,
    event_type: Text = None,
    payment_id: Text = None,
    reason: Text = None,
    cursor: Text = None,
) -> Response[str]:
    """The newest refusal first; those that match in groups before, as long as that says more than the list."""
    front: Front = request.app.state.front
    chosen = _filter(which, ids, topic, event_type, payment_id, reason)
    wanted = chosen.wanted

    def find(letters: Sequence[Letter]) -> tuple[Page, list[Group]]:
        found = page(letters, wanted, chosen.state, PAGE_SIZE, cursor or None)
        in_groups = (
            [] if chosen.is_group or cursor else groups(matching(letters, wanted, chosen.state), ID_LENGTH_MAX)
        )
        return found, in_groups

    # Who looks for those of one withdrawal has just heard of them: a look may be from before.
    (found, in_groups), read_at = await among_recent(
        front, find, lambda found: found[0].total > 0 or not (payment_id or ids)
    )
    return await frame.page(
        request,
        "dead_letters.html",
        title="Dead letters",
        active="dead-letters",
        chosen=chosen,
        tabs=[(name, state, chosen.in_state(state)) for name, state in TABS],
        groups=[(group, chosen.of_group(group)) for group in in_groups],
        letters=[_row(letter) for letter in found.letters],
        read_at=read_at,
        total=found.total,
        handled=found.handled,
        is_first=not cursor,
        here=chosen.query(),
        next_query=chosen.query(cursor=found.cursor) if found.cursor else None,
        items_path=f"{HOME}/items?{chosen.query()}",
        items_max=ITEMS_MAX,
        path=PATH,
        json_path=f"{PATH}?{chosen.query()}".rstrip("?"),
    )


@get(f"{HOME}/items", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def dead_letters_items(
    request: StrictRequest,
    which: Which = OPEN,
    ids: Ids = None,
    topic: Text = None,
    event_type: Text = None,
    payment_id: Text = None,
    reason: Text = None,
) -> Items:
    """The IDs of all that match now, for an action on exactly these."""
    front: Front = request.app.state.front
    chosen = _filter(which, ids, topic, event_type, payment_id, reason)
    wanted = chosen.wanted

    def find() -> Items:
        found = [letter.id for letter in matching(front.letters.read(), wanted, chosen.state)]
        return Items(found[:ITEMS_MAX], len(found))

    return await front.operators.run(find)


@get(f"{HOME}/{{topic:str}}/{{place:str}}", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def dead_letter_page(request: StrictRequest, topic: str, place: str) -> Response[str]:
    """One letter: the original beside the error."""
    front: Front = request.app.state.front
    letter, read_at = await among_recent(front, lambda letters: named(letters, f"{topic}/{place}"))
    shown = view(letter)
    return await frame.page(
        request,
        "dead_letter.html",
        title=f"{shown.event_type or 'Dead letter'} {letter.id}",
        active="dead-letters",
        letter=shown,
        read_at=read_at,
        payment_id=_uuid(shown.payment_id),
        lacks=letter.record.lacks,
        key=contents.field(letter.record.key),
        headers=[(name, contents.field(value)) for name, value in letter.record.headers],
        body=contents.body(letter.record.value),
        path=PATH,
        json_path=f"{PATH}/{letter.id}",
    )


def _row(letter: Letter) -> Row:
    shown = view(letter, contents=False)
    return Row(shown, _uuid(shown.payment_id), letter.refusals[-1])


def _filter(state: State, ids: list[str] | None, *values: str | None) -> Filter:
    return Filter(state, tuple(one.strip() for one in ids or () if one.strip()), *(one or "" for one in values))


def _payment_id(text: str) -> str:
    if (found := _uuid(text.strip())) is None:
        raise Problem("invalid", f"{text!r} is no payment ID")
    return str(found)


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


ROUTES: list[Any] = [dead_letters_page, dead_letters_items, dead_letter_page]
