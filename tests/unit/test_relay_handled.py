"""The keys of rows that may be removed, and which rows from before a slot are published."""

import sys
from uuid import UUID, uuid4

import pytest
from psycopg.adapt import Transformer
from psycopg.postgres import types
from psycopg.pq import Format

from outbox_relay import handled, initial
from outbox_relay.acknowledgements import Acknowledgements
from outbox_relay.handled import Chunk, ChunkDumper, Handled
from outbox_relay.identity import digest, identity
from outbox_relay.position import Origin
from outbox_relay.row import OutboxRow

ORIGIN = Origin(tag=b"1f0c9a3e", confirmed_lsn=1, now_us=0)
ROW = OutboxRow(b"1", b"account", b"acc-1", b"MoneyDeducted", b"{}")
OTHER = ROW._replace(id=b"2")


def uuids(count):
    return [str(uuid4()).encode() for _ in range(count)]


@pytest.mark.parametrize("keys", [uuids(250), [digest(ROW._replace(id=b"%d" % n)) for n in range(250)]])
def test_keys_come_out_as_they_went_in_in_chunks(keys):
    store = Handled(uuids=len(keys[0]) == 36)
    store.add([*keys[100:150], None], [store.pack(keys[:60]), store.pack([None, *keys[60:100]])])
    store.add(keys[150:])
    store.gather(100)
    assert len(store) == 250
    assert [len(chunk) for chunk in store.chunks] == [100, 100, 50]
    assert set(store.keys()) == set(keys)
    store.drop(store.chunks[0])
    assert len(store) == 150


@pytest.mark.parametrize(
    ("array", "keys"), [("uuid", uuids(3)), ("bytea", [digest(ROW), digest(OTHER)]), ("uuid", uuids(1))]
)
def test_a_chunk_is_an_array_to_postgresql(array, keys):
    store = Handled(uuids=array == "uuid")
    store.add(keys)
    store.gather(10)
    loader = Transformer().get_loader(types[array].array_oid, Format.BINARY)
    found = loader.load(ChunkDumper(Chunk).dump(store.chunks[0]))
    assert found == ([UUID(key.decode()) for key in keys] if array == "uuid" else keys)


def test_keys_of_a_large_transaction_are_packed_at_once():
    """With a backlog, those of some seconds wait until they are taken in."""
    store = Handled(uuids=True)
    keys = uuids(handled.PACK_KEYS_MIN)
    used = [sys.getrefcount(key) for key in keys]
    store.add(list(keys))
    assert [sys.getrefcount(key) for key in keys] == used
    store.gather(100)
    assert set(store.keys()) == set(keys)


def test_what_is_kept_has_a_limit(monkeypatch):
    monkeypatch.setattr(handled, "KEYS_MAX", 100)
    store = Handled(uuids=True)
    newest = uuids(100)
    store.add(uuids(70))
    store.add(newest)
    store.gather(10)
    assert set(store.keys()) == set(newest)


def test_a_row_is_handled_when_its_transaction_and_all_before_it_are_acknowledged_and_no_sooner():
    store, keys = Handled(uuids=True), uuids(3)
    acks = Acknowledgements(ORIGIN, handled=store)
    transactions = []
    for number, key in enumerate(keys):
        transaction = acks.begin(10 * number + 10, 0)
        transaction.rows, transaction.keys = 1, [key]
        acks.end(transaction, 10 * number + 15)
        transactions.append(transaction)
    acks.pack(transactions[2])
    for acknowledged, expected in ((1, 0), (0, 2), (2, 3)):
        transactions[acknowledged].delivered(None, None)
        acks.advance()
        store.gather(10)
        assert set(store.keys()) == set(keys[:expected])


def test_a_row_that_was_found_on_its_topic_is_handled_and_a_dead_one_is_not():
    store, keys = Handled(uuids=True), uuids(2)
    acks = Acknowledgements(ORIGIN, handled=store)
    transaction = acks.begin(10, 0)
    for key, leave in zip(keys, (transaction.skip, transaction.leave), strict=True):
        transaction.rows += 1
        transaction.keys.append(key)
        leave(ROW)
    acks.end(transaction, 15)
    store.gather(10)
    assert set(store.keys()) == {keys[0]}
    assert acks.confirmed_lsn == 15


def test_a_uuid_is_a_row_and_a_number_is_one_with_its_content_only():
    (uuid,) = uuids(1)
    assert identity(uuid, "a.events", b"a", b"T", b"{}") == identity(uuid.upper(), "b.events", b"b", b"U", None)
    one = (b"1", "a.events", b"acc-1", b"T", b"{}")
    others = [(*one[:place], value, *one[place + 1 :]) for place, value in enumerate((b"2", "b.events", b"b"))]
    others += [(*one[:3], b"U", b"{}"), (*one[:4], b"2"), (*one[:4], None), (*one[:2], None, *one[3:])]
    assert len({identity(*one), *(identity(*other) for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("said", "old", "new", "unknown"),
    [
        ("all", True, True, True),
        ("none", False, False, False),
        ("since=2026-11-28T10:00:00Z", False, True, True),
        ("since=2026-11-28T11:00:00+01:00", False, True, True),
    ],
)
def test_a_person_says_which_rows_are_published(said, old, new, unknown):
    ten_us = 1_795_860_000_000_000
    wants = initial.parse(said).wants
    assert (wants(ROW, ten_us - 1), wants(ROW, ten_us), wants(ROW, None)) == (old, new, unknown)


@pytest.mark.parametrize("said", ["", "some", "since=", "since=yesterday", "since=2026-11-28T10:00:00", "ALL "])
def test_what_cannot_be_meant_is_refused(said):
    with pytest.raises(ValueError):
        initial.parse(said)
