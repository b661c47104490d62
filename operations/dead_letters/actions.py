"""Actions on dead letters that were chosen before, by a frozen list of IDs, each with its own result.

A letter's ID is the place of its original, and a letter is never removed: an ID names what it named when it was
chosen, whatever has become a dead letter since. A message ID will do as long as one letter alone has it; one whose
message was redriven and refused again has two, and is an error, so that an action never meets the newer one.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from operations.dead_letters.handled import REDRIVEN
from operations.dead_letters.letters import Letter, read_letters
from operations.dead_letters.redrive import Progress, already, discard, send_back

REDRIVE: Final = "redrive"
DISCARD: Final = "discard"

Action = Literal["redrive", "discard"]


class Done(msgspec.Struct, frozen=True):
    """What an action did about one dead letter.

    Attributes:
        id: as it was named.
        place: where it was redriven to, ``<topic>/<partition>@<offset>``.
        error: why nothing was done about it, in one line; None where it was.
        earlier: whether a redrive that was interrupted had sent it, which is on record now.
    """

    id: str
    place: str | None = None
    error: str | None = None
    earlier: bool = False


def act(
    bootstrap: str,
    action: Action,
    ids: Sequence[str],
    note: str | None = None,
    progress: Progress = lambda _: None,
    *,
    unverified: bool = False,
) -> list[Done]:
    """Redrive or discard exactly these letters; what cannot be done for one is its error, and the others are done.

    Safe to repeat: a letter that was redriven already is not sent again.

    Args:
        bootstrap: Kafka, ``host:port``.
        action: ``redrive`` sends originals back to their partition, ``discard`` records that nobody needs to.
        ids: of the letters, or of their messages.
        note: why they are discarded.
        progress: called after each step of a redrive.
        unverified: whether a redrive also sends what :data:`operations.dead_letters.warning.UNVERIFIED` says.

    Raises:
        KafkaException: Kafka does not answer; what was done until then is on record.
    """
    chosen, errors = _chosen(read_letters(bootstrap), ids)
    letters = list({letter.id: letter for letter in chosen.values()}.values())
    refused = {letter.id: why for letter in letters if (why := _refusal(action, letter)) is not None}
    letters = [letter for letter in letters if letter.id not in refused]
    places, earlier = dict[str, str](), frozenset[str]()
    if letters and action == REDRIVE:
        result = send_back(bootstrap, letters, progress, also_unverified=unverified)
        places, refused, earlier = result.places, refused | result.stay, result.earlier
    elif letters:
        refused |= discard(bootstrap, letters, note)
    for name, letter in chosen.items():
        if letter.id in refused:
            errors[name] = refused[letter.id]
    return [
        Done(name, error=errors[name])
        if name in errors
        else Done(name, places.get(chosen[name].id), earlier=chosen[name].id in earlier)
        for name in ids
    ]


def _chosen(letters: Iterable[Letter], ids: Iterable[str]) -> tuple[dict[str, Letter], dict[str, str]]:
    """The letter that each ID names, or why it names none."""
    by_id: dict[str, Letter] = {}
    by_message: defaultdict[str, list[Letter]] = defaultdict(list)
    for letter in letters:
        by_id[letter.id] = letter
        if letter.message_id is not None:
            by_message[letter.message_id].append(letter)
    chosen, errors = {}, {}
    for name in ids:
        named = [by_id[name]] if name in by_id else by_message.get(name, [])
        if len(named) == 1:
            chosen[name] = named[0]
        elif named:
            errors[name] = f"several dead letters have this message: {', '.join(one.id for one in named[:5])}"
        else:
            errors[name] = "there is no such dead letter"
    return chosen, errors


def _refusal(action: Action, letter: Letter) -> str | None:
    """Why an action on a letter is refused; None if it may be."""
    if letter.open or letter.handled is None:
        return None
    return already(letter) if action == DISCARD or letter.handled.action == REDRIVEN else None
