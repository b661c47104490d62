"""Which dead letters still wait for somebody, and which withdrawals are known by their dead letters only."""

import time
from datetime import UTC, datetime
from itertools import permutations
from types import SimpleNamespace
from uuid import UUID

import pytest

from contracts import headers
from operations import hold_ups, refused, stuck
from operations.dead_letters import letters
from operations.dead_letters.handled import Handled
from operations.hold_ups import Found

AT = datetime(2026, 11, 28, tzinfo=UTC)
UNKNOWN, KNOWN, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)


def dead(service, offset, payment_id=UNKNOWN, event_type="WithdrawalRequested", topic="withdrawal.requests"):
    """A record of a dead-letter topic."""
    fields = {
        headers.EVENT_TYPE: event_type,
        headers.DEAD_LETTER_TOPIC: topic,
        headers.DEAD_LETTER_PARTITION: "0",
        headers.DEAD_LETTER_OFFSET: str(offset),
        headers.DEAD_LETTER_SERVICE: service,
        headers.DEAD_LETTER_REASON: "amount",
        headers.DEAD_LETTER_AT: AT.isoformat(),
    }
    return SimpleNamespace(
        topic=lambda: f"{topic}.dlq",
        partition=lambda: 0,
        offset=lambda: offset,
        key=lambda: b"acc-1",
        value=lambda: f'{{"payment_id": "{payment_id}"}}'.encode(),
        headers=lambda: [(name, value.encode()) for name, value in fields.items()],
        timestamp=lambda: (1, 0),
    )


@pytest.fixture
def topics(monkeypatch):
    """The records of the dead-letter topics, and what was done about some of them."""
    found = SimpleNamespace(records=[], handled={})
    monkeypatch.setattr(letters, "scan", lambda *_: iter(found.records))
    monkeypatch.setattr(refused, "scan", lambda *_: iter(found.records))
    monkeypatch.setattr(letters, "read_handled", lambda _: found.handled)
    return found


def test_open_dead_letters_are_counted_once_by_the_service_that_refused_them(topics):
    topics.records = [
        dead("account", 1),
        dead("saga", 1),
        dead("saga", 1),  # a second time, around a crash
        dead("saga", 2),
        dead("fraud", 7, topic="account.events"),
    ]
    topics.handled = {"withdrawal.requests/0@2": Handled("discarded", AT)}
    assert letters.count_open("kafka:9092") == {"account": 1, "fraud": 1, "saga": 1}


def at(record, offset, key=b"acc-2"):
    """A record as it is after its topic was made anew: of another message, further on among the dead letters."""
    record.offset, record.key = lambda: offset, lambda: key
    return record


def test_a_new_dead_letter_at_the_place_of_one_that_was_handled_is_open(topics, listed):
    """A topic that was made anew counts from 0 again."""
    old, new = "withdrawal.requests/0@1", "withdrawal.requests.dlq/0@8"
    topics.records = [dead("saga", 1, KNOWN), at(dead("saga", 1), 8), at(dead("account", 1), 9)]
    topics.handled = {old: Handled("discarded", AT)}
    assert letters.count_open("kafka:9092") == {"account": 1, "saga": 1}
    assert [one.payment_id for one in listed()[0]] == [UNKNOWN]
    found = hold_ups_of(topics.records, UNKNOWN, KNOWN)
    assert {key: [one.id for one in some] for key, some in found.items()} == {UNKNOWN: [new, new]}

    topics.handled = {new: Handled("discarded", AT)}
    assert letters.count_open("kafka:9092") == {"saga": 1}
    assert listed()[0] == []
    found = hold_ups_of(topics.records, UNKNOWN, KNOWN)
    assert {key: [one.id for one in some] for key, some in found.items()} == {KNOWN: [old]}


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_of_two_letters_of_one_place_each_keeps_its_name_in_whatever_order_partitions_are_read(topics, order):
    """The older one is in the partition of another key; its stub is of a second service."""
    place, its_own = "withdrawal.requests/0@1", "withdrawal.requests.dlq/0@8"
    older, newer, again = dead("saga", 1, KNOWN), at(dead("saga", 1), 8), at(dead("account", 1), 9)
    older.partition, older.timestamp = lambda: 3, lambda: (1, 1_000)
    newer.timestamp = again.timestamp = lambda: (1, 2_000)
    stub = at(dead("account", 1, KNOWN), 2)
    fields = [*stub.headers(), (headers.DEAD_LETTER_CUT, b"its value")]
    stub.headers, stub.timestamp = lambda: fields, lambda: (1, 1_500)
    topics.records = [(older, newer, again, stub)[number] for number in order]
    topics.handled = {place: Handled("discarded", AT)}
    found = {one.id: one for one in letters.read_letters("kafka:9092")}
    assert {name: (one.payment_id, one.open, len(one.refusals)) for name, one in found.items()} == {
        place: (str(KNOWN), False, 2),
        its_own: (str(UNKNOWN), True, 2),
    }
    assert letters.count_open("kafka:9092") == {"account": 1, "saga": 1}
    opened = hold_ups_of(topics.records, UNKNOWN, KNOWN)
    assert {key: {one.id for one in some} for key, some in opened.items()} == {UNKNOWN: {its_own}}
    gathered = letters.Gathered()
    for record in topics.records:
        gathered.add(record)
        gathered.letters({})  # as a process does that reads on
    assert {one.id: one.payment_id for one in gathered.letters({})} == {place: str(KNOWN), its_own: str(UNKNOWN)}


def hold_ups_of(records, *payment_ids):
    """The open dead letters of some withdrawals, where only theirs were read at first."""
    found = {one: [] for one in payment_ids}
    for record in records:
        letter = letters.letter_of(record)
        found[UUID(letter.payment_id)].append(letter)
    return letters.still_open_of("kafka:9092", found)


def test_a_letter_that_is_only_a_stub_is_the_one_whose_whole_is_there(topics):
    stub = at(dead("account", 1), 9)
    fields = [*stub.headers(), (headers.DEAD_LETTER_CUT, b"its value")]
    stub.headers = lambda: fields
    for records in ([dead("saga", 1), stub], [stub, dead("saga", 1)]):
        gathered = letters.Gathered()
        assert {gathered.add(record).id for record in records} == {"withdrawal.requests/0@1"}
        (one,) = gathered.letters({})
        assert (one.record.lacks, len(one.refusals)) == (None, 2)


def test_where_there_are_too_many_letters_each_has_the_name_of_its_place(topics, listed, monkeypatch):
    monkeypatch.setattr(letters, "NAMES_S_MAX", -1.0)
    topics.records = [dead("saga", 1)]
    assert [one.payment_id for one in listed()[0]] == [UNKNOWN]
    found = hold_ups_of(topics.records, UNKNOWN)
    assert [one.id for one in found[UNKNOWN]] == ["withdrawal.requests/0@1"]


def test_a_dead_letter_goes_back_to_the_topic_whose_dead_letters_hold_it_whatever_it_claims():
    forged = dead("account", 5)
    forged.topic = lambda: "payment.requests.dlq"  # it claims to come from withdrawal.requests
    letter = letters.letter_of(forged)
    assert (letter.record.topic, letter.record.partition) == ("payment.requests", 0)
    assert letter.id == "payment.requests.dlq/0@5"


class Saga:
    """A database of the saga service that knows one withdrawal, which has ended."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def execute(self, _, values):
        (payment_ids,) = values
        return [(KNOWN,)] if KNOWN in payment_ids else []


@pytest.fixture
def listed(topics, monkeypatch):
    """What is listed as stuck of withdrawals that the saga service does not know, and what could not be asked."""
    monkeypatch.setattr(stuck, "session", lambda _: Saga())
    monkeypatch.setattr(stuck.utc, "cursor", lambda _: SimpleNamespace(execute=lambda *_: Rows()))

    def listed(older_than_s=60.0, limit=50):
        monkeypatch.setattr(stuck, "find", lambda *_: Found({}, {}, set(), {}))
        return stuck.stuck({"saga": "saga"}, "kafka:9092", older_than_s, limit)

    return listed


class Rows:
    def fetchall(self):
        return []


def test_a_withdrawal_whose_request_the_saga_service_refused_is_stuck(topics, listed):
    topics.records = [
        dead("account", 1),
        dead("saga", 1),
        dead("account", 2, OTHER),  # the saga service took it
        dead("saga", 3, KNOWN),  # such as a second request with other contents
        dead("saga", 4, "none"),
        dead("saga", 5, OTHER, event_type="CancelRequested"),
    ]
    ((one,), found) = listed()
    assert (one.payment_id, one.state, one.reason, one.since) == (UNKNOWN, "refused", "amount", AT)
    assert one.held_up_by.startswith(
        "WithdrawalRequested, a dead letter: the account and saga services refused it"
    )
    assert found.unasked == {}


def test_what_was_discarded_or_refused_just_now_is_not_stuck(topics, listed):
    topics.records = [dead("saga", 1), dead("saga", 2, OTHER)]
    topics.handled = {"withdrawal.requests/0@2": Handled("discarded", AT)}
    assert [one.payment_id for one in listed()[0]] == [UNKNOWN]
    assert listed(older_than_s=(datetime.now(UTC) - AT).total_seconds() + 60)[0] == []


def test_no_more_are_listed_than_was_asked_for_and_too_many_letters_are_said(topics, listed, monkeypatch):
    topics.records = [dead("saga", number, UUID(int=number)) for number in range(10, 20)]
    assert len(listed(limit=3)[0]) == 3
    monkeypatch.setattr(refused, "READ_S_MAX", -1.0)
    nothing, found = listed()
    assert nothing == []
    assert "too many" in str(found.unasked["Kafka"])


def test_a_kafka_that_connects_slowly_has_not_too_many_letters_to_be_read(topics, monkeypatch):
    """The newer of two letters of one place has a name of its own only where all have been read."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def slowly(*_):
        nonlocal now
        now += 60.0
        yield from topics.records

    for module in (letters, refused, hold_ups):
        monkeypatch.setattr(module, "scan", slowly)
    place = ("withdrawal.requests.dlq", 0)
    offsets = SimpleNamespace(since=lambda *_: {place: 0}, end=lambda _: {place: 9})
    monkeypatch.setattr(hold_ups, "Offsets", lambda *_, **__: offsets)
    topics.records = [dead("saga", 1, KNOWN), at(dead("saga", 1), 8)]

    names = [one.id for one in refused.refused_requests("kafka:9092", lambda _: [KNOWN])[UNKNOWN]]
    assert names == ["withdrawal.requests.dlq/0@8"]
    found = {}
    hold_ups._read_letters("kafka:9092", [hold_ups.Open(UNKNOWN, "acc-1")], found)
    assert [len(some) for some in found.values()] == [1]
