"""Does the confirmed position move over what is acknowledged, and over nothing else?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox_relay.errors import PublishError
from outbox_relay.ledger import Ledger, format_lsn, parse_lsn


class Refusal:
    def str(self):
        return "message too large"

    def topic(self):
        return "account.events"

    def key(self):
        return b"acc-1"


def transaction(ledger, lsn, rows):
    begun = ledger.begin(lsn, committed_us=lsn)
    begun.rows = begun.unacknowledged = rows
    ledger.end(begun, lsn + 5)
    return begun


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.randoms())
def test_the_position_never_passes_a_row_that_is_not_acknowledged(sizes, random):
    ledger = Ledger(confirmed_lsn=1)
    transactions = [transaction(ledger, 10 * (place + 1), rows) for place, rows in enumerate(sizes)]
    reports = [t for t in transactions for _ in range(t.rows)]
    random.shuffle(reports)
    for report in reports:
        report.delivered(None, None)
        ledger.advance()
        open_lsns = [t.commit_lsn for t in transactions if t.unacknowledged]
        assert ledger.confirmed_lsn < min(open_lsns, default=1 << 60)
    ledger.advance()
    assert ledger.confirmed_lsn == 10 * len(sizes) + 5
    assert ledger.acknowledged_rows == sum(sizes)
    assert ledger.oldest_committed_us() is None


def test_a_transaction_that_is_still_being_read_holds_the_position():
    ledger = Ledger(1)
    begun = ledger.begin(10, 10)
    begun.rows = begun.unacknowledged = 1
    begun.delivered(None, None)
    ledger.advance()
    assert ledger.confirmed_lsn == 1
    ledger.end(begun, 15)
    ledger.advance()
    assert ledger.confirmed_lsn == 15


def test_what_the_server_has_passed_counts_once_the_rows_before_it_are_acknowledged():
    ledger = Ledger(1)
    ledger.reached(7)
    assert ledger.confirmed_lsn == 7
    first = transaction(ledger, 10, rows=1)
    ledger.reached(100)
    ledger.advance()
    assert ledger.confirmed_lsn == 7
    first.delivered(None, None)
    ledger.advance()
    assert ledger.confirmed_lsn == 100
    ledger.reached(50)
    assert ledger.confirmed_lsn == 100


def test_what_the_server_has_passed_does_not_close_the_transaction_being_read():
    ledger = Ledger(1)
    first = transaction(ledger, 10, rows=1)
    second = ledger.begin(40, 40)
    second.rows = 1
    ledger.reached(30)
    first.delivered(None, None)
    ledger.advance()
    assert ledger.confirmed_lsn == 30
    assert second.end_lsn == 0


def test_transactions_without_rows_are_not_kept():
    ledger = Ledger(1)
    held = transaction(ledger, 10, rows=1)
    for lsn in range(20, 20_000, 10):
        transaction(ledger, lsn, rows=0)
    assert len(ledger._open) == 1
    held.delivered(None, None)
    ledger.advance()
    assert ledger.confirmed_lsn == 19_995


def test_a_refused_record_stops_everything_after_it():
    ledger = Ledger(1)
    first, second = transaction(ledger, 10, rows=1), transaction(ledger, 20, rows=1)
    first.delivered(Refusal(), Refusal())
    second.delivered(None, None)
    with pytest.raises(PublishError, match=r"account\.events with key 'acc-1': message too large"):
        ledger.advance()
    assert ledger.confirmed_lsn == 1


def test_positions_are_written_as_postgres_writes_them():
    assert format_lsn(0x1_016B3748) == "1/16B3748"
    assert parse_lsn("1/16B3748") == 0x1_016B3748
