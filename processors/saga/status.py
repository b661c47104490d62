"""Queries for the status of withdrawals, from the saga service's database.

Bodies are stored as received, so they are parsed here and not by the database: one with a time that it
does not accept, such as a time zone of 20 hours, would fail the whole query.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from contracts.events import ContractError, decode
from contracts.postgres import session
from processors.runtime import utc
from processors.saga.decide import waiting_for

# One statement is one snapshot: what a withdrawal waits for and its steps are of the same moment.
_STATUS = """
SELECT state, seen, account_id, amount_minor, currency, reason, trace_id, finished_at, finished_by,
    type, payload::text, recorded_at
FROM withdrawals LEFT JOIN event_store USING (payment_id) WHERE payment_id = %s ORDER BY sequence
"""

# By the time of the end and not by payment ID: an ID chosen by its sender need not be time-ordered.
_ENDED = """
SELECT payment_id, state, reason, trace_id FROM withdrawals
WHERE finished_at IS NOT NULL AND (%(trace_ids)s::text[] IS NULL OR trace_id = ANY(%(trace_ids)s))
ORDER BY finished_at DESC, payment_id DESC LIMIT %(count)s
"""


class Step(msgspec.Struct, frozen=True):
    """One event of a withdrawal, when it happened (UTC), and its reason where it has one."""

    event: str
    at: datetime
    reason: str | None = None


class Status(msgspec.Struct, frozen=True):
    """The status of a withdrawal: its committed steps, what it waits for, and the event that finished it.

    ``seen`` are the bits of its events (:data:`processors.saga.decide.BITS`).
    """

    payment_id: UUID
    state: str
    finished: bool
    finished_by: str | None
    steps: list[Step]
    waiting_for: str | None
    trace_id: str | None
    account_id: str
    amount_minor: int
    currency: str
    reason: str | None
    finished_at: datetime | None
    seen: int


def find_status(dsn: str, payment_id: UUID) -> Status | None:
    """Query the saga service's database; None for an unknown payment ID.

    Raises:
        psycopg.OperationalError: the database does not answer.
    """
    with session(dsn) as connection:
        return status_of(connection, payment_id)


def status_of(connection: psycopg.Connection, payment_id: UUID) -> Status | None:
    """The same on an open connection, for repeated queries."""
    rows = utc.cursor(connection).execute(_STATUS, (payment_id,)).fetchall()
    if not rows:
        return None
    state, seen, account_id, amount_minor, currency, reason, trace_id, finished_at, finished_by = rows[0][:9]
    steps = [_step(*row[9:]) for row in rows if row[9] is not None]
    return Status(
        payment_id=payment_id,
        state=state,
        finished=finished_by is not None,
        finished_by=finished_by,
        # There is no order between topics, so the order of arrival is not the order of events.
        steps=sorted(steps, key=lambda step: step.at),
        waiting_for=waiting_for(seen),
        trace_id=trace_id,
        account_id=account_id,
        amount_minor=amount_minor,
        currency=currency,
        reason=reason,
        finished_at=finished_at,
        seen=seen,
    )


class _LenientBody(msgspec.Struct):
    """The fields of a body that violates its contract, as far as they can be read."""

    occurred_at: Any = None
    reason: Any = None


_LENIENT = msgspec.json.Decoder(_LenientBody)


def _step(event_type: str, body: str, recorded_at: datetime) -> Step:
    """A stored event, decoded as on arrival: PostgreSQL's own parser may refuse what the contract allows."""
    try:
        event = decode(event_type, body.encode())
    except (KeyError, ContractError):  # stored by a version with a laxer contract
        return _lenient_step(event_type, body, recorded_at)
    return Step(event_type, event.occurred_at, getattr(event, "reason", None))


def _lenient_step(event_type: str, body: str, recorded_at: datetime) -> Step:
    """A stored event that is no longer valid; without a readable time in its body, that of recording counts."""
    try:
        fields = _LENIENT.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        fields = _LenientBody()
    at = utc.parse(fields.occurred_at) if isinstance(fields.occurred_at, str) else None
    return Step(event_type, at or recorded_at, fields.reason if isinstance(fields.reason, str) else None)


class Ended(msgspec.Struct, frozen=True):
    """The final state of a finished withdrawal, its reason, and its trace ID."""

    payment_id: UUID
    state: str
    reason: str | None
    trace_id: str | None


def ended(dsn: str, count: int, trace_ids: Sequence[str] | None = None) -> list[Ended]:
    """The withdrawals that finished last, the latest first; with trace IDs, only those with one of them.

    Raises:
        psycopg.OperationalError: the database does not answer.
    """
    values = {"count": count, "trace_ids": list(trace_ids) if trace_ids is not None else None}
    with session(dsn) as connection:
        return [Ended(*row) for row in connection.execute(_ENDED, values)]
