"""The time that a service lets records gather between two batches."""

import pytest

from processors.runtime.consumer import ENOUGH_RECORDS, REST_S_MAX, SMALL, pause_s

GATHER_S_MAX = 0.1


def test_after_a_pause_nothing_is_waited_for():
    assert pause_s(rate=0.0, gather_s_max=GATHER_S_MAX, took_s=0.0, records=0) == 0.0


def test_the_more_comes_in_the_longer_records_gather():
    pauses = [pause_s(rate, GATHER_S_MAX, took_s=0.0, records=SMALL) for rate in (10.0, 200.0, 1_000.0, 4_000.0)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == GATHER_S_MAX


def test_the_time_a_batch_took_counts_as_gathering():
    took_s = 0.04
    rested = pause_s(4_000.0, GATHER_S_MAX, took_s=took_s, records=SMALL)
    assert took_s + rested == pytest.approx(GATHER_S_MAX)
    assert pause_s(4_000.0, GATHER_S_MAX, took_s=GATHER_S_MAX, records=SMALL) == 0.0


@pytest.mark.parametrize("took_s", [0.001, 0.01, REST_S_MAX])
def test_small_batches_take_half_of_the_time_at_the_most(took_s):
    assert pause_s(10.0, GATHER_S_MAX, took_s=took_s, records=SMALL - 1) == took_s


def test_a_batch_that_waits_for_others_costs_the_next_one_little():
    assert pause_s(10.0, GATHER_S_MAX, took_s=5.0, records=1) == REST_S_MAX


def test_a_batch_of_enough_records_is_not_waited_for():
    assert pause_s(100_000.0, gather_s_max=1.0, took_s=0.0, records=SMALL) == ENOUGH_RECORDS / 100_000.0
    assert pause_s(100_000.0, gather_s_max=1.0, took_s=0.0, records=SMALL, enough=8_000) == 0.08
