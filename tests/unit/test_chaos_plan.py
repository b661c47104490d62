"""Same seed, same plan; and a plan does what it was asked for."""

from itertools import pairwise

import pytest

from contracts.failpoints import FAILPOINTS
from contracts.services import READ_BY
from lab.chaos.plan import (
    API_PARTS,
    CALM_S,
    CLOCK,
    CLOCK_OFF_S,
    CLOCKS,
    FAILPOINT,
    FORGET,
    FREEZE,
    JUNK,
    KILL,
    LOCK_OUT,
    OPERATORS,
    PARTITIONS,
    PARTS,
    READ_ONLY,
    REPEAT,
    ROLL,
    SERVICES,
    TOPICS_READ,
    ChaosError,
    Options,
    plan,
)
from stack.names import SERVERS

ALL = {"pause": True, "duplicates": True, "operators": True}


@pytest.mark.parametrize("seed", range(20))
def test_the_same_seed_is_the_same_plan_and_another_one_is_not(seed):
    assert plan(Options(10, seed, **ALL)) == plan(Options(10, seed, **ALL))
    assert plan(Options(10, seed, **ALL)) != plan(Options(10, seed + 1, **ALL))


def test_a_plan_is_the_same_on_every_machine():
    assert [fault.in_words() for fault in plan(Options(1, 1, pause=True, duplicates=True))][:3] == [
        "postgres-saga frozen for 4.8 s",
        "records of withdrawal.requests come again",
        "payment dies at payment.offsets-stored:5",
    ]


@pytest.mark.parametrize("seed", range(20))
def test_faults_come_in_order_leave_time_to_recover_and_hit_everybody(seed):
    options = Options(5, seed, **ALL)
    faults = plan(options)
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    assert faults[-1].at_s + faults[-1].for_s <= options.duration_s - CALM_S + 1
    assert {fault.part.partition("-")[0] for fault in faults} >= set(PARTS)
    assert {fault.part for fault in faults if fault.part.startswith("postgres")} <= set(SERVERS.values())
    assert {fault.kind for fault in faults} >= {KILL, FREEZE, FAILPOINT, REPEAT, *OPERATORS}
    for fault in faults:
        if fault.kind == FAILPOINT:
            assert fault.failpoint.partition(":")[0] in FAILPOINTS


def test_only_what_was_named_suffers_and_only_as_was_asked():
    faults = plan(Options(5, 1, kill=("saga", "kafka")))
    assert {fault.part for fault in faults} == {"saga", "kafka"}
    assert not {fault.kind for fault in faults} & {FREEZE, *OPERATORS}


@pytest.mark.parametrize("seed", range(20))
def test_operators_do_each_kind_once_before_any_twice_and_to_what_it_fits(seed):
    faults = plan(Options(5, seed, kill=("relay",), operators=True))
    kinds = [fault.kind for fault in faults if fault.kind in OPERATORS]
    assert sorted(kinds[: len(OPERATORS)]) == sorted(OPERATORS)
    for fault in faults:
        assert fault.part in {"relay", *READ_BY, *TOPICS_READ}
        assert (fault.part in TOPICS_READ) == (fault.kind in {FORGET, JUNK, PARTITIONS})
        assert (fault.for_s > 0) == (fault.kind in {READ_ONLY, LOCK_OUT, CLOCK})
        assert abs(fault.off_s) == (CLOCK_OFF_S if fault.kind == CLOCK else 0)
        assert fault.kind != CLOCK or fault.part in CLOCKS
        assert fault.in_words()


@pytest.mark.parametrize("seed", range(20))
def test_with_the_load_through_the_api_it_and_its_database_are_hit_like_everybody(seed):
    options = Options(10, seed, pause=True, through_api=True)
    faults = plan(options)
    assert faults == plan(options)
    assert {fault.part for fault in faults[:9]} >= {*PARTS, *API_PARTS} - {"postgres"}
    kinds = {fault.kind for fault in faults if fault.part in API_PARTS}
    assert kinds >= {KILL, FREEZE}
    assert {fault.failpoint.partition(":")[0] for fault in faults if fault.failpoint} <= FAILPOINTS.keys()
    # After the outage of a database the next fault is to count separately.
    after = [two.at_s - one.at_s - one.for_s for one, two in pairwise(faults) if one.part == API_PARTS[1]]
    assert min(after) >= 5.9


@pytest.mark.parametrize("seed", range(5))
def test_the_api_is_left_alone_where_the_load_does_not_come_through_it(seed):
    assert API_PARTS[0] not in {fault.part for fault in plan(Options(10, seed, **ALL))}
    only = plan(Options(5, seed, kill=("relay",), through_api=True))
    assert {fault.part for fault in only} == {"relay", *API_PARTS}


def test_a_rolling_restart_takes_each_service_in_turn():
    faults = plan(Options(1, 3, rolling=True))
    assert {fault.kind for fault in faults} == {ROLL}
    assert sorted(fault.part for fault in faults) == sorted(SERVICES)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"minutes": 0}, "minutes 0 must be more than 0.3"),
        ({"minutes": float("nan")}, "minutes nan must be more than 0.3"),
        ({"rate": 0}, "rate 0 must be from 1 to 2000"),
        ({"kill": ("bank",)}, "there is no part bank: there are kafka, postgres"),
        ({"kill": ()}, "nothing to kill"),
        ({"rolling": True, "operators": True}, "leave out --pause and --operators, or --rolling"),
        ({"rolling": True, "through_api": True}, "moves the API to another address: leave out --through-api"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, line):
    with pytest.raises(ChaosError, match=line):
        Options(**options)
