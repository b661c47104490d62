"""Lists of dead letters that match a filter, the newest refusal first, a page at a time."""

from typing import Final, Literal

import msgspec

from operations.dead_letters.letters import Letter, Wanted, choose, read_letters
from operations.errors import CursorError

OPEN: Final = "open"
HANDLED: Final = "handled"
ALL: Final = "all"

State = Literal["open", "handled", "all"]


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
    every = choose(read_letters(bootstrap), wanted)
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


def _is(letter: Letter, state: State) -> bool:
    return state == ALL or letter.open == (state == OPEN)
