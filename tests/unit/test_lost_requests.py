"""A request that moves on while it is looked for is never called lost, whenever it does."""

from contextlib import nullcontext
from itertools import product
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest

from broker import scan
from contracts.topics import WITHDRAWAL_REQUESTS
from operations import lost_requests
from operations.dead_letters.letters import TOO_MANY
from operations.errors import BacklogError, UnaskedError
from operations.lost_requests import READ_S_MAX, UNREAD_MAX
from operations.stuck import unasked_of

REQUESTS = WITHDRAWAL_REQUESTS.name
ONE = uuid4()
BODY = f'{{"payment_id": "{ONE}"}}'.encode()
CONTENTS = ("acct-1", 500, "USD")
DSNS = {name: name for name in ("api", "payment", "saga")}
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
        cancelled: contents of the cancellation that the payment service has of it, if there is one.
    """

    def __init__(self, monkeypatch, place, moves, *, is_refused=False, is_lost=False, cancelled=None):
        self._cancelled = cancelled
        self._place, self._moves = place, iter(moves)
        self._is_refused, self._is_lost = is_refused, is_lost
        monkeypatch.setattr(
            lost_requests, "session", lambda dsn, **_: nullcontext(SimpleNamespace(execute=self._execute))
        )
        monkeypatch.setattr(lost_requests, "Offsets", lambda *_, **__: self)
        monkeypatch.setattr(lost_requests, "scan", self._scan)

    def _look(self):
        self._place = min(self._place + next(self._moves), DONE)
        return self._place

    def _execute(self, query, values):
        if query == lost_requests._CANCELLATIONS:
            return [(ONE, *self._cancelled)] if self._cancelled is not None else []
        if query == lost_requests._CONTENTS:
            return [(ONE, *CONTENTS)]
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
        return [dead_letter_of("saga")] if there else []

    def lost(self):
        """Whether it was cancelled, by payment ID."""
        return lost_requests.still_lost(DSNS, "kafka", [ONE])


def dead_letter_of(service):
    about = [("dlq.service", service.encode()), ("dlq.topic", REQUESTS.encode())]
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
        assert World(monkeypatch, place, moves, is_refused=is_refused).lost() == {}, moves


def test_a_request_is_lost_that_left_the_outbox_and_arrived_nowhere(monkeypatch):
    assert World(monkeypatch, DONE, [0] * LOOKS, is_lost=True).lost() == {ONE: False}
    assert World(monkeypatch, OUTBOX, [0] * LOOKS, is_lost=True).lost() == {}


def test_what_is_confirmed_of_a_longer_topic_before_is_not_of_the_one_that_was_made_anew(monkeypatch):
    starts = []
    about = SimpleNamespace(confirmed=lambda *_: {PLACE: 900}, bounds=lambda _: ({PLACE: 0}, {PLACE: 8}))
    monkeypatch.setattr(lost_requests, "Offsets", lambda *_, **__: about)
    monkeypatch.setattr(lost_requests, "scan", lambda _, topics, where: starts.append(where) or [])
    assert list(lost_requests._unread("kafka", 1.0)) == []
    assert starts == [{PLACE: 0}]


@pytest.mark.parametrize(
    ("cancelled", "counts"),
    [
        (CONTENTS, True),
        (("acct-2", 500, "USD"), False),
        (("acct-1", 501, "USD"), False),
        (("acct-1", 500, "EUR"), False),
    ],
)
def test_a_lost_request_is_settled_by_a_cancellation_with_its_contents_and_named_apart(
    monkeypatch, cancelled, counts
):
    world = World(monkeypatch, DONE, [0] * LOOKS * 3, is_lost=True, cancelled=cancelled)
    assert world.lost() == {ONE: counts}
    monkeypatch.setattr(lost_requests, "_accepted", lambda *_: [[str(ONE)]])
    monkeypatch.setattr(lost_requests, "unknown", lambda *_: [ONE])
    assert lost_requests.lost_requests(DSNS, "kafka") == ([] if counts else [ONE])
    assert lost_requests.lost_requests(DSNS, "kafka", [ONE]) == [ONE]


class Table:
    """The API's table: for each of its pages the requests that are old enough, in their order."""

    def __init__(self, pages):
        self._pages, self.steps = pages, []

    def execute(self, query, values=None):
        if values is None:
            return [(len(self._pages),)]
        first, end = (int(values[name].strip("()").split(",")[0]) for name in ("first", "end"))
        self.steps.append((first, end))
        rows = [one for page in self._pages[first:end] for one in page]
        return [(one,) for one in reversed(rows)][: values["limit"]]


def test_the_newest_that_are_old_enough_are_found_behind_however_many_younger_ones(monkeypatch):
    monkeypatch.setattr(lost_requests, "STEP_PAGES", 2)
    monkeypatch.setattr(lost_requests, "EXAMINED_MAX", 3)
    table = Table([["a"], ["b"], ["c", "d"], ["e"], [], [], [], []])
    assert lost_requests.newest_accepted(table, 60.0) == ["e", "d", "c"]
    assert table.steps == [(6, 8), (4, 6), (2, 4)]
    few = Table([["a"], [], [], [], []])
    assert lost_requests.newest_accepted(few, 60.0) == ["a"]
    assert few.steps == [(3, 5), (1, 3), (0, 1)]
    assert lost_requests.newest_accepted(Table([]), 60.0) == []


def test_younger_requests_that_are_too_many_to_look_behind_are_said(monkeypatch):
    monkeypatch.setattr(lost_requests, "NEWEST_S_MAX", -1.0)
    with pytest.raises(BacklogError, match="requests of the last 60 s are too many to look behind") as error:
        lost_requests.newest_accepted(Table([["a"], []]), 60.0)
    assert unasked_of(error.value) == {"the api database": error.value}


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
        return lost_requests.still_lost(DSNS, "kafka", [ONE], READ_S_MAX)


def test_a_quick_look_reads_nothing_where_much_is_unread_and_says_so(monkeypatch):
    behind = Behind(monkeypatch, 1_000_000, 1_000_001 + UNREAD_MAX)
    with pytest.raises(BacklogError, match=f"it is behind by {UNREAD_MAX + 1:,} records of {REQUESTS}") as error:
        behind.quickly()
    assert (unasked_of(error.value), behind.was_read) == ({"the saga service": error.value}, [])
    assert behind.lost() == {ONE: False}  # who has time reads

    assert Behind(monkeypatch, 1_000_000, 1_000_000 + UNREAD_MAX).quickly() == {ONE: False}


@pytest.mark.parametrize("away", [("api", 0), ("saga", 0), ("api", 1)])
def test_a_quick_look_names_the_database_that_does_not_answer(monkeypatch, away):
    silent, opened = psycopg.errors.QueryCanceled("canceling statement due to statement timeout"), []
    world = Behind(monkeypatch, 0, 8)
    world._cancelled = CONTENTS

    def session(dsn):
        opened.append(dsn)
        if (dsn, opened[:-1].count(dsn)) == away:
            raise silent
        return nullcontext(SimpleNamespace(execute=world._execute))

    monkeypatch.setattr(lost_requests, "session", session)
    with pytest.raises(UnaskedError) as error:
        world.quickly()
    assert unasked_of(error.value) == {f"the {away[0]} database": silent}
    opened.clear()
    with pytest.raises(psycopg.errors.QueryCanceled):  # who has time asks all, or fails
        world.lost()


def test_a_quick_look_lists_without_the_payment_database(monkeypatch):
    world = Behind(monkeypatch, 0, 8)

    def session(dsn):
        if dsn == "payment":
            raise psycopg.OperationalError("away")
        return nullcontext(SimpleNamespace(execute=world._execute))

    monkeypatch.setattr(lost_requests, "session", session)
    assert world.quickly() == {ONE: False}


REFUSED = [dead_letter_of("account"), dead_letter_of("account"), dead_letter_of("saga")]


@pytest.mark.parametrize(
    ("topic", "named"),
    [
        (REQUESTS, ("the saga service", "the requests that it has yet to read are too many to look through")),
        (WITHDRAWAL_REQUESTS.dead_letters, ("Kafka", TOO_MANY)),
        (None, None),
    ],
)
def test_a_quick_look_counts_the_time_of_each_topic_from_its_first_record(monkeypatch, topic, named):
    """A client of Kafka's may take longer to connect than its records may take."""
    now = 0.0
    monkeypatch.setattr(scan, "time", SimpleNamespace(monotonic=lambda: now))

    def records(_, topics, starts=None):
        nonlocal now
        now += READ_S_MAX * 2
        for record in [SimpleNamespace(value=lambda: b"{}")] * 3 if topics == [REQUESTS] else REFUSED:
            yield record
            now += READ_S_MAX if topics == [topic] else READ_S_MAX / 3

    behind = Behind(monkeypatch, 0, 8)
    monkeypatch.setattr(lost_requests, "scan", records)
    if named is None:
        assert behind.quickly() == {}  # the saga service refused it
        return
    with pytest.raises(TimeoutError) as error:
        behind.quickly()
    ((what, why),) = unasked_of(error.value).items()
    assert (what, str(why)) == named


def test_all_requests_that_the_saga_service_does_not_know_are_looked_for_in_one_pass(monkeypatch):
    many, read = [uuid4() for _ in range(120_000)], []
    monkeypatch.setattr(lost_requests, "session", lambda dsn, **_: nullcontext(dsn))
    monkeypatch.setattr(
        lost_requests, "_accepted", lambda *_: (many[at : at + 5_000] for at in range(0, 120_000, 5_000))
    )
    monkeypatch.setattr(lost_requests, "unknown", lambda _, some: some)
    monkeypatch.setattr(lost_requests, "_arrived_nowhere", lambda *of: read.append(of[2]) or [])
    assert lost_requests.lost_requests(DSNS, "kafka") == []
    assert read == [many]
    monkeypatch.setattr(lost_requests, "UNKNOWN_MAX", 119_999)
    with pytest.raises(BacklogError, match="it does not know over 119,999 requests yet"):
        lost_requests.lost_requests(DSNS, "kafka")
    assert lost_requests.lost_unless_behind(DSNS, "kafka", None) is None


def test_of_a_system_without_an_api_nothing_is_lost():
    assert list(lost_requests.lost_requests({"saga": "nowhere"}, "nowhere")) == []
