"""Failpoints: named places between two steps where a process can be made to crash, where a crash does most harm.

``SETTLE_FAILPOINT=account.committed`` ends the process the first time it reaches that place, and
``account.committed:3`` the third time: at once, with exit code 86, without cleaning up, as a crash would. For
tests and for ``settle chaos``.
"""

import os
import sys
import threading

from contracts.services import SERVICES

VARIABLE = "SETTLE_FAILPOINT"
EXIT_CODE = 86

_OF_EVERY_PROCESSOR = {
    "batch-taken": "a batch has been taken from Kafka, nothing is done yet",
    "written": "all statements of the transaction are sent, COMMIT is not",
    "committed": "the transaction is committed, the offsets are not stored",
    "dead-letters-sent": "dead letters are in Kafka, the offsets are not stored",
    "offsets-stored": "the offsets are stored, Kafka does not know them yet",
}

FAILPOINTS: dict[str, str] = {
    **{
        f"{service.name}.{place}": meaning
        for service in SERVICES
        for place, meaning in {**(_OF_EVERY_PROCESSOR if service.reads else {}), **service.failpoints}.items()
    },
    "relay.rows-sent": "rows are on their way to Kafka, none is acknowledged",
    "relay.acknowledged": "Kafka has the rows, the slot's position is not confirmed",
    "relay.confirmed": "the slot's position is confirmed",
    "control.skipped": "a row that was to be skipped is quarantined, the log's position is not confirmed",
    "control.repeated": "rows that were to be repeated are published again, that is not written down",
    "redrive.intended": "it is on record that dead letters will be sent back, none is sent",
    "redrive.sent": "dead letters are sent back, that is not on record yet",
    "monolith.checked": "the account is locked and has enough, nothing is changed",
    "monolith.deducted": "the money is off the balance, COMMIT is not sent",
    "monolith.recorded": "withdrawal, payment and notification are written, COMMIT is not sent",
    "monolith.committed": "all is committed, the caller has no answer",
    "two-phase-commit.prepared-account": "the account service has prepared, the others have not been asked",
    "two-phase-commit.prepared-payment": "account and payment service have prepared",
    "two-phase-commit.prepared-notification": "all have prepared, nothing is decided",
    "two-phase-commit.decided": "the decision is in the log, no participant knows it",
    "two-phase-commit.committed-account": "the account service has committed, the others have not",
    "two-phase-commit.committed-payment": "account and payment service have committed",
    "two-phase-commit.committed-notification": "all have committed, the log does not know it",
    "event-sourcing.deducted": "MoneyDeducted is stored, nothing is paid",
    "event-sourcing.paid": "the payment is made, PaymentProcessed is not stored",
    "event-sourcing.completed": "the last event is stored, the caller has no answer",
    "outbox.deducted": "the money is off the balance, there is no outbox row",
    "outbox.written": "the outbox row is written, COMMIT is not sent",
    "outbox.committed": "deduction and outbox row are committed, the caller has no answer",
    "outbox.published": "the polling worker has Kafka's acknowledgement, the rows are not marked",
    "outbox.paid": "the payment service has paid, its offsets are not committed",
    "naive.deducted": "the deduction is committed, nothing is sent",
    "naive.sent": "the event is sent, the caller has no answer",
}
"""Every failpoint by its name: what has happened at that point and what has not."""


class FailpointError(ValueError):
    """``SETTLE_FAILPOINT`` names no failpoint."""


_armed: str | None = None
_left = 0
_lock = threading.Lock()


def arm(text: str | None) -> None:
    """Choose the failpoint where this process dies; None or empty: none.

    Args:
        text: ``name`` or ``name:count``, the latter for the count-th time.

    Raises:
        FailpointError: no such place, or a count that is not 1 or more.
    """
    global _armed, _left
    name, _, count = (text or "").partition(":")
    if name and name not in FAILPOINTS:
        raise FailpointError(f"{VARIABLE}={text}: no such failpoint; `settle failpoints` lists them")
    if not (count.isascii() and count.isdigit() and int(count) > 0) and count != "":
        raise FailpointError(f"{VARIABLE}={text}: the count after ':' must be a whole number from 1 on")
    _armed, _left = name or None, int(count or 1)


def arm_from_environment() -> None:
    """Arm the failpoint named by ``SETTLE_FAILPOINT``; a process calls this once, at its start.

    Raises:
        FailpointError: the variable is invalid.
    """
    arm(os.environ.get(VARIABLE))


def hit(name: str) -> None:
    """Mark a failpoint as reached: ends the process if it is armed; otherwise one comparison (40 ns)."""
    if _armed is not None and name == _armed:
        _count_down(name)


def _count_down(name: str) -> None:
    global _left
    with _lock:
        _left -= 1
        if _left > 0:
            return
        assert name in FAILPOINTS
        print(f"failpoint {name} reached, the process dies here", file=sys.stderr, flush=True)
        os._exit(EXIT_CODE)
