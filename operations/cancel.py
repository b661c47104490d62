"""Cancelling a withdrawal: the request for it, and what the payment service decided."""

import time
from collections.abc import Callable

import msgspec

from operations.errors import FinishedError
from processors.saga.decide import INCOMPLETE
from processors.saga.status import Status

POLL_EVERY_S = 0.05

CANCELLED = "cancelled"


class Cancellation(msgspec.Struct, frozen=True):
    """What came of a cancellation.

    Attributes:
        status: the last one seen; None for a withdrawal whose request the saga service does not have.
        answer: ``cancelled``, or why it is not; None while it is undecided.
    """

    status: Status | None
    answer: str | None


def cancel(find: Callable[[], Status | None], request: Callable[[Status], None], wait_s: float) -> Cancellation:
    """Ask the payment service to cancel a withdrawal that is not paid yet, and wait for its decision.

    Args:
        find: the status of the withdrawal.
        request: sends the request for it (``producers.cancel.request_cancel``); not called once it is decided.
        wait_s: how long to wait, seconds; the request stays in force after that.

    Raises:
        FinishedError: the withdrawal is finished, and nothing was asked for.
    """
    found = find()
    if found is None or found.state == INCOMPLETE:
        return Cancellation(None, None)
    if found.finished:
        raise FinishedError(found)
    if decided(found) is None:
        request(found)
    deadline = time.monotonic() + wait_s
    while (answer := decided(found)) is None and time.monotonic() <= deadline:
        time.sleep(POLL_EVERY_S)
        found = find() or found
    return Cancellation(found, answer)


def decided(status: Status) -> str | None:
    """``cancelled``, or why it is not; None while it is undecided."""
    refusals = [step.reason for step in status.steps if step.event == "CancelRefused"]
    if refusals:
        return refusals[-1]
    if status.state in ("compensating", "compensated") and status.reason is not None:
        return status.reason if status.reason == CANCELLED else f"already_failed: {status.reason}"
    if status.state in ("paid", "completed"):
        return "already_paid"
    return f"rejected: {status.reason}" if status.state == "rejected" else None
