"""The audit's second look at what may be late rather than lost.

Databases and topics are read one after the other while withdrawals go on: what one of them has already, another
that was read a moment earlier has not. So what seems off is looked at again, and counts only if it stays off.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

AGAIN_S = 5.0
"""How long all that a check has found may take to come right, seconds."""

AGAIN_MAX = 1_000
"""Offenders of a check that are looked at again; more of them are no coincidence."""

POLL_S = 0.25


def lasting(found: Iterable[T], again: Callable[[list[T]], list[T]]) -> Iterator[T]:
    """What is off now and still is ``AGAIN_S`` later; at once, if it is more than ``AGAIN_MAX``.

    Args:
        found: what is off, read to its end before anything is looked at again; memory holds ``AGAIN_MAX`` of it.
        again: of some that were off, those that still are.
    """
    found = iter(found)
    some = list(islice(found, AGAIN_MAX + 1))
    if len(some) > AGAIN_MAX:
        yield from some
        yield from found
        return
    # The last look begins after that time, however long one takes.
    now, until = 0.0, time.monotonic() + AGAIN_S
    while some and now < until:
        time.sleep(POLL_S)
        now = time.monotonic()
        some = again(some)
    yield from some
