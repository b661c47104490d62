"""Rows are sent one by one until the one that Kafka refused is behind, and not for longer."""

from outbox_relay.acknowledgements import Acknowledgements
from outbox_relay.one_by_one import OneByOne
from outbox_relay.position import Origin


def under_way(lsn, *, is_leftover=False):
    acks = Acknowledgements(Origin(b"0", 0, 0))
    transaction = acks.begin(lsn, 0)
    transaction.rows, transaction.is_leftover = 1, is_leftover
    return acks


def test_batches_are_back_once_what_was_under_way_is_acknowledged_however_far_behind_the_relay_is():
    mode = OneByOne()
    assert not mode.end_if_over(100, has_looked=True)
    assert mode.begin(under_way(100))
    assert not mode.begin(under_way(200))
    assert not mode.end_if_over(199, has_looked=True)
    assert mode.is_on
    assert mode.end_if_over(200, has_looked=False)
    assert not mode.is_on


def test_rows_from_the_table_are_handed_over_again_before():
    mode = OneByOne()
    mode.begin(under_way(100, is_leftover=True))
    assert not mode.end_if_over(100, has_looked=False)
    assert mode.end_if_over(100, has_looked=True)
    mode.begin(under_way(200))
    assert mode.end_if_over(200, has_looked=False)
