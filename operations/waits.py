"""What a withdrawal that is not finished waits for: its next step, or what blocks that."""

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from operations.hold_ups import Found, Open, Pending, find
from processors.saga.status import Status

SILENT_S_MAX = 30.0
"""A withdrawal without an event for longer, whose next step nothing visibly blocks, may need a nudge."""

UNKNOWN = "the saga service to receive its request"
"""What a withdrawal waits for if the saga service has no event of it."""


class Waits(msgspec.Struct, frozen=True):
    """What a withdrawal waits for.

    Attributes:
        words: the next step, or its cause, in one line.
        held_up_by: what blocks the next step, if anything; see :mod:`operations.hold_ups`.
        pending: what a service is retrying, with the time of the next attempt, if that is what it waits for.
        unasked: what could not be queried (``the payment database``, ``Kafka``), and why.
    """

    words: str
    held_up_by: str | None = None
    pending: Pending | None = None
    unasked: dict[str, Exception] = {}


def look(
    dsns: Mapping[str, str],
    bootstrap: str,
    payment_id: UUID,
    status: Status | None,
    *,
    account_id: str | None = None,
    also_acts_on: frozenset[str] = frozenset(),
) -> Waits:
    """Query the services' databases and Kafka, for seconds at the most; raises nothing.

    Args:
        dsns: of the services on whose events others act: all but ``saga``.
        bootstrap: Kafka, ``host:port``.
        payment_id: of a withdrawal that is not finished.
        status: as the saga service knows it, if it does.
        account_id: its account, where that is known otherwise.
        also_acts_on: types of events that it may wait for, beside the one that its next step acts on.
    """
    one = as_open(payment_id, status, account_id, also_acts_on)
    return waits_of(one, status, find(dsns, bootstrap, [one]))


def as_open(
    payment_id: UUID,
    status: Status | None,
    account_id: str | None = None,
    also_acts_on: frozenset[str] = frozenset(),
) -> Open:
    """What is needed to ask what holds a withdrawal up; the arguments are those of :func:`look`."""
    if status is None:
        return Open(payment_id, account_id, 0, None, also_acts_on)
    since = min((step.at for step in status.steps), default=None)
    return Open(payment_id, status.account_id, status.seen, since, also_acts_on)


def waits_of(one: Open, status: Status | None, found: Found) -> Waits:
    """What a withdrawal waits for, given its status and what was found."""
    payment_id = one.payment_id
    held_up_by, pending = found.held_up_by.get(payment_id), found.pending.get(payment_id)
    if held_up_by is not None:
        return Waits(held_up_by, held_up_by, pending, found.unasked)
    words = (status.waiting_for if status is not None else None) or UNKNOWN
    if pending is not None:
        return Waits(f"{words}, which is in hand: {pending.in_words()}", None, pending, found.unasked)
    last = max((step.at for step in status.steps), default=None) if status is not None else None
    silent_s = (datetime.now(UTC) - last).total_seconds() if last is not None else 0.0
    if silent_s > SILENT_S_MAX:  # its message may have been deleted, or discarded
        words += f"; no event for {silent_s:.0f} s: `settle nudge {payment_id}` republishes what it waits for"
    return Waits(words, None, None, found.unasked)
