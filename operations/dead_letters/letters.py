"""The dead letters on the topics: their originals, the reasons, and whether each is still open.

A dead letter is named by the place of its original, ``<topic>/<partition>@<offset>``, as the services' logs name
it. Two services that refuse the same message, or one that refuses it twice around a crash, make one dead letter.
One that does not say where its original is, names another topic than the one whose dead letters these are, or
names the place of a different message (a topic made anew counts from 0 again, and others may write here), is named
by its own place, so that it hides no other, and steers no redrive elsewhere.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from confluent_kafka import Message

from broker.records import Record
from broker.scan import scan
from contracts import headers
from contracts.services import TOPICS
from operations.dead_letters.errors import DeadLetterError
from operations.dead_letters.handled import Handled, place_of, read_handled
from processors.runtime import utc

DEAD_LETTERS = tuple(topic.dead_letters for topic in TOPICS)
"""The topics that have them."""

_OURS = "dlq."
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


class Gathered:
    """Dead letters as they are made of records, each added in the order of its topic."""

    def __init__(self) -> None:
        self._letters: defaultdict[str, list[Letter]] = defaultdict(list)

    def add(self, message: Message) -> Letter:
        """Take a record of a dead-letter topic in; the letter that it alone would be."""
        letter = letter_of(message)
        there = self._letters[letter.id]
        known = next((one for one in there if _is_one(one.record, letter.record)), None)
        if known is None:
            if there:
                letter.id = place_of(message)
            there.append(letter)
            return letter
        known.refusals += letter.refusals
        if letter.record.lacks is None:
            known.record = letter.record
        return letter

    def letters(self, handled: Mapping[str, Handled]) -> list[Letter]:
        """Those so far, the oldest refusal first, with the last action on each; they stay as they are now."""
        found = [
            Letter(letter.id, letter.record, [*letter.refusals], handled.get(letter.id))
            for there in self._letters.values()
            for letter in there
        ]
        return sorted(found, key=_age)


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
    """How many open dead letters each service has refused; keeps no letter in memory.

    Raises:
        KafkaException: Kafka does not answer.
    """
    handled = read_handled(bootstrap)
    counted: set[tuple[str, str]] = set()
    for message in scan(bootstrap, DEAD_LETTERS):
        letter = letter_of(message)
        letter.handled = handled.get(letter.id)
        if letter.open:
            counted.add((letter.refusals[-1].service, letter.id))
    return dict(Counter(service for service, _ in sorted(counted)))


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


def still_open(bootstrap: str, letters: Iterable[Letter]) -> list[Letter]:
    """Those of the letters that are still open now, read afresh.

    Raises:
        KafkaException: Kafka does not answer.
    """
    handled = read_handled(bootstrap)
    letters = [msgspec.structs.replace(letter, handled=handled.get(letter.id)) for letter in letters]
    return [letter for letter in letters if letter.open]


def still_open_of(bootstrap: str, letters: Mapping[UUID, list[Letter]]) -> dict[UUID, list[Letter]]:
    """The letters of each withdrawal that are still open now; only those withdrawals that have any.

    Raises:
        KafkaException: Kafka does not answer.
    """
    every = [letter for some in letters.values() for letter in some]
    opened = {letter.id for letter in still_open(bootstrap, every)} if every else set()
    still = {key: [letter for letter in some if letter.id in opened] for key, some in letters.items()}
    return {key: some for key, some in still.items() if some}


def _names(letter: Letter) -> set[str | None]:
    return {letter.id, letter.message_id, letter.payment_id}


def _age(letter: Letter) -> tuple[datetime, str, int, int]:
    at = letter.refusals[0].at
    record = letter.record
    return at or _NO_TIME, record.topic, record.partition, record.offset


def _is_one(one: Record, other: Record) -> bool:
    """Whether two records of one place can be the same: a stub is incomplete, whole ones must be equal."""
    return one.lacks is not None or other.lacks is not None or one == other


def letter_of(message: Message) -> Letter:
    """A record of a dead-letter topic as a letter with one refusal."""
    found = headers.of(message) or []
    about: Mapping[str, str | None] = {
        name: headers.text(found, name) for name, _ in found if name.startswith(_OURS)
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
        [(name, value) for name, value in found if not name.startswith(_OURS)],
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
