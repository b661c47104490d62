"""When recovery took too long, counted from the last fault that struck before it; which dead letters may be."""

import pytest

from chaos.operators import PLANTED
from chaos.plan import FAILPOINT, FREEZE, KILL, Fault
from chaos.run import _note_when_struck
from chaos.verdict import RECOVERY_S_MAX, Done, judge_dead_letters, too_long
from dead_letters.letters import Letter, Refusal
from processors.runtime.messages import Record

MOMENT = 1_700_000_000.0


def _done(at_s, recovery_s, kind=KILL, part="account"):
    return Done(Fault(at_s, kind, part), MOMENT + at_s, MOMENT + at_s, recovery_s)


@pytest.mark.parametrize(
    ("recovery_s", "late"), [(0.0, False), (RECOVERY_S_MAX, False), (RECOVERY_S_MAX + 0.1, True), (None, True)]
)
def test_a_fault_alone_has_the_whole_time(recovery_s, late):
    one = _done(4.0, recovery_s)

    assert too_long([one]) == ([one] if late else [])


def test_what_struck_before_recovery_starts_the_time_anew():
    frozen = _done(20.0, 65.0, FREEZE, "kafka")
    killed = _done(40.0, 45.0, part="relay")

    assert too_long([frozen, killed]) == []
    assert too_long([frozen]) == [frozen]


def test_what_struck_after_recovery_does_not():
    slow = _done(4.0, RECOVERY_S_MAX + 1)
    later = _done(4.0 + RECOVERY_S_MAX + 2, 1.0)

    assert too_long([slow, later]) == [slow]


def test_none_that_strikes_later_excuses_what_never_recovers():
    never = _done(4.0, None)

    assert too_long([never, _done(30.0, 2.0)]) == [never]


@pytest.mark.parametrize(
    ("asked_s", "finished_s", "touched"),
    [
        (0.0, 0.5, False),  # its spans had been sent before the kill that arms the failpoint
        (8.0, 9.0, True),  # they may have died with it
        (12.0, 12.5, True),  # between that kill and the failpoint
        (25.0, 26.0, True),  # before the service had recovered
        (40.0, 41.0, False),
    ],
)
def test_a_failpoint_touches_traces_from_the_kill_that_arms_it_on(asked_s, finished_s, touched):
    one = _done(10.0, None, FAILPOINT, "relay")
    _note_when_struck([one], [("account", MOMENT + 11.0), ("relay", MOMENT + 10.1), ("relay", MOMENT + 20.0)])
    one.recovery_s = 8.0

    assert one.began == MOMENT + 20.0
    assert one.touched(MOMENT + asked_s, MOMENT + finished_s) == touched


def _letter(offset, planted=None):
    fields = [] if planted is None else [(PLANTED, planted.encode())]
    return Letter(Record("account.events", 0, offset, None, b"", fields), [Refusal("saga", "why", None, None)])


def test_what_was_planted_is_refused_and_may_come_again():
    check = judge_dead_letters(
        [_letter(1, "junk 1"), _letter(2, "junk 2"), _letter(3, "junk 1")], {"junk 1", "junk 2"}
    )

    assert check.ok
    assert check.detail == "no message was given up but the 2 planted ones"


def test_what_was_planted_excuses_no_other_dead_letter():
    check = judge_dead_letters([_letter(1, "junk 1"), _letter(7)], {"junk 1"})

    assert not check.ok
    assert check.detail == "account.events/0@7: why"


def test_what_was_planted_and_not_refused_has_been_lost():
    check = judge_dead_letters([_letter(1, "junk 1")], {"junk 1", "junk 2"})

    assert not check.ok
    assert check.detail == "junk 2 was planted, but not refused"
