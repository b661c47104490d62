"""A caller that retries with the same payment ID until it has an answer."""

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from contracts.events import WithdrawalRequested
from lab.approaches.withdrawal import ACCEPTED, Approach, Outcome, TryAgainError

PATIENCE_S = 60.0
POLL_S = 0.01
PAUSE_S = 0.05

T = TypeVar("T")


class NotInTimeError(Exception):
    """An expected condition did not become true in time."""


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = PATIENCE_S, poll_s: float = POLL_S) -> T:
    """Poll until the condition is true; returns its value.

    Raises:
        NotInTimeError: not within ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise NotInTimeError(f"not within {timeout_s:g} s: {what}")
        time.sleep(poll_s)
    return answer


def ask(client: Approach, request: WithdrawalRequested, timeout_s: float = PATIENCE_S) -> tuple[Outcome, int]:
    """The final answer, and the number of retries before it.

    Raises:
        NotInTimeError: still undecided after ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    retries = 0
    while True:
        try:
            return client.withdraw(request), retries
        except TryAgainError as error:
            retries += 1
            if time.monotonic() > deadline:
                raise NotInTimeError(f"undecided after {timeout_s:g} s: {error}") from None
            time.sleep(PAUSE_S)


def finish(client: Approach, requests: Iterable[WithdrawalRequested], timeout_s: float = PATIENCE_S) -> None:
    """Wait until withdrawals that were accepted are finished."""
    for request in requests:
        wait_for(lambda: client.finished(request.payment_id), f"{request.payment_id} finished", timeout_s)  # noqa: B023


def is_open(outcome: Outcome) -> bool:
    """Whether the withdrawal is accepted but not finished."""
    return outcome.state == ACCEPTED
