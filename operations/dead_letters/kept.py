"""The dead letters as a process keeps them that asks often: each look reads only what is new since the last."""

import time
from threading import Lock

from broker.clients import admin
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


class KeptLetters:
    """The dead letters on the topics, for any number of threads.

    Args:
        bootstrap: Kafka, ``host:port``.
        bytes_max: of the records that are kept.
    """

    def __init__(self, bootstrap: str, bytes_max: int = BYTES_MAX) -> None:
        self._bootstrap, self._bytes_max = bootstrap, bytes_max
        self._one_at_a_time = Lock()
        self._ids: dict[str, str] = {}
        self._ids_until = 0.0
        self._forget()

    def read(self) -> list[Letter]:
        """All dead letters up to now, the oldest refusal first.

        Raises:
            KafkaException: Kafka does not answer.
            TimeoutError: others who read wait for Kafka already.
        """
        if not self._one_at_a_time.acquire(timeout=TIMEOUT_S):
            raise TimeoutError("the dead letters are being read, and Kafka is slow")
        try:
            self._read_on()
            return self._gathered.letters(self._handled)
        except BaseException:
            self._forget()  # what was taken in is not known
            raise
        finally:
            if self._bytes > self._bytes_max:
                self._forget()
            self._one_at_a_time.release()

    def _forget(self) -> None:
        self._first: dict[Place, int] = {}
        self._next: dict[Place, int] = {}
        self._handled: dict[str, Handled] = {}
        self._gathered = Gathered()
        self._bytes = 0

    def _read_on(self) -> None:
        """Take in what has been written since the last look; everything, if a topic is not what it was."""
        topics = [DEAD_LETTERS_HANDLED, *DEAD_LETTERS]
        # A client for each look: one that lives to see an answer that comes too late ends the process
        # (https://github.com/confluentinc/librdkafka/issues/4605).
        client = admin(self._bootstrap)
        if time.monotonic() >= self._ids_until:
            ids = topic_ids(client, topics)
            if ids != self._ids:
                self._forget()
            self._ids, self._ids_until = ids, time.monotonic() + IDS_EVERY_S
        first, ends = Offsets(self._bootstrap, client).bounds(topics)
        is_less = any(ends.get(place, 0) < end for place, end in self._next.items())
        if is_less or any(first.get(place, 0) != known for place, known in self._first.items()):
            self._forget()  # one is made anew, or somebody has deleted records
        self._first = {place: offset for place, offset in first.items() if place[0] != DEAD_LETTERS_HANDLED}
        # Actions first: a letter acted on meanwhile is then listed as open, and checked again later.
        self._read({place: end for place, end in ends.items() if place[0] == DEAD_LETTERS_HANDLED})
        self._read({place: end for place, end in ends.items() if place[0] != DEAD_LETTERS_HANDLED})

    def _read(self, ends: dict[Place, int]) -> None:
        starts = {place: self._next.get(place, 0) for place, end in ends.items() if end > self._next.get(place, 0)}
        if not starts:
            return
        for message in scan(self._bootstrap, {topic for topic, _ in starts}, starts, ends):
            if message.topic() == DEAD_LETTERS_HANDLED:
                take(self._handled, message)
            else:
                self._bytes += _size(self._gathered.add(message).record)
        self._next |= {place: ends[place] for place in starts}


def _size(record: Record) -> int:
    found = sum(len(name) + len(value or b"") for name, value in record.headers)
    return LETTER_BYTES + len(record.key or b"") + len(record.value or b"") + found
