"""Stuck withdrawals: those that make no progress, and what each of them waits for."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from contracts.postgres import session
from operations.audit.read import PAYMENT_ID_OF_DEAD
from processors.runtime import utc
from processors.saga.decide import waiting_for

# The first condition is that of the index on open withdrawals: those that end in time are never looked at.
_STUCK = """
SELECT payment_id, state, seen, account_id, amount_minor, currency, reason, created_at, updated_at
FROM withdrawals
WHERE finished_at IS NULL AND created_at < now() - make_interval(secs => %(age)s)
    AND updated_at < now() - make_interval(secs => %(age)s)
ORDER BY updated_at LIMIT %(limit)s
"""

_PENDING_PAYMENTS = """
SELECT payment_id, attempts, reason, void_reason, next_attempt_at, claim IS NOT NULL FROM payments
WHERE payment_id = ANY(%s) AND status = 'pending'
"""

_PENDING_MAILS = """
SELECT payment_id, attempts, reason, NULL, next_attempt_at, false FROM notifications
WHERE payment_id = ANY(%s) AND status = 'pending'
"""


_PENDING_REFUNDS = """
SELECT payment_id, attempts, error, NULL, next_attempt_at, false FROM refunds_due WHERE payment_id = ANY(%s)
"""

_DEAD = f"""
SELECT ({PAYMENT_ID_OF_DEAD})::uuid, min(type) FROM outbox_dead
WHERE {PAYMENT_ID_OF_DEAD} = ANY(%s) AND type IS NOT NULL GROUP BY 1
"""

_PENDING = {"notification": _PENDING_MAILS, "payment": _PENDING_PAYMENTS, "account": _PENDING_REFUNDS}


class Pending(msgspec.Struct, frozen=True):
    """Something that a service will try again by itself: a charge, a mail, a refund.

    Attributes:
        attempts: made so far.
        reason: why the last one did not do; None before the first.
        void_reason: for a payment that is to be voided rather than paid, why.
        next_attempt_at: when it is due.
        under_way: whether it is being tried now; it is due again at ``next_attempt_at`` should that fail.
    """

    attempts: int
    reason: str | None
    void_reason: str | None
    next_attempt_at: datetime
    under_way: bool

    def in_words(self) -> str:
        """For a person, on one line."""
        wish = f"to be voided: {self.void_reason}; " if self.void_reason else ""
        tried = f"{self.attempts} attempts, last: {self.reason}" if self.attempts else self.reason or "not tried"
        when = "under way" if self.under_way else f"next at {self.next_attempt_at:%H:%M:%S} UTC"
        return f"{wish}{tried}; {when}"


class Stuck(msgspec.Struct, frozen=True):
    """A withdrawal without progress; the amount in minor units.

    Attributes:
        since: when its last event was recorded.
        waiting_for: what has to happen next, in words.
        pending: what a service is trying, if that is what it waits for.
    """

    payment_id: UUID
    state: str
    account_id: str
    amount_minor: int
    currency: str
    reason: str | None
    requested_at: datetime
    since: datetime
    waiting_for: str | None
    pending: Pending | None


def stuck(dsns: Mapping[str, str], older_than_s: float, limit: int) -> list[Stuck]:
    """The withdrawals that have not ended and had no event for some time, the oldest standstill first.

    Args:
        dsns: of ``saga``, ``account``, ``payment`` and ``notification``.
        older_than_s: how long nothing has happened, seconds.
        limit: how many at the most.

    Raises:
        psycopg.OperationalError: a database does not answer.
    """
    with session(dsns["saga"]) as connection:
        rows = utc.cursor(connection).execute(_STUCK, {"age": older_than_s, "limit": limit}).fetchall()
    payment_ids = [row[0] for row in rows]
    pending = waiting(dsns, payment_ids)
    dead = _dead(dsns, payment_ids)
    return [
        Stuck(
            payment_id,
            state,
            account_id,
            amount_minor,
            currency,
            reason,
            created_at,
            updated_at,
            dead.get(payment_id) or waiting_for(seen),
            pending.get(payment_id),
        )
        for payment_id, state, seen, account_id, amount_minor, currency, reason, created_at, updated_at in rows
    ]


def _dead(dsns: Mapping[str, str], payment_ids: list[UUID]) -> dict[UUID, str]:
    """What was done, while its event could not be published, in words."""
    found = {}
    ids = [str(payment_id) for payment_id in payment_ids]
    for service in _PENDING:
        with session(dsns[service]) as connection:
            for payment_id, event_type in connection.execute(_DEAD.encode(), (ids,)):
                found[payment_id] = f"{event_type}, a dead row of the {service} outbox: `settle outbox dead list`"
    return found


def waiting(dsns: Mapping[str, str], payment_ids: list[UUID]) -> dict[UUID, Pending]:
    """What the services have yet to do for these withdrawals, and when they will try.

    Args:
        dsns: of ``account``, ``payment`` and ``notification``.
        payment_ids: of the withdrawals.

    Raises:
        psycopg.OperationalError: a database does not answer.
    """
    pending: dict[UUID, Pending] = {}
    for service, query in _PENDING.items():
        with session(dsns[service]) as connection:
            for row in utc.cursor(connection).execute(query, (payment_ids,)).fetchall():
                pending[row[0]] = Pending(*row[1:])
    return pending
