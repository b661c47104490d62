"""Topics against event store: each difference is found, and what is none is not."""

import json
from contextlib import nullcontext
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from contracts.services import NAMES
from operations.audit import again, arrivals
from operations.audit.arrivals import _ON_TOPIC, _STORED, _STORED_TYPES, _TOPICS, _TYPES, _Retained
from operations.audit.spill import BUCKETS, PAGE_ENTRIES, Spill

REQUESTS, OWN = "withdrawal.requests", "withdrawal.events"
KEPT = _Retained({}, 0.0)
PAYMENT = uuid7()


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time passes by sleeping only."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(again, "time", clock)
    return clock


class Record:
    """A record as confluent-kafka hands it out."""

    def __init__(self, topic=REQUESTS, partition=0, offset=0, headers=(), value=b"", timestamp_ms=0):
        self._fields = topic, partition, offset, list(headers), value, timestamp_ms

    def topic(self):
        return self._fields[0]

    def partition(self):
        return self._fields[1]

    def offset(self):
        return self._fields[2]

    def headers(self):
        return self._fields[3]

    def value(self):
        return self._fields[4]

    def key(self):
        return b"acc-1"

    def timestamp(self):
        return 1, self._fields[5]


def on_topic(*entries):
    spill = Spill(_ON_TOPIC.size)
    for message_id, topic, partition, offset in entries:
        spill.add(_ON_TOPIC.pack(message_id.bytes, _TOPICS.index(topic), partition, offset))
    return spill


def stored(*entries):
    spill = Spill(_STORED.size)
    for message_id, event_type, topic, partition, offset in entries:
        kind = _TYPES.index(event_type) if event_type in _TYPES else -1
        place = _TOPICS.index(topic) if topic else -1
        spill.add(_STORED.pack(message_id.bytes, PAYMENT.bytes, kind, place, partition, offset))
    return spill


@pytest.mark.parametrize("count", [0, 1, PAGE_ENTRIES, BUCKETS * PAGE_ENTRIES // 2])
def test_what_was_spilled_is_found_once_in_the_bucket_of_its_id(count):
    ids = [uuid4().bytes for _ in range(count)]
    with Spill(20) as spill, Spill(16) as others:
        for number, one in enumerate(ids):
            spill.add(one + number.to_bytes(4, "big"))
            others.add(one)
        found = {}
        for number in range(BUCKETS):
            entries, same = spill.bucket(number), others.bucket(number)
            here = {entries[at : at + 16]: entries[at + 16 : at + 20] for at in range(0, len(entries), 20)}
            assert len(entries) == 20 * len(here)
            assert {same[at : at + 16] for at in range(0, len(same), 16)} == set(here)
            found |= here
    assert found == {one: number.to_bytes(4, "big") for number, one in enumerate(ids)}


def test_a_full_page_is_on_disk_and_not_in_memory():
    with Spill(16) as spill:
        for _ in range(PAGE_ENTRIES):
            spill.add(bytes(16))
        assert sum(map(len, spill._buffers)) == 0
        spill.add(bytes(16))
        assert sum(map(len, spill._buffers)) == 16
        assert sum(len(spill.bucket(number)) for number in range(BUCKETS)) == 16 * (PAGE_ENTRIES + 1)


def test_ids_spread_over_the_buckets():
    with Spill(16) as spill:
        for _ in range(20 * BUCKETS):
            spill.add(uuid4().bytes)
        sizes = [len(spill.bucket(number)) // 16 for number in range(BUCKETS)]
    assert min(sizes) > 0
    assert max(sizes) < 100


def test_an_event_is_not_lost_where_its_id_is_on_a_topic_at_any_place():
    one = uuid7()
    held = on_topic((one, REQUESTS, 1, 7))
    assert list(arrivals._lost(stored((one, "WithdrawalRequested", REQUESTS, 0, 3)), held, KEPT)) == []


def test_lost_events_are_named_with_their_place():
    one, own, new = uuid7(), uuid7(), uuid7()
    events = stored(
        (one, "WithdrawalRequested", REQUESTS, 2, 3),
        (own, "WithdrawalCompleted", None, -1, -1),
        (new, "New", None, -1, -1),
    )
    assert {one.words for one in arrivals._lost(events, on_topic(), KEPT)} == {
        f"{PAYMENT}: WithdrawalRequested is in the event store, but not on its topic ({REQUESTS}/2@3)",
        f"{PAYMENT}: WithdrawalCompleted is in the event store, but not on {OWN}",
        f"{PAYMENT}: an event is in the event store, but not on {OWN}",
    }


def test_the_first_type_and_topic_are_told_from_none():
    ((_, said),) = arrivals._lost(stored((uuid7(), _TYPES[0], _TOPICS[0], 0, 0)), on_topic(), KEPT)
    assert said == f"{PAYMENT}: {_TYPES[0]} is in the event store, but not on its topic ({_TOPICS[0]}/0@0)"


@pytest.mark.parametrize(("offset", "lost"), [(4, False), (5, True), (6, True)])
def test_what_a_partition_has_dropped_is_not_lost(offset, lost):
    kept = _Retained({(REQUESTS, 0): 5}, 0.0)
    found = list(arrivals._lost(stored((uuid7(), "WithdrawalRequested", REQUESTS, 0, offset)), on_topic(), kept))
    assert bool(found) == lost


@pytest.mark.parametrize(("after_ms", "lost"), [(-1, False), (0, True), (1, True)])
def test_of_the_sagas_own_events_what_is_older_than_the_oldest_record_is_not_lost(after_ms, lost):
    moment_s = 1_800_000_000.0
    one = UUID(int=(int(moment_s * 1000) + after_ms) << 80)
    found = list(
        arrivals._lost(stored((one, "WithdrawalCompleted", None, -1, -1)), on_topic(), _Retained({}, moment_s))
    )
    assert bool(found) == lost


@pytest.mark.parametrize(
    ("topic", "offset", "confirmed", "stranger"),
    [
        (REQUESTS, 3, 3, False),  # not read yet
        (REQUESTS, 3, 4, True),
        (REQUESTS, 0, None, False),
        (OWN, 3, None, True),  # the saga reads it not, it writes it
    ],
)
def test_a_record_that_was_read_belongs_into_the_event_store(topic, offset, confirmed, stranger):
    one = uuid7()
    known = {} if confirmed is None else {(topic, 1): confirmed}
    held = on_topic((one, topic, 1, offset))
    assert list(arrivals._unstored(stored(), held, known)) == ([(topic, 1, offset)] if stranger else [])
    assert list(arrivals._unstored(stored((one, "WithdrawalRequested", REQUESTS, 0, 0)), held, known)) == []


@pytest.mark.parametrize("spelled", [str, lambda one: str(one).upper(), lambda one: one.hex])
def test_an_id_is_the_same_however_it_is_spelled(spelled):
    one = uuid4()
    headers = [("eventType", b"WithdrawalRequested"), ("id", spelled(one).encode())]
    assert arrivals._message_id(Record(headers=headers)) == one


@pytest.mark.parametrize(
    "headers",
    [
        [],
        None,
        [("id", str(uuid4()).encode())],
        [("eventType", b"SomebodyElses"), ("id", str(uuid4()).encode())],
        [("eventType", b"WithdrawalRequested")],
        [("eventType", b"WithdrawalRequested"), ("id", None)],
        [("eventType", b"WithdrawalRequested"), ("id", b"7")],
        [("eventType", b"WithdrawalRequested"), ("id", b"\xff")],
        [("eventType", None), ("id", str(uuid4()).encode())],
    ],
)
def test_what_the_saga_cannot_store_has_no_id(headers):
    record = Record()
    record._fields = (*record._fields[:3], headers, *record._fields[4:])
    assert arrivals._message_id(record) is None


def test_of_several_headers_with_one_name_the_last_one_counts():
    first, last = uuid4(), uuid4()
    headers = [
        ("eventType", b"x"),
        ("id", str(first).encode()),
        ("eventType", b"PaymentFailed"),
        ("id", last.hex.encode()),
    ]
    assert arrivals._message_id(Record(headers=headers)) == last


def body(**changed):
    fields = {
        "payment_id": str(PAYMENT),
        "account_id": "acc-1",
        "amount_minor": 100,
        "currency": "USD",
        "occurred_at": "2026-11-28T10:00:00Z",
    }
    return json.dumps(fields | changed).encode()


class Saga:
    """The saga's database: which message IDs it lacks, and what it knows of withdrawals."""

    def __init__(self, missing=(), contents=()):
        self._missing, self._contents = set(missing), contents

    def execute(self, sql, values):
        if sql == arrivals._CONTENTS:
            return SimpleNamespace(fetchall=lambda: list(self._contents))
        assert sql == arrivals._NOT_STORED
        return [(one,) for one in values[0] if one in self._missing]


def strangers(monkeypatch, saga, records, places):
    asked = []

    def scan(bootstrap, names, starts, ends):
        asked.append((set(names), starts, ends))
        return iter(records)

    monkeypatch.setattr(arrivals, "scan", scan)
    return list(arrivals._unexplained(saga, "kafka:9092", places)), asked


def test_a_record_that_the_event_store_lacks_is_named(monkeypatch):
    one, other = uuid4(), uuid4()

    def record(offset, message_id, value=None):
        headers = [("eventType", b"WithdrawalRequested"), ("id", str(message_id).encode())]
        return Record(REQUESTS, 1, offset, headers, value or body())

    records = [
        record(5, one),
        record(6, other),  # stored meanwhile, or the same again
        record(7, one),  # not asked for
        record(9, one, b"junk"),
    ]
    places = [(REQUESTS, 1, 9), (REQUESTS, 1, 5), (REQUESTS, 1, 6), (REQUESTS, 2, 4)]
    found, asked = strangers(monkeypatch, Saga([one]), records, places)
    assert found == [f"{PAYMENT}: WithdrawalRequested is on {REQUESTS}/1@5, but not in the event store"]
    assert asked == [({REQUESTS}, {(REQUESTS, 1): 5, (REQUESTS, 2): 4}, {(REQUESTS, 1): 10, (REQUESTS, 2): 5})]


@pytest.mark.parametrize(
    ("contents", "off"),
    [
        ((PAYMENT, "acc-1", 100, "USD"), True),
        ((PAYMENT, "acc-2", 100, "USD"), False),
        ((PAYMENT, "acc-1", 101, "USD"), False),
        ((PAYMENT, "acc-1", 100, "EUR"), False),
        (None, True),
    ],
)
def test_a_request_that_contradicts_its_withdrawal_is_excused(monkeypatch, contents, off):
    one = uuid4()
    record = Record(headers=[("eventType", b"WithdrawalRequested"), ("id", one.hex.encode())], value=body())
    saga = Saga([one], [contents] if contents else [])
    found, _ = strangers(monkeypatch, saga, [record], [(REQUESTS, 0, 0)])
    assert bool(found) == off


def test_another_event_that_contradicts_is_not(monkeypatch):
    one = uuid4()
    headers = [("eventType", b"MoneyDeducted"), ("id", one.hex.encode())]
    record = Record("account.events", headers=headers, value=body(balance_minor=1))
    saga = Saga([one], [(PAYMENT, "acc-2", 100, "USD")])
    found, _ = strangers(monkeypatch, saga, [record], [("account.events", 0, 0)])
    assert len(found) == 1


def test_an_event_on_a_topic_of_others_is_nobodys(monkeypatch):
    """Every service refuses it, whatever it says."""
    one = uuid4()
    headers = [("eventType", b"MoneyDeducted"), ("id", one.hex.encode())]
    record = Record(REQUESTS, headers=headers, value=body(balance_minor=1))
    found, _ = strangers(monkeypatch, Saga([one]), [record], [(REQUESTS, 0, 0)])
    assert found == []


def test_from_when_on_the_sagas_own_events_must_be_there(monkeypatch):
    """From the youngest of the records that are the oldest of their partition; nothing where one is empty."""
    first = {(OWN, 0): 0, (OWN, 1): 5, (OWN, 2): 6, (REQUESTS, 0): 7}
    moments = {(OWN, 1): 1_000, (OWN, 2): 2_000}
    monkeypatch.setattr(arrivals, "Offsets", lambda _: SimpleNamespace(first=lambda _: dict(first)))

    def scan(_, names, starts):
        assert names == [OWN]
        ((place, offset),) = starts.items()
        assert offset == first[place]
        yield from [Record(timestamp_ms=moments[place])] if place in moments else []

    monkeypatch.setattr(arrivals, "scan", scan)
    assert arrivals._retained("kafka:9092") == _Retained(first, 2.0 + arrivals.CLOCKS_OFF_S)
    del moments[OWN, 1]
    monkeypatch.setattr(arrivals, "time", SimpleNamespace(time=lambda: 1_000.0))
    assert arrivals._retained("kafka:9092") == _Retained(first, 1_000.0 + arrivals.CLOCKS_OFF_S)
    for place in ((OWN, 1), (OWN, 2)):
        first[place] = 0
    assert arrivals._retained("kafka:9092") == _Retained(first, 0.0)
    first[OWN, 1] = 1
    moments[OWN, 1] = 3_000
    assert arrivals._retained("kafka:9092") == _Retained(first, 3.0 + arrivals.CLOCKS_OFF_S)


class Outboxes:
    """The services' databases: rows in outboxes, rows that were put aside, and events that the saga lacks."""

    def __init__(self, monkeypatch, rows=(), dead=(), missing=()):
        self.rows, self._dead, self.missing = dict(rows), dict(dead), set(missing)
        self.looked_for = []
        monkeypatch.setattr(arrivals, "session", lambda dsn, **_: nullcontext(Outbox(self, dsn)))

    def found(self):
        found = arrivals.unpublished({name: name for name in NAMES})
        return found.count, found.in_words()


class Outbox:
    """The database of one service."""

    def __init__(self, world, name):
        self._world, self._name = world, name

    def cursor(self, _):
        rows = list(self._world.rows.get(self._name, ()))

        def execute(query, values):
            assert query == arrivals._OUTBOX
            assert values == ([*_STORED_TYPES],)

        def fetchmany(size):
            part, rows[:] = rows[:size], rows[size:]
            return part

        return SimpleNamespace(execute=execute, fetchmany=fetchmany)

    def execute(self, query, values=None):
        if query == arrivals._DEAD:
            return self._world._dead.get(self._name, ())
        assert (self._name, query) == ("saga", arrivals._NOT_STORED)
        asked = list(zip(*values, strict=True))
        self._world.looked_for += asked
        return [(one[0],) for one in asked if one in self._world.missing]


def test_nothing_is_said_of_outboxes_whose_rows_have_arrived(monkeypatch):
    rows = {service: [(uuid4(), str(PAYMENT), "PaymentFailed")] for service in NAMES}
    world = Outboxes(monkeypatch, rows)
    assert world.found() == (0, "")
    assert world.looked_for == [(some[0][0], PAYMENT, "PaymentFailed") for some in rows.values()]


def test_a_cancellation_in_an_outbox_is_not_looked_for_where_the_saga_does_not_read_it():
    assert "CancelRequested" in _TYPES
    assert "CancelRequested" not in _STORED_TYPES


def test_each_row_of_an_outbox_that_did_not_arrive_is_named(monkeypatch):
    monkeypatch.setattr(arrivals, "FETCH_ROWS", 2)
    here, away = uuid4(), [uuid4() for _ in range(4)]
    junk = (uuid4(), "7", "MoneyDeducted"), (uuid4(), None, "MoneyDeducted")
    rows = [(here, str(PAYMENT), "MoneyDeducted"), *junk, *((one, str(PAYMENT), "MoneyRefunded") for one in away)]
    missing = [(one, PAYMENT, "MoneyRefunded") for one in away] + [(one[0], None, "MoneyDeducted") for one in junk]
    world = Outboxes(monkeypatch, {"payment": rows}, missing=missing)
    count, said = world.found()
    assert count == 6
    assert said.split("; ")[:3] == [
        "no withdrawal: MoneyDeducted is in the outbox of payment, but did not arrive",
        "no withdrawal: MoneyDeducted is in the outbox of payment, but did not arrive",
        f"{PAYMENT}: MoneyRefunded is in the outbox of payment, but did not arrive",
    ]


def test_a_row_that_arrives_while_the_audit_reads_did_arrive(monkeypatch, clock):
    """The saga receives one row with each look; what has not come in five seconds did not arrive."""
    missing = [(uuid4(), PAYMENT, "MoneyDeducted") for _ in range(5)]
    rows = [(one, str(whose), what) for one, whose, what in missing]
    world = Outboxes(monkeypatch, {"account": rows[:3], "payment": rows[3:4]}, missing=missing[:4])

    def sleep(seconds):
        clock.now += seconds
        world.missing.discard(missing.pop(0))

    clock.sleep, advance = sleep, clock.sleep
    assert world.found() == (0, "")
    assert clock.now == 4 * again.POLL_S
    clock.sleep = advance
    world.rows["saga"], world.missing = [rows[4]], {*missing}
    assert world.found() == (1, f"{PAYMENT}: MoneyDeducted is in the outbox of saga, but did not arrive")
    assert clock.now >= 4 * again.POLL_S + again.AGAIN_S


@pytest.mark.parametrize(
    ("payload", "whose"),
    [
        (json.dumps({"payment_id": str(PAYMENT)}).encode(), PAYMENT),
        (b"{}", "no withdrawal"),
        (b"[]", "no withdrawal"),
        (b"junk", "no withdrawal"),
        (b'{"payment_id": 7}', "no withdrawal"),
        (rb'{"payment_id": "a\ud800\u0000"}', "no withdrawal"),
        (b"\xff", "no withdrawal"),
        (b"[" * 100_000, "no withdrawal"),
        (None, "no withdrawal"),
    ],
    ids=[
        "whole",
        "of nobody",
        "no object",
        "no JSON",
        "a number",
        "half characters",
        "no text",
        "nested",
        "nothing",
    ],
)
def test_a_row_that_can_never_be_published_is_named_whatever_it_holds(monkeypatch, payload, whose):
    world = Outboxes(monkeypatch, dead={"account": [(payload, "MoneyDeducted", "too large")]})
    assert world.found() == (1, f"{whose}: MoneyDeducted of account can never be published: too large")


class Everything:
    """The saga's event store, and the topics: first offset of each partition, what is confirmed, what is there."""

    def __init__(self, monkeypatch, events=(), records=(), first=(), confirmed=(), late=()):
        self._records, self._events, self._first, self._confirmed = list(records), events, first, confirmed
        self._late = late
        self.asked, self.scans = None, []
        monkeypatch.setattr(arrivals, "session", lambda *_, **__: nullcontext(self))
        monkeypatch.setattr(arrivals, "Offsets", lambda _: self)
        monkeypatch.setattr(arrivals, "scan", self._scan)

    def first(self, _):
        return dict(self._first)

    def confirmed(self, group, _):
        assert group == "settle-saga"
        return dict(self._confirmed)

    @property
    def records(self):
        """What is there; what is late is there once time has passed."""
        return [*self._records, *(self._late if again.time.now else ())]

    def end(self, _):
        found = {}
        for record in self.records:
            found[record.topic(), record.partition()] = record.offset() + 1
        return found

    def _scan(self, _, names, starts=None, ends=None):
        self.scans.append(starts)
        for record in self.records:
            place = record.topic(), record.partition()
            if place[0] in names and (starts is None or record.offset() >= starts.get(place, 10_000)):
                yield record

    def cursor(self, _, **__):
        return Stored(self)

    def execute(self, query, values):
        """Nothing of what is asked for is stored, and no withdrawal is known."""
        if query == arrivals._CONTENTS:
            return SimpleNamespace(fetchall=list)
        assert query == arrivals._NOT_STORED
        return [(one,) for one in values[0]]

    def found(self):
        found = arrivals.differences("saga", "kafka:9092")
        return found.count, found.in_words()


class Stored(list):
    """The event store's rows, packed."""

    def __init__(self, world):
        super().__init__((one,) for one in world._events)
        self._world = world

    def execute(self, query, values):
        assert query == arrivals._EVENTS
        self._world.asked = values

    def close(self):
        """Nothing is held."""


def a_record(message_id, offset=0, partition=0, value=None):
    headers = [("eventType", b"WithdrawalRequested"), ("id", str(message_id).encode())]
    return Record(REQUESTS, partition, offset, headers, body() if value is None else value)


def an_event(message_id, offset=0):
    requested = _TYPES.index("WithdrawalRequested")
    return _STORED.pack(message_id.bytes, PAYMENT.bytes, requested, _TOPICS.index(REQUESTS), 0, offset)


def test_topics_and_event_store_that_hold_the_same_differ_in_nothing(monkeypatch):
    ids = [uuid7() for _ in range(3)]
    events = [an_event(one, offset) for offset, one in enumerate(ids)]
    records = [*(a_record(one, offset) for offset, one in enumerate(ids)), Record(REQUESTS, 0, 3)]
    world = Everything(monkeypatch, events, records, confirmed={(REQUESTS, 0): 4})
    assert world.found() == (0, "")
    assert len(world.scans) == 1  # what is everywhere is not read again


def test_what_only_one_of_topics_and_event_store_holds_is_named(monkeypatch):
    stored_only, topic_only, unread = uuid7(), uuid7(), uuid7()
    records = [a_record(topic_only, 1), a_record(unread, 2)]
    world = Everything(monkeypatch, [an_event(stored_only)], records, confirmed={(REQUESTS, 0): 2})
    assert world.found() == (
        2,
        f"{PAYMENT}: WithdrawalRequested is in the event store, but not on its topic ({REQUESTS}/0@0); "
        f"{PAYMENT}: WithdrawalRequested is on {REQUESTS}/0@1, but not in the event store",
    )


def test_an_event_that_comes_to_its_topic_while_the_audit_reads_is_there(monkeypatch):
    """The saga's own are stored first, and published a moment later. Only what is new is read again."""
    here, late, lost = uuid7(), uuid7(), uuid7()
    coming = [a_record(late, 1), a_record(uuid7(), 0, 1), Record(REQUESTS, 1, 1)]
    world = Everything(monkeypatch, map(an_event, (here, late)), [a_record(here)], late=coming)
    assert world.found() == (0, "")
    assert world.scans == [None, {(REQUESTS, 0): 1, (REQUESTS, 1): 0}]
    again.time.now = 0.0
    world = Everything(monkeypatch, map(an_event, (here, lost, late)), [a_record(here)], late=coming)
    assert world.found()[0] == 1
    assert again.time.now >= again.AGAIN_S
    assert len(world.scans) == 2


def test_however_many_records_the_event_store_lacks_a_bounded_number_is_read_again_in_one_go(monkeypatch):
    monkeypatch.setattr(arrivals, "UNSTORED_MAX", 2)
    records = [a_record(uuid7(), offset) for offset in range(5)]
    world = Everything(monkeypatch, records=records, confirmed={(REQUESTS, 0): 5})
    assert world.found()[0] == 5
    assert len(world.scans) == 1 + 3


def test_the_event_store_is_asked_for_what_its_topics_have_not_dropped(monkeypatch):
    first = {(REQUESTS, 1): 7, (OWN, 0): 5}
    world = Everything(monkeypatch, records=[Record(OWN, 0, 5, timestamp_ms=2_000_000)], first=first)
    world.found()
    dropped = zip(*(world.asked[f"first_{what}"] for what in ("topics", "partitions", "offsets")), strict=True)
    assert sorted(dropped) == [(OWN, 0, 5), (REQUESTS, 1, 7)]
    assert world.asked["own_since"] == arrivals._first_id(2_000.0 + arrivals.CLOCKS_OFF_S)


def test_the_clocks_of_saga_and_relay_may_be_five_minutes_apart(monkeypatch):
    """An event of the saga's that seems so much younger than the oldest record may have gone with older ones."""
    oldest_s = 1_800_000_000.0
    records = [Record(OWN, 0, 5, timestamp_ms=int(oldest_s * 1000))]
    Everything(monkeypatch, records=records, first={(OWN, 0): 5})
    kept = arrivals._retained("kafka:9092")
    for ahead_s, dropped in ((299.9, True), (300.1, False)):
        assert kept.dropped(None, -1, arrivals._first_id(oldest_s + ahead_s)) == dropped
