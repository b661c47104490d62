"""Cancelling a withdrawal: the request for it, and what the payment service decided."""

import time
from collections.abc import Callable

import msgspec

from operations.accepted import ACCEPTED
from operations.errors import FinishedError
from processors.saga.decide import REJECTED
from processors.saga.status import Status

POLL_EVERY_S = 0.05

CANCELLED = "cancelled"


class Cancellation(msgspec.Struct, frozen=True):
    """What came of a cancellation.

    Attributes:
        status: the last one seen; None where nothing is known of the withdrawal.
        answer: ``cancelled``, or why it is not; None while it is undecided.
    """

    status: Status | None
    answer: str | None

    @property
    def is_recorded(self) -> bool:
        """Whether the saga service knows the withdrawal, so that its events tell what is decided."""
        return self.status is not None and self.status.state != ACCEPTED


def cancel(
    find: Callable[[], Status | None], request: Callable[[Status | None], None], wait_s: float
) -> Cancellation:
    """Ask the payment service to cancel a withdrawal that is not paid yet, and wait for its decision.

    Args:
        find: the status of the withdrawal.
        request: sends the request for it (``producers.cancel.request_cancel``), given its status, None where
            nothing is known; not called once it is decided.
        wait_s: how long to wait, seconds; the request stays in force after that.

    Raises:
        FinishedError: the withdrawal is finished, and nothing was asked for.
    """
    found = find()
    if found is not None and found.finished:
        raise FinishedError(found)
    if decided(found) is None:
        request(found)
    deadline = time.monotonic() + wait_s
    while (answer := decided(found)) is None and time.monotonic() <= deadline:
        time.sleep(POLL_EVERY_S)
        found = find() or found
    return Cancellation(found, answer)


def decided(status: Status | None) -> str | None:
    """``cancelled``, or why it is not; None while it is undecided.

    The steps decide, as the state of a withdrawal whose request is lost stays ``incomplete``.
    """
    if status is None:
        return None
    reasons = {step.event: step.reason for step in status.steps}
    if (refusal := reasons.get("CancelRefused")) is not None:
        return refusal
    if status.state == REJECTED or "WithdrawalRejected" in reasons:
        return f"rejected: {reasons.get('WithdrawalRejected') or status.reason}"
    if (failure := reasons.get("PaymentFailed")) is not None:
        return failure if failure == CANCELLED else f"already_failed: {failure}"
    return "already_paid" if "PaymentProcessed" in reasons else None
