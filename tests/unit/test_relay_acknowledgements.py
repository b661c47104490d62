"""The confirmed position moves over what is acknowledged, and over nothing else."""

from types import SimpleNamespace
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

import outbox_relay.acknowledgements
from outbox_relay.acknowledgements import Acknowledgements, Waits
from outbox_relay.errors import BatchRefusedError, PublishError, UnpublishableError
from outbox_relay.handled import Handled
from outbox_relay.position import Origin, format_lsn, parse_lsn, tag
from outbox_relay.row import OutboxRow
from outbox_relay.wal import REST_MAX_S, rest_s

ORIGIN = Origin(tag=b"1f0c9a3e", confirmed_lsn=1, now_us=0)


class Refusal:
    """An error of Kafka's, and the record that it is about."""

    def __init__(self, code=KafkaError.TOPIC_AUTHORIZATION_FAILED, key=b"acc-1"):
        self._code = code
        self._key = key

    def code(self):
        return self._code

    def str(self):
        return "not taken"

    def topic(self):
        return "account.events"

    def key(self):
        return self._key


def transaction(acks, lsn, rows):
    begun = acks.begin(lsn, committed_us=lsn)
    begun.rows = rows
    acks.end(begun, lsn + 5)
    return begun


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.randoms())
def test_the_position_never_passes_a_row_that_is_not_acknowledged(sizes, random):
    acks = Acknowledgements(ORIGIN)
    transactions = [transaction(acks, 10 * (place + 1), rows) for place, rows in enumerate(sizes)]
    reports = [t for t in transactions for _ in range(t.rows)]
    random.shuffle(reports)
    for report in reports:
        report.delivered(None, None)
        acks.advance()
        open_lsns = [t.commit_lsn for t in transactions if t.acknowledged < t.rows]
        assert acks.confirmed_lsn < min(open_lsns, default=1 << 60)
    acks.advance()
    assert acks.confirmed_lsn == 10 * len(sizes) + 5
    assert acks.acknowledged_rows == sum(sizes)
    assert acks.oldest_committed_us() is None


def test_a_transaction_that_is_still_being_read_holds_the_position():
    acks = Acknowledgements(ORIGIN)
    begun = acks.begin(10, 10)
    begun.rows = 1
    begun.delivered(None, None)
    acks.advance()
    assert acks.confirmed_lsn == 1
    acks.end(begun, 15)
    acks.advance()
    assert acks.confirmed_lsn == 15


def test_what_the_server_has_passed_counts_once_the_rows_before_it_are_acknowledged():
    acks = Acknowledgements(ORIGIN)
    acks.reached(7)
    assert acks.confirmed_lsn == 7
    first = transaction(acks, 10, rows=1)
    acks.reached(100)
    acks.advance()
    assert acks.confirmed_lsn == 7
    first.delivered(None, None)
    acks.advance()
    assert acks.confirmed_lsn == 100
    acks.reached(50)
    assert acks.confirmed_lsn == 100


def test_what_the_server_has_passed_does_not_close_the_transaction_being_read():
    acks = Acknowledgements(ORIGIN)
    first = transaction(acks, 10, rows=1)
    second = acks.begin(40, 40)
    second.rows = 1
    acks.reached(30)
    acks.advance()
    assert acks.confirmed_lsn == 1
    first.delivered(None, None)
    acks.advance()
    assert acks.confirmed_lsn == 30
    assert second.end_lsn == 0


def test_while_the_only_transaction_is_being_read_what_the_server_has_passed_is_confirmed_at_once():
    acks = Acknowledgements(ORIGIN)
    being_read = acks.begin(40, 40)
    being_read.rows = 1
    acks.reached(30)
    assert (acks.confirmed_lsn, being_read.end_lsn) == (30, 0)


def test_transactions_without_rows_are_not_kept():
    acks = Acknowledgements(ORIGIN)
    held = transaction(acks, 10, rows=1)
    for lsn in range(20, 20_000, 10):
        transaction(acks, lsn, rows=0)
    assert len(acks._open) == 1
    held.delivered(None, None)
    acks.advance()
    assert acks.confirmed_lsn == 19_995


def test_a_refused_record_stops_everything_after_it():
    acks = Acknowledgements(ORIGIN)
    first, second = transaction(acks, 10, rows=1), transaction(acks, 20, rows=1)
    first.delivered(Refusal(), Refusal())
    second.delivered(None, None)
    with pytest.raises(PublishError, match=r"account\.events with key 'acc-1': not taken") as refused:
        acks.advance()
    assert refused.type is PublishError
    assert acks.confirmed_lsn == 1


@pytest.mark.parametrize("code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD])
def test_what_kafka_will_never_take_is_told_apart(code):
    acks = Acknowledgements(ORIGIN)
    transaction(acks, 10, rows=1).delivered(Refusal(code), Refusal(key=b"k" * 1_000 + b"\xff"))
    with pytest.raises(BatchRefusedError, match=f"with key '{'k' * 60}': not taken"):
        acks.advance()


def test_the_record_that_kafka_will_never_take_counts_before_those_that_fell_with_it():
    acks = Acknowledgements(ORIGIN)
    begun = transaction(acks, 20, rows=3)
    begun.delivered(Refusal(KafkaError._FATAL), Refusal())
    begun.delivered(Refusal(KafkaError.MSG_SIZE_TOO_LARGE), Refusal())
    begun.delivered(Refusal(KafkaError._FATAL), Refusal())
    with pytest.raises(BatchRefusedError):
        acks.advance()
    row = OutboxRow(b"row-2", b"account", b"acc-1", b"T", b"{}")
    begun.unpublishable(row, "too large")
    begun.delivered(Refusal(KafkaError.MSG_SIZE_TOO_LARGE), Refusal())
    with pytest.raises(UnpublishableError) as refused:
        acks.advance()
    assert (refused.value.row, refused.value.lsn) == (row, 20)


@pytest.mark.parametrize("code", [KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT])
def test_what_the_end_of_a_session_drops_is_not_taken_for_its_reason(code):
    acks = Acknowledgements(ORIGIN)
    begun = transaction(acks, 10, rows=2)
    begun.delivered(Refusal(code), Refusal())
    assert acks.refusal is None
    begun.delivered(None, None)
    acks.advance()
    assert acks.confirmed_lsn == 1


def test_skipped_rows_neither_count_nor_hold_the_position():
    acks = Acknowledgements(ORIGIN)
    row = OutboxRow(b"1", b"account", b"acc-1", b"T", b"{}")
    begun = acks.begin(10, 10)
    begun.rows = 2
    begun.value_bytes = 2
    begun.skip(row)
    begun.skip(row._replace(payload=None))
    assert (begun.rows, begun.value_bytes) == (0, 0)
    acks.end(begun, 15)
    acks.advance()
    assert (acks.confirmed_lsn, acks.acknowledged_rows, acks.acknowledged_bytes) == (15, 0, 0)


def test_rows_and_bytes_are_counted_once_kafka_has_them():
    acks = Acknowledgements(ORIGIN)
    begun = acks.begin(10, 10)
    assert (begun.rows, begun.value_bytes, begun.acknowledged) == (0, 0, 0)
    begun.rows, begun.value_bytes = 2, 7
    acks.end(begun, 15)
    for count in (0, 2):
        begun.delivered(None, None)
        acks.advance()
        assert acks.acknowledged_rows == count
    assert acks.acknowledged_bytes == 7


def handled_keys(acks, store):
    acks.advance()
    store.gather(10)
    return set(store.keys())


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("rows", [2, 0])
def test_keys_are_handled_once_their_transaction_is_acknowledged_or_has_nothing_to_publish(is_packed, rows):
    keys = [str(uuid4()).encode() for _ in range(2)]
    store = Handled(uuids=True)
    acks = Acknowledgements(ORIGIN, handled=store)
    begun = acks.begin(10, 10)
    begun.keys, begun.rows = [*keys, None], rows
    if is_packed:
        acks.pack(begun)
        assert begun.keys == []
    acks.end(begun, 15)
    assert handled_keys(acks, store) == (set() if rows else set(keys))
    for _ in range(rows):
        begun.delivered(None, None)
    assert handled_keys(acks, store) == set(keys)


def test_a_row_that_is_left_is_neither_counted_nor_handled():
    store = Handled(uuids=True)
    acks = Acknowledgements(ORIGIN, handled=store)
    row, other = (str(uuid4()).encode() for _ in range(2))
    begun = acks.begin(10, 10)
    begun.keys, begun.rows, begun.value_bytes = [other, row], 2, 4
    begun.leave(OutboxRow(row, b"account", b"acc-1", b"T", b"{}"))
    assert (begun.keys, begun.rows, begun.value_bytes) == ([other], 1, 2)
    acks.pack(begun)
    begun.leave(OutboxRow(other, b"account", b"acc-1", b"T", b"{}"))
    assert begun.rows == 0


def test_without_anybody_to_tell_keys_are_not_kept():
    acks = Acknowledgements(ORIGIN)
    begun = acks.begin(10, 10)
    begun.keys, begun.rows = [b"1"], 1
    acks.pack(begun)
    assert (begun.keys, begun.packed) == ([], [])
    begun.keys = [b"2"]
    acks.end(begun, 15)
    begun.delivered(None, None)
    acks.advance()
    assert acks.confirmed_lsn == 15


def test_what_is_on_its_way_says_since_when_and_where():
    acks = Acknowledgements(ORIGIN)
    assert (acks.newest_lsn, acks.oldest_committed_us()) == (0, None)
    for lsn in (10, 20, 30):
        transaction(acks, lsn, rows=1)
    assert (acks.newest_lsn, acks.oldest_committed_us()) == (30, 10)


@pytest.mark.parametrize(("committed_us", "waited_s"), [(40_000_000, 60.0), (100_500_000, 0.0)])
def test_how_long_rows_were_on_their_way_is_told(committed_us, waited_s, monkeypatch):
    monkeypatch.setattr(outbox_relay.acknowledgements, "time", SimpleNamespace(time=lambda: 100.0))
    waits = Waits()
    acks = Acknowledgements(ORIGIN, waits)
    begun = acks.begin(10, committed_us)
    begun.rows = 2
    acks.end(begun, 15)
    for _ in range(2):
        begun.delivered(None, None)
    acks.advance()
    assert waits.sum_s == 2 * waited_s
    assert sum(waits.counts) == 2


def test_waits_are_counted_by_rows():
    assert Waits.BOUNDS_S[:7] == (0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.02)
    assert Waits.BOUNDS_S[-1] == 70.0
    waits = Waits()
    waits.add(0.0015, 3)
    waits.add(1_000, 1)
    assert waits.counts[waits.BOUNDS_S.index(0.002)] == 3
    assert waits.counts[-1] == 1
    assert waits.sum_s == pytest.approx(1_000.0045)


def test_a_position_says_whose_it_is_and_whether_it_is_confirmed():
    origin = Origin(tag("7301", 5), confirmed_lsn=0x1_00000010, now_us=0)
    other = Origin(tag("7301", 6), confirmed_lsn=0x1_00000010, now_us=0)
    before, after = origin.position(0x1_0000000F), origin.position(0x1_00000010)
    assert before.endswith(b":1/F")
    assert origin.has_confirmed(before)
    assert not origin.has_confirmed(after)
    assert not other.has_confirmed(before)
    assert not origin.has_confirmed(None)


def test_positions_are_written_as_postgres_writes_them():
    assert format_lsn(0x1_016B3748) == "1/16B3748"
    assert parse_lsn("1/16B3748") == 0x1_016B3748


def test_a_source_pauses_only_where_there_is_something_to_gather_and_never_for_long():
    assert rest_s(0) == rest_s(200) == 0
    assert rest_s(500) == pytest.approx(0.0015)
    assert rest_s(6_200) == rest_s(1e9) == REST_MAX_S


def test_what_came_whole_waits_for_kafka_and_what_will_never_be_whole_does_not():
    acks = Acknowledgements(Origin(b"0", 0, 0))
    whole = acks.begin(10, 0)
    whole.rows = 1
    acks.end(whole, 20)
    acks.begin(30, 0).rows = 1
    assert acks.waits_for_kafka
    whole.delivered(None, None)
    acks.advance()
    assert not acks.waits_for_kafka
