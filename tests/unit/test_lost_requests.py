"""A request that moves on while it is looked for is never called lost, whenever it does."""

from contextlib import nullcontext
from itertools import product
from types import SimpleNamespace
from uuid import uuid4

import pytest

from contracts.topics import WITHDRAWAL_REQUESTS
from operations import lost_requests
from operations.errors import BacklogError
from operations.lost_requests import READ_S_MAX, UNREAD_MAX
from operations.stuck import unasked_of

REQUESTS = WITHDRAWAL_REQUESTS.name
ONE = uuid4()
BODY = f'{{"payment_id": "{ONE}"}}'.encode()
PLACE = (REQUESTS, 0)

OUTBOX, TOPIC, DONE = range(3)
"""Where it is: it goes from one to the next."""

LOOKS = 6
"""At the outbox, what is confirmed, the end of the topic, its records, the dead letters and the saga service."""


class World:
    """A request that moves on right before some of the looks.

    Args:
        place: where it is at first.
        moves: before which looks.
        is_refused: whether the saga service refuses it.
        is_lost: whether its record is deleted as soon as it is written.
        is_cancelled: whether the payment service is to void it.
    """

    def __init__(self, monkeypatch, place, moves, *, is_refused=False, is_lost=False, is_cancelled=False):
        self._is_cancelled = is_cancelled
        self._place, self._moves = place, iter(moves)
        self._is_refused, self._is_lost = is_refused, is_lost
        monkeypatch.setattr(
            lost_requests, "session", lambda dsn: nullcontext(SimpleNamespace(execute=self._execute))
        )
        monkeypatch.setattr(lost_requests, "Offsets", lambda *_, **__: self)
        monkeypatch.setattr(lost_requests, "scan", self._scan)

    def _look(self):
        self._place = min(self._place + next(self._moves), DONE)
        return self._place

    def _execute(self, query, values):
        if query == lost_requests._CANCELLED:
            return SimpleNamespace(fetchall=lambda: [(ONE,)] if self._is_cancelled else [])
        if isinstance(values, dict):
            return [(str(ONE),)] if self._look() == OUTBOX else []
        assert values == (f"{{{ONE}}}",)
        is_known = self._look() == DONE and not self._is_refused and not self._is_lost
        return [] if is_known else [(ONE,)]

    def confirmed(self, group, topics):
        assert (group, topics) == ("settle-saga", [REQUESTS])
        return {PLACE: 8 if self._look() == DONE else 7}

    def bounds(self, topics):
        return {PLACE: 0}, {PLACE: 7 if self._look() == OUTBOX else 8}

    def _scan(self, bootstrap, topics, starts=None):
        if topics == [REQUESTS]:
            assert starts == {PLACE: 7}
            there = self._look() != OUTBOX and not self._is_lost
            return [SimpleNamespace(value=lambda: BODY)] if there else []
        assert topics == [WITHDRAWAL_REQUESTS.dead_letters]
        there = self._look() == DONE and self._is_refused
        return [dead_letter()] if there else []

    def lost(self):
        return lost_requests.still_lost({"api": "api", "payment": "payment", "saga": "saga"}, "kafka", [ONE])


def dead_letter():
    about = [("dlq.service", b"saga"), ("dlq.topic", REQUESTS.encode())]
    return SimpleNamespace(
        topic=lambda: WITHDRAWAL_REQUESTS.dead_letters,
        partition=lambda: 0,
        offset=lambda: 0,
        key=lambda: b"",
        value=lambda: BODY,
        headers=lambda: about,
    )


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("place", [OUTBOX, TOPIC, DONE])
def test_a_request_that_moves_on_is_not_lost(monkeypatch, place, is_refused):
    for moves in product([0, 1, 2], repeat=LOOKS):
        assert World(monkeypatch, place, moves, is_refused=is_refused).lost() == [], moves


def test_a_request_is_lost_that_left_the_outbox_and_arrived_nowhere(monkeypatch):
    assert World(monkeypatch, DONE, [0] * LOOKS, is_lost=True).lost() == [ONE]
    assert World(monkeypatch, OUTBOX, [0] * LOOKS, is_lost=True).lost() == []


def test_what_is_confirmed_of_a_longer_topic_before_is_not_of_the_one_that_was_made_anew(monkeypatch):
    starts = []
    about = SimpleNamespace(confirmed=lambda *_: {PLACE: 900}, bounds=lambda _: ({PLACE: 0}, {PLACE: 8}))
    monkeypatch.setattr(lost_requests, "Offsets", lambda *_, **__: about)
    monkeypatch.setattr(lost_requests, "scan", lambda _, topics, where: starts.append(where) or [])
    assert list(lost_requests._unread("kafka", 1.0)) == []
    assert starts == [{PLACE: 0}]


def test_a_request_that_was_cancelled_is_not_lost(monkeypatch):
    assert World(monkeypatch, DONE, [0] * LOOKS, is_lost=True, is_cancelled=True).lost() == []


class Behind(World):
    """A saga service that has some of its topic's records yet to read, the first of which are deleted."""

    def __init__(self, monkeypatch, first, end):
        super().__init__(monkeypatch, DONE, [0] * LOOKS, is_lost=True)
        self._bounds, self.was_read = ({PLACE: first}, {PLACE: end}), []

    def confirmed(self, group, topics):
        return {PLACE: -1001}

    def bounds(self, topics):
        return self._bounds

    def _scan(self, bootstrap, topics, starts=None):
        self.was_read.append(topics)
        return []

    def _execute(self, query, values=None):
        return super()._execute(query, values) if values is not None else []

    def quickly(self):
        dsns = {"api": "api", "payment": "payment", "saga": "saga"}
        return lost_requests.still_lost(dsns, "kafka", [ONE], READ_S_MAX)


def test_a_quick_look_reads_nothing_where_much_is_unread_and_says_so(monkeypatch):
    behind = Behind(monkeypatch, 1_000_000, 1_000_001 + UNREAD_MAX)
    with pytest.raises(BacklogError, match=f"it is behind by {UNREAD_MAX + 1:,} records of {REQUESTS}") as error:
        behind.quickly()
    assert (unasked_of(error.value), behind.was_read) == ("the saga service", [])
    assert unasked_of(TimeoutError("Kafka is silent")) == "Kafka"
    assert behind.lost() == [ONE]  # who has time reads

    assert Behind(monkeypatch, 1_000_000, 1_000_000 + UNREAD_MAX).quickly() == [ONE]


def test_all_requests_that_the_saga_service_does_not_know_are_looked_for_in_one_pass(monkeypatch):
    many, read = [uuid4() for _ in range(120_000)], []
    monkeypatch.setattr(lost_requests, "session", lambda dsn, **_: nullcontext(dsn))
    monkeypatch.setattr(
        lost_requests, "_accepted", lambda *_: (many[at : at + 5_000] for at in range(0, 120_000, 5_000))
    )
    monkeypatch.setattr(lost_requests, "unknown", lambda _, some: some)
    monkeypatch.setattr(lost_requests, "_arrived_nowhere", lambda *of: read.append(of[2]) or [])
    dsns = {"api": "api", "payment": "payment", "saga": "saga"}
    assert lost_requests.lost_requests(dsns, "kafka") == []
    assert read == [many]
    monkeypatch.setattr(lost_requests, "UNKNOWN_MAX", 119_999)
    with pytest.raises(BacklogError, match="it does not know over 119,999 requests yet"):
        lost_requests.lost_requests(dsns, "kafka")
    assert lost_requests.lost_unless_behind(dsns, "kafka", None) is None


def test_of_a_system_without_an_api_nothing_is_lost():
    assert list(lost_requests.lost_requests({"saga": "nowhere"}, "nowhere")) == []
