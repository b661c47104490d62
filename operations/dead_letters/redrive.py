"""Redrive of dead letters, each once: record the intention, send the original back, record that it is done.

What is sent is on the topic already, at the place that the letter names: that is looked at first. A letter that
cannot be verified so is sent only where a person wants that.

A process that dies between two of these steps leaves an intention. The next redrive looks for the original in its
partition, from the offset that the intention names: if it is there it is recorded as done, else it is sent. So
nothing is lost, and nothing is sent twice, unless two people redrive the same letter in the same second; then
services receive the same message ID twice, which changes nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
from confluent_kafka import KafkaError

from broker.offsets import Offsets
from broker.scan import scan
from contracts import failpoints
from operations.dead_letters.handled import DISCARDED, REDRIVEN, REDRIVING, Handled, Writer, read_handled, same
from operations.dead_letters.letters import Letter
from operations.dead_letters.originals import unverified

CHUNK = 500
"""Letters that share one intention record and one flush."""

Progress = Callable[[int], None]
"""Called with the number of letters done since the last call."""


class Redriven(NamedTuple):
    """What became of letters that were to go back.

    Attributes:
        places: where each is now, by name; also those that an interrupted redrive had sent.
        stay: those that cannot be sent, with the reason.
        earlier: those that an interrupted redrive had sent.
    """

    places: dict[str, str]
    stay: dict[str, str]
    earlier: frozenset[str]


def send_back(
    bootstrap: str,
    letters: Sequence[Letter],
    progress: Progress = lambda _: None,
    *,
    also_unverified: bool = False,
) -> Redriven:
    """Send originals back, byte for byte, to their partition.

    Args:
        bootstrap: Kafka, ``host:port``.
        letters: open or discarded ones; none was redriven before.
        progress: called after each step.
        also_unverified: whether those are sent, too, that :func:`unverified` names.

    Raises:
        KafkaException: Kafka does not answer; what was sent until then is recorded.
    """
    with Writer(bootstrap) as writer:
        arrived = _finish_interrupted(bootstrap, writer, letters)
        progress(len(arrived))
        waiting = [letter for letter in letters if letter.id not in arrived]
        places, stay = dict(arrived), dict[str, str]()
        if not also_unverified:
            stay = unverified(bootstrap, [letter for letter in waiting if letter.record.lacks is None])
            waiting = [letter for letter in waiting if letter.id not in stay]
            progress(len(stay))
        for first in range(0, len(waiting), CHUNK):
            chunk = waiting[first : first + CHUNK]
            sent, refused = _send(bootstrap, writer, chunk)
            places, stay = places | sent, stay | refused
            progress(len(chunk))
    return Redriven(places, stay, frozenset(arrived))


def already(letter: Letter) -> str:
    """What was done about a letter that is handled."""
    assert letter.handled is not None
    to = f" to {letter.handled.place}" if letter.handled.place else ""
    return f"it was {letter.handled.action} already, at {letter.handled.at:%Y-%m-%d %H:%M:%S} UTC{to}"


def discard(bootstrap: str, letters: Sequence[Letter], note: str | None = None) -> dict[str, str]:
    """Record that these, which are open, need no further action; the records stay on their topics.

    Returns:
        Those that somebody has acted on since they were read, with the reason.

    Raises:
        KafkaException: Kafka does not take the record.
    """
    with Writer(bootstrap) as writer:
        stay, now = _acted_on(bootstrap, letters), datetime.now(UTC)
        writer.note({letter.id: Handled(DISCARDED, now, note=note) for letter in letters if letter.id not in stay})
    return stay


def _acted_on(bootstrap: str, letters: Sequence[Letter]) -> dict[str, str]:
    """Letters that somebody has acted on since they were read, by name, and what was done."""
    handled = read_handled(bootstrap)
    found = {}
    for letter in letters:
        now = handled.get(letter.id)
        if now is not None and now != letter.handled:
            changed = msgspec.structs.replace(letter, handled=now)
            found[letter.id] = already(changed) if now.final else "somebody else is redriving it"
    return found


def _send(bootstrap: str, writer: Writer, letters: Sequence[Letter]) -> tuple[dict[str, str], dict[str, str]]:
    """Send some letters back; returns the new places, and those that cannot be sent, with the reason."""
    ends = Offsets(bootstrap).end({letter.record.topic for letter in letters})
    # Those before took their time, and so did verifying: somebody else may have redriven these meanwhile.
    stay = _acted_on(bootstrap, letters)
    for letter in letters:
        if letter.record.lacks is not None:
            stay[letter.id] = f"it is not all of its message ({letter.record.lacks})"
        elif (letter.record.topic, letter.record.partition) not in ends:
            stay[letter.id] = "that partition does not exist any more"
    letters = [letter for letter in letters if letter.id not in stay]
    now = datetime.now(UTC)
    writer.note(
        {
            letter.id: Handled(REDRIVING, now, from_offset=ends[letter.record.topic, letter.record.partition])
            for letter in letters
        }
    )
    failpoints.hit("redrive.intended")
    places = writer.send([letter.record for letter in letters])
    failpoints.hit("redrive.sent")
    now = datetime.now(UTC)
    done: dict[str, Handled] = {}
    for letter, place in zip(letters, places, strict=True):
        if isinstance(place, KafkaError):
            stay[letter.id] = place.str()
        else:
            done[letter.id] = Handled(REDRIVEN, now, place=place)
    writer.note(done)
    return {name: handled.place or "" for name, handled in done.items()}, stay


def _finish_interrupted(bootstrap: str, writer: Writer, letters: Sequence[Letter]) -> dict[str, str]:
    """Record as done what an interrupted redrive had sent; returns the new places of these letters."""
    intended: dict[tuple[str, int], list[Letter]] = defaultdict(list)
    for letter in letters:
        if letter.handled is not None and letter.handled.action == REDRIVING:
            intended[letter.record.topic, letter.record.partition].append(letter)
    if not intended:
        return {}
    starts = {
        place: min(letter.handled.from_offset or 0 for letter in some if letter.handled)
        for place, some in intended.items()
    }
    arrived: dict[str, Handled] = {}
    for message in scan(bootstrap, {topic for topic, _ in starts}, starts):
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        for letter in intended[topic, partition]:
            since = letter.handled.from_offset or 0 if letter.handled else 0
            if letter.id not in arrived and offset >= since and same(message, letter.record):
                arrived[letter.id] = Handled(REDRIVEN, datetime.now(UTC), place=f"{topic}/{partition}@{offset}")
                break
    writer.note(arrived)
    return {name: handled.place or "" for name, handled in arrived.items()}
