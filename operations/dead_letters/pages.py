"""Lists of dead letters that match a filter, the newest refusal first, a page at a time; and their groups."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from operations.dead_letters.letters import Letter, Refusal, Wanted, choose, read_letters
from operations.errors import CursorError

OPEN: Final = "open"
HANDLED: Final = "handled"
ALL: Final = "all"

State = Literal["open", "handled", "all"]

GROUPS_MAX = 50


class Page(msgspec.Struct, frozen=True):
    """Some dead letters, the newest refusal first.

    Attributes:
        total: how many match and are in the state that was asked for.
        handled: how many match and are redriven or discarded, whatever state was asked for.
        cursor: of the next page; None where there is none.
    """

    letters: list[Letter]
    total: int
    handled: int
    cursor: str | None


def page(
    bootstrap: str, wanted: Wanted, state: State = OPEN, limit: int | None = None, cursor: str | None = None
) -> Page:
    """A page of the dead letters that match. Reads all there are.

    Args:
        bootstrap: Kafka, ``host:port``.
        wanted: the filter.
        state: open ones wait for somebody.
        limit: how many at the most.
        cursor: of the page before; the same filter belongs to it.

    Raises:
        CursorError: it is none of this list's.
        DeadLetterError: no letter has one of the IDs.
        KafkaException: Kafka does not answer.
    """
    return page_of(read_letters(bootstrap), wanted, state, limit, cursor)


def page_of(
    letters: Iterable[Letter], wanted: Wanted, state: State, limit: int | None = None, cursor: str | None = None
) -> Page:
    """The same of letters that were read, the oldest first."""
    every = choose(letters, wanted)
    every.reverse()
    begin = 0
    if cursor is not None:
        # Among those in any state: since the page before, somebody may have acted on the last one.
        places = {letter.id: place for place, letter in enumerate(every)}
        if cursor not in places:
            raise CursorError(f"{cursor!r} is no cursor of this list")
        begin = places[cursor] + 1
    rest = [letter for letter in every[begin:] if _is(letter, state)]
    total = len(rest) + sum(_is(letter, state) for letter in every[:begin])
    shown = rest[:limit]
    more = shown and len(rest) > len(shown)
    return Page(shown, total, sum(not letter.open for letter in every), shown[-1].id if more else None)


class Group(NamedTuple):
    """Dead letters of a topic with one reason, and how many; two services may have refused one for two reasons."""

    topic: str
    reason: str
    letters: int


def matching(letters: Iterable[Letter], wanted: Wanted, state: State) -> list[Letter]:
    """Those that match and are in a state, in their order.

    Raises:
        DeadLetterError: no letter has one of the IDs.
    """
    return [letter for letter in choose(letters, wanted) if _is(letter, state)]


def groups(letters: Sequence[Letter], length_max: int) -> list[Group]:
    """The groups, the largest first, each of as many letters as :class:`Wanted` finds by its topic and reason.

    Args:
        letters: of which some are in several groups.
        length_max: of a reason, which is cut there: a filter takes no longer one.
    """
    texts = Counter(
        (letter.record.topic, frozenset(text.casefold() for one in letter.refusals for text in _said(one)))
        for letter in letters
    )
    reasons = Counter(
        (one.record.topic, refusal.reason[:length_max]) for one in letters for refusal in one.refusals
    )
    found = [
        Group(topic, reason, sum(n for (its, said), n in texts.items() if its == topic and _any(reason, said)))
        for (topic, reason), _ in reasons.most_common(GROUPS_MAX)
    ]
    return sorted(found, key=lambda one: (-one.letters, one.topic, one.reason))


def _said(refusal: Refusal) -> tuple[str, str]:
    return refusal.reason, refusal.error or ""


def _any(reason: str, said: Iterable[str]) -> bool:
    return any(reason.casefold() in text for text in said)


def _is(letter: Letter, state: State) -> bool:
    return state == ALL or letter.open == (state == OPEN)
