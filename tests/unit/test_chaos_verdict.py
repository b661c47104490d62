"""When did recovery take too long? Counted from the last fault that struck before it."""

import pytest

from chaos.plan import FREEZE, KILL, Fault
from chaos.verdict import RECOVERY_S_MAX, Done, too_long

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
