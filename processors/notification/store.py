"""All SQL of the notification service: how notifications are read and written."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from processors.notification.decide import Notification
from processors.runtime import outbox_rows
from processors.runtime.messages import Emitted
from processors.runtime.rows import Rows, Write, uuid_array, write_rows
from tracing import TraceContext

Key = tuple[UUID, str]
"""Payment ID and template."""

_COLUMNS = """
payment_id, template, account_id, amount_minor, currency, recipient, status, reason, attempts, next_attempt_at,
created_at, traceparent, tracestate
"""

_KNOWN = "SELECT payment_id, template FROM notifications WHERE payment_id = ANY(%t::uuid[])"

# As text: in binary format an empty array has no element type.
_KEYS = "SELECT * FROM unnest(%t::uuid[], %t::text[])"

_IS_DUE = f"""
status = 'pending' AND next_attempt_at <= %b AND {{of}} AND (payment_id, template) NOT IN ({_KEYS})
ORDER BY next_attempt_at LIMIT %b
"""

# Concurrent instances work on different rows, never on the same ones.
_LOCK_DUE = f"SELECT {_COLUMNS} FROM notifications WHERE {_IS_DUE} FOR UPDATE SKIP LOCKED"  # noqa: S608 made of constants

_KEYS_DUE = f"SELECT payment_id, template FROM notifications WHERE {_IS_DUE}"  # noqa: S608 made of constants

_ANY, _UNTRIED, _TRIED = "true", "attempts = 0", "attempts > 0"

_LOCK_THESE = f"""
SELECT {_COLUMNS} FROM notifications
WHERE (payment_id, template) IN ({_KEYS}) AND status = 'pending' AND next_attempt_at <= %b FOR UPDATE SKIP LOCKED
"""  # noqa: S608 made of constants

_PUSH_BACK = """
UPDATE notifications SET reason = %b, next_attempt_at = %b, updated_at = now()
WHERE payment_id = %b AND template = %b AND status = 'pending'
"""

_NOTIFICATIONS = Rows(
    "notifications",
    payment_id="uuid",
    template="text",
    account_id="text",
    amount_minor="bigint",
    currency="text",
    recipient="text",
    status="text",
    reason="text",
    attempts="smallint",
    next_attempt_at="timestamptz",
    traceparent="text",
    tracestate="text",
)

_UPDATE = """
UPDATE notifications p SET status = n.status, reason = n.reason, attempts = n.attempts,
    next_attempt_at = n.next_attempt_at, updated_at = now()
FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::text[], %b::smallint[], %b::timestamptz[])
    AS n (payment_id, template, status, reason, attempts, next_attempt_at)
WHERE p.payment_id = n.payment_id AND p.template = n.template
"""


async def known(connection: AsyncConnection, payment_ids: Sequence[UUID]) -> set[tuple[UUID, str]]:
    """Payment ID and template of the existing notifications."""
    cursor = await connection.execute(_KNOWN, (uuid_array(payment_ids),))
    return {(row[0], row[1]) for row in await cursor.fetchall()}


async def lock_due(
    connection: AsyncConnection, now: datetime, but: Sequence[Key], limit: int
) -> list[Notification]:
    """Pending notifications that are due, locked until the transaction ends.

    The oldest come first; of a single one, as a probe of an open circuit, those that were never tried: what was
    refused before delays no new one.

    Args:
        connection: in a transaction.
        now: the time.
        but: notifications to skip.
        limit: how many at the most.
    """
    return [_notification(row) for row in await _due(connection, _LOCK_DUE, now, but, limit)]


async def due(connection: AsyncConnection, now: datetime, but: Sequence[Key], limit: int) -> list[Key]:
    """The same by key only, without locks."""
    return [(row[0], row[1]) for row in await _due(connection, _KEYS_DUE, now, but, limit)]


async def _due(
    connection: AsyncConnection, statement: str, now: datetime, but: Sequence[Key], limit: int
) -> list[tuple[Any, ...]]:
    # By kind, all that is due is read where there is none: only for a probe, which is rare.
    for of in (_UNTRIED, _TRIED) if limit == 1 else (_ANY,):
        cursor = await connection.execute(statement.format(of=of).encode(), (now, *_keys(but), limit))
        if rows := await cursor.fetchall():
            return rows
    return []


async def lock_these(connection: AsyncConnection, keys: Sequence[Key], now: datetime) -> list[Notification]:
    """Those of the given notifications that are still due, locked until the transaction ends."""
    cursor = await connection.execute(_LOCK_THESE, (*_keys(keys), now))
    return [_notification(row) for row in await cursor.fetchall()]


async def push_back(connection: AsyncConnection, key: Key, reason: str, next_attempt_at: datetime) -> None:
    """Reschedule a notification that cannot be handled."""
    await connection.execute(_PUSH_BACK, (reason, next_attempt_at, *key))


def _keys(keys: Sequence[Key]) -> tuple[list[UUID], list[str]]:
    return [payment_id for payment_id, _ in keys], [template for _, template in keys]


async def insert(
    connection: AsyncConnection, notifications: Sequence[Notification], emitted: Sequence[Emitted]
) -> None:
    """Write new notifications and their events.

    Raises:
        psycopg.errors.UniqueViolation: another instance sent one of them first.
    """
    rows = [_row(notification) for notification in notifications]
    await write_rows(connection, _NOTIFICATIONS.insert(rows), outbox_rows.insert("notification", emitted))


async def update(
    connection: AsyncConnection, notifications: Sequence[Notification], emitted: Sequence[Emitted]
) -> None:
    """Write the outcomes of pending notifications, and their events."""
    rows = [(n.payment_id, n.template, n.status, n.reason, n.attempts, n.next_attempt_at) for n in notifications]
    await write_rows(connection, Write(_UPDATE, rows), outbox_rows.insert("notification", emitted))


def _row(notification: Notification) -> tuple[object, ...]:
    return (
        notification.payment_id,
        notification.template,
        notification.account_id,
        notification.amount_minor,
        notification.currency,
        notification.recipient,
        notification.status,
        notification.reason,
        notification.attempts,
        notification.next_attempt_at,
        notification.context.traceparent,
        notification.context.tracestate,
    )


def _notification(row: tuple[Any, ...]) -> Notification:
    payment_id, template, account_id, amount_minor, currency, recipient, *progress, parent, state = row
    context = TraceContext(parent, state)
    return Notification(payment_id, template, account_id, amount_minor, currency, recipient, context, *progress)
