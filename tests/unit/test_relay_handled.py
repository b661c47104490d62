"""The IDs of rows that may be removed, and which rows from before a slot are published."""

from uuid import uuid4

import pytest

from outbox_relay import handled, initial
from outbox_relay.handled import Handled
from outbox_relay.ledger import Ledger
from outbox_relay.pgoutput import OutboxRow
from outbox_relay.position import Origin
from outbox_relay.published import identity

ORIGIN = Origin(tag=b"1f0c9a3e", confirmed_lsn=1, now_us=0)
ROW = OutboxRow(b"1", b"account", b"acc-1", b"MoneyDeducted", b"{}")


def uuids(count):
    return [str(uuid4()).encode() for _ in range(count)]


@pytest.mark.parametrize("ids", [uuids(250), [b"%d" % n for n in range(250)]], ids=["UUIDs", "numbers"])
def test_ids_come_out_as_they_went_in_in_chunks(ids):
    store = Handled(uuids=len(ids[0]) == 36)
    store.add(ids[100:150], [store.pack(ids[:60]), store.pack(ids[60:100])])
    store.add(ids[150:])
    store.gather(100)
    assert len(store) == 250
    assert [len(chunk) for chunk in store.chunks] == [100, 100, 50]
    assert store.texts() == set(ids)
    store.drop(store.chunks[0])
    assert len(store) == 150


def test_chunks_are_parameters_of_postgresql():
    first = uuids(2)
    store = Handled(uuids=True)
    store.add(first)
    store.gather(10)
    assert store.chunks[0].as_parameter() == "{" + b",".join(first).replace(b"-", b"").decode() + "}"
    store = Handled(uuids=False)
    store.add([b"a,b", b'"'])
    store.gather(10)
    assert store.chunks[0].as_parameter() == [b"a,b", b'"']


def test_what_is_kept_has_a_limit(monkeypatch):
    monkeypatch.setattr(handled, "IDS_MAX", 100)
    store = Handled(uuids=True)
    newest = uuids(100)
    store.add(uuids(70))
    store.add(newest)
    store.gather(10)
    assert store.texts() == set(newest)


def test_an_id_is_handled_when_its_transaction_and_all_before_it_are_acknowledged_and_no_sooner():
    store = Handled(uuids=False)
    ledger = Ledger(ORIGIN, handled=store)
    transactions = []
    for number in range(3):
        transaction = ledger.begin(10 * number + 10, 0)
        transaction.rows, transaction.ids = 1, [b"%d" % number]
        ledger.end(transaction, 10 * number + 15)
        transactions.append(transaction)
    ledger.pack(transactions[2])
    for acknowledged, expected in ((1, set()), (0, {b"0", b"1"}), (2, {b"0", b"1", b"2"})):
        transactions[acknowledged].delivered(None, None)
        ledger.advance()
        store.gather(10)
        assert store.texts() == expected


def test_a_row_that_was_found_on_its_topic_is_handled_and_a_dead_one_is_not():
    store = Handled(uuids=False)
    ledger = Ledger(ORIGIN, handled=store)
    transaction = ledger.begin(10, 0)
    for row, leave in ((ROW, transaction.skip), (ROW._replace(id=b"2"), transaction.leave)):
        transaction.rows += 1
        transaction.ids.append(row.id)
        leave(row)
    ledger.end(transaction, 15)
    store.gather(10)
    assert store.texts() == {b"1"}
    assert ledger.confirmed_lsn == 15


def test_a_uuid_is_a_row_and_a_number_is_one_with_its_content_only():
    row_id = uuids(1)[0]
    assert identity(row_id, b"a", b"T", b"1") == identity(row_id.upper(), b"b", b"U", None)
    same = identity(b"1", b"a", b"T", b"1")
    assert same == identity(b"1", b"a", b"T", b"1")
    others = [
        (b"2", b"a", b"T", b"1"),
        (b"1", b"b", b"T", b"1"),
        (b"1", b"a", b"U", b"1"),
        (b"1", b"a", b"T", b"2"),
    ]
    others += [(b"1", None, b"T", b"1"), (b"1", b"a", b"T", None), (b"1", b"aT", b"", b"1")]
    assert len({same, *(identity(*other) for other in others)}) == len(others) + 1


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
