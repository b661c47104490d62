"""The dead letters on the topics: their originals, the reasons, and whether each is still open.

A dead letter is named by the place of its original, ``<topic>/<partition>@<offset>``, as the services' logs name
it. Two services that refuse the same message, or one that refuses it twice around a crash, make one dead letter.
One that does not say where its original is, names another topic than the one whose dead letters these are, or
names the place of a different message (a topic made anew counts from 0 again, and others may write here), is named
by its own place, so that it hides no other, and steers no redrive elsewhere.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

import msgspec
from confluent_kafka import Message

from broker.records import Record
from broker.scan import in_time, scan
from contracts import headers
from contracts.services import TOPICS
from operations.dead_letters.errors import DeadLetterError
from operations.dead_letters.handled import Handled, place_of, read_handled
from processors.runtime import utc

DEAD_LETTERS = tuple(topic.dead_letters for topic in TOPICS)
"""The topics that have them."""

NAMES_S_MAX = 2.0
"""Time limit for reading dead letters to name some of them."""

TOO_MANY = "dead letters are too many to look through; `settle dead-letters list` has time"
"""Why who has a time limit gives up reading them."""

_NO_TIME = datetime.min.replace(tzinfo=UTC)
_DIGITS_MAX = 18


class Refusal(msgspec.Struct, frozen=True):
    """Which service refused a message, why and when; the last line of the stack trace, if one was raised."""

    service: str
    reason: str
    error: str | None
    at: datetime | None


class Letter(msgspec.Struct):
    """A message that could not be handled.

    Attributes:
        id: the place of the original; of the letter itself, ``<topic>.dlq/…``, where that is not known.
        record: the original: place, key, value and headers, byte for byte; or what a stub has kept of it.
        refusals: one or more, in the order of the topic.
        handled: the last action on it; None while it is open.
    """

    id: str
    record: Record
    refusals: list[Refusal]
    handled: Handled | None = None

    @property
    def open(self) -> bool:
        """Whether it still needs a person's action."""
        return self.handled is None or not self.handled.final

    @property
    def event_type(self) -> str | None:
        """As its header says."""
        return headers.text(self.record.headers, headers.EVENT_TYPE)

    @property
    def message_id(self) -> str | None:
        """As its header says."""
        return headers.text(self.record.headers, headers.ID)

    @property
    def trace_id(self) -> str | None:
        """Of its withdrawal's trace."""
        return self.record.trace_id

    @property
    def payment_id(self) -> str | None:
        """Of its withdrawal, where the body can be parsed that far."""
        return self.record.payment_id


class Wanted(msgspec.Struct, frozen=True):
    """A filter of dead letters; what is left out matches all.

    Attributes:
        ids: places, message IDs or payment IDs; each must name at least one.
        topic: of the original.
        event_type: by the header.
        reason: part of a reason or of an error, case-insensitive.
        payment_id: of the withdrawal; there need not be one.
    """

    ids: tuple[str, ...] = ()
    topic: str | None = None
    event_type: str | None = None
    reason: str | None = None
    payment_id: str | None = None

    @property
    def anything(self) -> bool:
        """Whether the filter is empty."""
        return self == Wanted()

    def fits(self, letter: Letter) -> bool:
        """Whether a letter matches, apart from its ID."""
        if self.topic not in (None, letter.record.topic) or self.event_type not in (None, letter.event_type):
            return False
        if self.payment_id not in (None, letter.payment_id):
            return False
        if self.reason is None:
            return True
        said = [text for refusal in letter.refusals for text in (refusal.reason, refusal.error or "")]
        return any(self.reason.casefold() in text.casefold() for text in said)


class Names:
    """Names of dead letters; memory holds the place, a digest and an order of each.

    Of several messages that had one place, the first to be refused has the place as its name, whatever order the
    topic's partitions are read in. So all dead letters of a topic are taken in before any is named.
    """

    def __init__(self) -> None:
        self._there: dict[str, dict[bytes, _Order]] = {}

    def add(self, message: Message) -> tuple[Letter, bytes | None]:
        """Take a record of a dead-letter topic in: a letter with one refusal, yet without its name; its digest."""
        letter = letter_of(message)
        digest = _digest(letter.record)
        if digest is not None:
            there, order = self._there.setdefault(letter.id, {}), _order(message)
            there[digest] = min(there.get(digest, order), order)
        return letter, digest

    def name(self, place: str, digest: bytes | None) -> str:
        """The name of a letter of that place; a stub is the first one's."""
        there = self._there.get(place, {})
        if digest not in there or there[digest] == min(there.values()):
            return place
        return there[digest].place

    def of(self, letter: Letter) -> str:
        """The name of a letter as :func:`letter_of` has read it."""
        return self.name(letter.id, _digest(letter.record))


class _Order(NamedTuple):
    """When a dead letter was written, and where: the partitions of a topic have no order between them."""

    at_ms: int
    partition: int
    offset: int
    place: str


def _order(message: Message) -> _Order:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return _Order(message.timestamp()[1], partition, offset, place_of(message))


def _digest(record: Record) -> bytes | None:
    """What distinguishes the records that one place may have had; None for a stub, which may be any of them."""
    if record.lacks is not None:
        return None
    return sha256(msgspec.msgpack.encode((record.key, record.value, record.headers))).digest()


class Gathered:
    """Dead letters as they are made of records, in whatever order these are read."""

    def __init__(self) -> None:
        self._names = Names()
        self._letters: dict[tuple[str, bytes | None], Letter] = {}

    def add(self, message: Message) -> Letter:
        """Take a record of a dead-letter topic in; the letter that it alone would be."""
        letter, digest = self._names.add(message)
        known = self._letters.get((letter.id, digest))
        if known is None:
            self._letters[letter.id, digest] = msgspec.structs.replace(letter, refusals=[*letter.refusals])
        else:
            known.refusals += letter.refusals
        return letter

    def letters(self, handled: Mapping[str, Handled]) -> list[Letter]:
        """Those so far, the oldest refusal first, with the last action on each; they stay as they are now."""
        found: dict[str, Letter] = {}
        for (place, digest), letter in self._letters.items():
            name = self._names.name(place, digest)
            known = found.get(name)
            if known is None:
                found[name] = Letter(name, letter.record, [*letter.refusals], handled.get(name))
                continue
            known.refusals += letter.refusals
            if letter.record.lacks is None:
                known.record = letter.record
        return sorted(found.values(), key=_age)


def read_letters(bootstrap: str) -> list[Letter]:
    """All dead letters on the topics, the oldest refusal first.

    Raises:
        KafkaException: Kafka does not answer.
    """
    # Actions are read first: a letter acted on meanwhile is then listed as open, and checked again later.
    handled = read_handled(bootstrap)
    gathered = Gathered()
    for message in scan(bootstrap, DEAD_LETTERS):
        gathered.add(message)
    return gathered.letters(handled)


def named(letters: Iterable[Letter], name: str) -> Letter:
    """The dead letter with an ID.

    Raises:
        DeadLetterError: there is none.
    """
    found = next((letter for letter in letters if letter.id == name), None)
    if found is None:
        raise DeadLetterError(f"there is no dead letter {name}")
    return found


def count_open(bootstrap: str) -> dict[str, int]:
    """How many open dead letters each service has refused; memory holds their names.

    Raises:
        KafkaException: Kafka does not answer.
    """
    handled = read_handled(bootstrap)
    names, refused = Names(), set[tuple[str, str, bytes | None]]()
    for message in scan(bootstrap, DEAD_LETTERS):
        letter, digest = names.add(message)
        refused.add((letter.refusals[-1].service, letter.id, digest))
    counted = {(service, names.name(place, digest)) for service, place, digest in refused}
    final = {name for name, action in handled.items() if action.final}
    return dict(Counter(service for service, name in sorted(counted) if name not in final))


def choose(letters: Iterable[Letter], wanted: Wanted) -> list[Letter]:
    """The letters that match a filter.

    Raises:
        DeadLetterError: no letter has one of the IDs.
    """
    letters = list(letters)
    if not wanted.ids:
        return [letter for letter in letters if wanted.fits(letter)]
    chosen: dict[str, Letter] = {}
    for name in wanted.ids:
        named = [letter for letter in letters if name in _names(letter)]
        if not named:
            raise DeadLetterError(f"no dead letter {name}; `settle dead-letters list --all` shows them")
        chosen |= {letter.id: letter for letter in named if wanted.fits(letter)}
    return list(chosen.values())


def still_open_of(bootstrap: str, letters: Mapping[UUID, list[Letter]]) -> dict[UUID, list[Letter]]:
    """The letters of each withdrawal that are still open now, under their names; only withdrawals that have any.

    All letters of their topics are read: only who knows the others of a place can name one, and an action on one
    of them says nothing about the others. Where they are too many for that, each has the name of its place, which
    is another's only if its topic was made anew.

    Args:
        bootstrap: Kafka, ``host:port``.
        letters: of each withdrawal, as :func:`letter_of` has read them.

    Raises:
        KafkaException: Kafka does not answer.
    """
    if not letters:
        return {}
    handled, names = read_handled(bootstrap), Names()
    messages = scan(bootstrap, {f"{one.record.topic}.dlq" for some in letters.values() for one in some})
    try:
        for message in in_time(messages, NAMES_S_MAX, TOO_MANY):
            names.add(message)
    except TimeoutError:
        names = Names()
    still = {}
    for key, some in letters.items():
        named = [(letter, names.of(letter)) for letter in some]
        found = [msgspec.structs.replace(one, id=name, handled=handled.get(name)) for one, name in named]
        if opened := [letter for letter in found if letter.open]:
            still[key] = opened
    return still


def _names(letter: Letter) -> set[str | None]:
    return {letter.id, letter.message_id, letter.payment_id}


def _age(letter: Letter) -> tuple[datetime, str, int, int]:
    at = letter.refusals[0].at
    record = letter.record
    return at or _NO_TIME, record.topic, record.partition, record.offset


def letter_of(message: Message) -> Letter:
    """A record of a dead-letter topic as a letter with one refusal."""
    found = headers.of(message) or []
    about: Mapping[str, str | None] = {
        name: headers.text(found, name) for name, _ in found if name.startswith(headers.DEAD_LETTER)
    }
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    # Anybody who may write here can claim anything: a letter goes back to the topic whose dead letters these are.
    origin = topic.removesuffix(".dlq")
    is_from_there = about.get(headers.DEAD_LETTER_TOPIC) == origin
    place = _number(about.get(headers.DEAD_LETTER_PARTITION)), _number(about.get(headers.DEAD_LETTER_OFFSET))
    if not is_from_there:
        place = None, None
    record = Record(
        origin,
        partition if place[0] is None else place[0],
        offset if place[1] is None else place[1],
        message.key(),
        message.value(),
        headers.of_the_original(found),
        about.get(headers.DEAD_LETTER_CUT),
    )
    refusal = Refusal(
        about.get(headers.DEAD_LETTER_SERVICE) or "unknown",
        about.get(headers.DEAD_LETTER_REASON) or "unknown",
        about.get(headers.DEAD_LETTER_ERROR),
        utc.parse(about.get(headers.DEAD_LETTER_AT)),
    )
    return Letter(record.place if None not in place else place_of(message), record, [refusal])


def _number(text: str | None) -> int | None:
    is_number = text is not None and text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX
    return int(text) if text is not None and is_number else None
