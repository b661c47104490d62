"""Dead letters beside their originals: which ones are byte for byte what is on their topic.

Each service may write dead letters of every topic that it reads, and events to none. So what a letter says is
believed only where its topic says the same: otherwise a redrive would publish whatever somebody has written there.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from confluent_kafka import Message

from broker.offsets import Offsets, Place
from broker.scan import scan_ranges
from contracts import headers
from operations.dead_letters.letters import Letter

BETWEEN_MAX = 10_000
"""Records between two originals that are read rather than passed over: about what one fetch more costs."""


def unverified(bootstrap: str, letters: Iterable[Letter]) -> dict[str, str]:
    """Those that are not byte for byte what is at the place of their original, by name, and why not.

    Those whose partition does not exist are left out: they cannot be sent anyway.

    Args:
        bootstrap: Kafka, ``host:port``.
        letters: whole ones.

    Raises:
        KafkaException: Kafka does not answer.
    """
    wanted: defaultdict[Place, defaultdict[int, list[Letter]]] = defaultdict(lambda: defaultdict(list))
    for letter in letters:
        wanted[letter.record.topic, letter.record.partition][letter.record.offset].append(letter)
    first, end = Offsets(bootstrap).bounds({topic for topic, _ in wanted})
    there = [some for place, some in wanted.items() if place in first]
    left = {letter.id: letter for some in there for them in some.values() for letter in them}
    others = set[str]()
    runs = {
        place: _runs([offset for offset in sorted(some) if first[place] <= offset < end[place]])
        for place, some in wanted.items()
        if place in first
    }
    for message in scan_ranges(bootstrap, runs):
        for letter in _wanted_at(message, wanted):
            if _is_original(message, letter):
                left.pop(letter.id, None)
            else:
                others.add(letter.id)
    return {
        name: f"unverified: another message is at {letter.record.place}"
        if name in others
        else f"unverified: its original is gone from {letter.record.topic}"
        for name, letter in left.items()
    }


def _runs(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending offsets as ranges to read, each from its first to before its end."""
    found: list[tuple[int, int]] = []
    for offset in offsets:
        if found and offset - found[-1][1] < BETWEEN_MAX:
            found[-1] = found[-1][0], offset + 1
        else:
            found.append((offset, offset + 1))
    return found


def _wanted_at(message: Message, wanted: dict[Place, defaultdict[int, list[Letter]]]) -> Iterator[Letter]:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    yield from wanted[topic, partition].get(offset, ())


def _is_original(message: Message, letter: Letter) -> bool:
    record, found = letter.record, headers.of(message)
    is_body = message.key() == record.key and message.value() == record.value
    return is_body and found is not None and headers.of_the_original(found) == record.headers
