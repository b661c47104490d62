"""The dead letters as a process keeps them that asks often: each look reads only what is new since the last."""

import time
from datetime import UTC, datetime
from threading import Lock
from typing import NamedTuple

from broker.offsets import TIMEOUT_S, Offsets, Place, topic_ids
from broker.records import Record
from broker.scan import scan
from contracts.topics import DEAD_LETTERS_HANDLED
from operations.dead_letters.handled import Handled, take
from operations.dead_letters.letters import DEAD_LETTERS, Gathered, Letter

BYTES_MAX = 64 * 1024 * 1024
"""Of the records that are kept between looks. Where there are more, each look reads them all."""

IDS_EVERY_S = 10.0
"""How often it is asked whether a topic is another one of the same name."""

LETTER_BYTES = 2_000
"""What a letter takes beside the bytes of its record, roughly."""


class Reading(NamedTuple):
    """The dead letters as they were read, when that was begun, and the same as monotonic seconds."""

    letters: list[Letter]
    at: datetime
    begun_at: float


class KeptLetters:
    """The dead letters on the topics, for any number of threads.

    Args:
        bootstrap: Kafka, ``host:port``.
        bytes_max: of the records that are kept.
    """

    def __init__(self, bootstrap: str, bytes_max: int = BYTES_MAX) -> None:
        self._bootstrap, self._bytes_max = bootstrap, bytes_max
        self._one_at_a_time = Lock()
        self._letters: list[Letter] | None = None
        self._last: Reading | None = None
        self._ids: dict[str, str] = {}
        self._ids_until = 0.0
        self._forget()

    # A client for each look: one that lives to see an answer that comes too late ends the process
    # (https://github.com/confluentinc/librdkafka/issues/4605).
    def read(self, offsets: Offsets | None = None) -> list[Letter]:
        """All dead letters up to now, the oldest refusal first; the same list as long as there is nothing new.

        Args:
            offsets: to query with, no older than this look; by default, its own.

        Raises:
            KafkaException: Kafka does not answer.
            TimeoutError: others who read wait for Kafka already.
        """
        if not self._one_at_a_time.acquire(timeout=TIMEOUT_S):
            raise TimeoutError("the dead letters are being read, and Kafka is slow")
        try:
            at, begun_at = datetime.now(UTC), time.monotonic()
            if self._read_on(offsets or Offsets(self._bootstrap)) or self._letters is None:
                self._letters = self._gathered.letters(self._handled)
            self._last = Reading(self._letters, at, begun_at)
            return self._letters
        except BaseException:
            self._forget()  # what was taken in is not known
            raise
        finally:
            if self._bytes > self._bytes_max:
                self._forget()
            self._one_at_a_time.release()

    def since(self, monotonic_s: float) -> "Reading | None":
        """The last reading, if it was begun then or later, and the letters are not too many to be kept."""
        last = self._last
        return last if last is not None and last.begun_at >= monotonic_s else None

    def _forget(self) -> None:
        self._first: dict[Place, int] = {}
        self._next: dict[Place, int] = {}
        self._handled: dict[str, Handled] = {}
        self._gathered = Gathered()
        self._letters = self._last = None
        self._bytes = 0

    def _read_on(self, offsets: Offsets) -> bool:
        """Take in what has been written since the last look; everything, if a topic is not what it was.

        Returns:
            Whether there was anything.
        """
        topics = [DEAD_LETTERS_HANDLED, *DEAD_LETTERS]
        if time.monotonic() >= self._ids_until:
            ids = topic_ids(offsets.client, topics)
            if ids != self._ids:
                self._forget()
            self._ids, self._ids_until = ids, time.monotonic() + IDS_EVERY_S
        first, ends = offsets.bounds(topics)
        is_less = any(ends.get(place, 0) < end for place, end in self._next.items())
        if is_less or any(first.get(place, 0) != known for place, known in self._first.items()):
            self._forget()  # one is made anew, or somebody has deleted records
        self._first = {place: offset for place, offset in first.items() if place[0] != DEAD_LETTERS_HANDLED}
        # Actions first: a letter acted on meanwhile is then listed as open, and checked again later.
        handled = self._read({place: end for place, end in ends.items() if place[0] == DEAD_LETTERS_HANDLED})
        refused = self._read({place: end for place, end in ends.items() if place[0] != DEAD_LETTERS_HANDLED})
        return handled or refused

    def _read(self, ends: dict[Place, int]) -> bool:
        starts = {place: self._next.get(place, 0) for place, end in ends.items() if end > self._next.get(place, 0)}
        if not starts:
            return False
        for message in scan(self._bootstrap, {topic for topic, _ in starts}, starts, ends):
            if message.topic() == DEAD_LETTERS_HANDLED:
                take(self._handled, message)
            else:
                self._bytes += _size(self._gathered.add(message).record)
        self._next |= {place: ends[place] for place in starts}
        return True


def _size(record: Record) -> int:
    found = sum(len(name) + len(value or b"") for name, value in record.headers)
    return LETTER_BYTES + len(record.key or b"") + len(record.value or b"") + found
