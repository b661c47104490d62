"""Lost events, rebuilt from the tables of the services that emitted them.

Only events of which no copy exists are rebuilt. The message ID is derived from payment ID and event type, for a
request from its contents, as producers do.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from contracts.events import (
    BalanceChecked,
    CancelRefused,
    Event,
    MoneyDeducted,
    MoneyRefunded,
    NotificationFailed,
    NotificationSent,
    PaymentFailed,
    PaymentProcessed,
    WithdrawalRejected,
    WithdrawalRequested,
    encode,
    follow,
    made_again_id,
    request_id,
)
from contracts.postgres import session
from contracts.services import API
from operations.lost import Lost
from processors.account import decide as account
from processors.notification import decide as notification
from processors.payment import decide as payment
from processors.runtime import utc

# The ledger is ordered by the start of transactions, so under load a balance may be slightly out of order.
_ACCOUNT_ROWS = """
WITH chosen AS (SELECT * FROM saga_log WHERE payment_id = ANY(%s)), booked AS (
    SELECT payment_id, kind, sum(amount_minor) OVER (PARTITION BY account_id ORDER BY booked_at, payment_id)
        + (SELECT opening_balance_minor FROM accounts a WHERE a.account_id = l.account_id) AS balance_minor
    FROM ledger l WHERE account_id IN (SELECT account_id FROM chosen))
SELECT c.payment_id, c.account_id, c.amount_minor, c.currency, c.status, coalesce(c.reason, ''), c.created_at,
    c.updated_at, d.balance_minor::bigint, r.balance_minor::bigint
FROM chosen c LEFT JOIN booked d ON d.payment_id = c.payment_id AND d.kind = 'deduction'
    LEFT JOIN booked r ON r.payment_id = c.payment_id AND r.kind = 'refund'
"""
_PAYMENT_ROWS = """
SELECT payment_id, account_id, amount_minor, currency, status, coalesce(reason, ''),
    coalesce(provider_reference, ''), updated_at, traceparent, tracestate
FROM payments WHERE payment_id = ANY(%s)
"""
_NOTIFICATION_ROWS = """
SELECT payment_id, account_id, amount_minor, currency, status, coalesce(reason, ''), template, recipient,
    updated_at, traceparent, tracestate
FROM notifications WHERE payment_id = ANY(%s)
"""


_ACCEPTED_ROWS = """
SELECT payment_id, account_id, amount_minor, currency, requested_at, nullif(traceparent, '')
FROM withdrawals WHERE payment_id = ANY(%s)
"""


class _Contents(NamedTuple):
    payment_id: UUID
    account_id: str
    amount_minor: int
    currency: str


Rebuilt = Iterator[tuple[Any, ...]]
"""Events, each with its trace context where that is known, by payment ID and type."""


def rebuild(dsns: Mapping[str, str], missing: Mapping[UUID, set[str]]) -> dict[UUID, dict[str, Lost]]:
    """Those of the missing events that the tables prove, by withdrawal and type.

    Args:
        dsns: of ``account``, ``payment`` and ``notification``, and of ``api`` where there is one.
        missing: event types by withdrawal.

    Raises:
        psycopg.OperationalError: a database does not answer.
    """
    found: dict[UUID, dict[str, Lost]] = {payment_id: {} for payment_id in missing}
    for service in (name for name in _SOURCES if name in dsns):
        query, tell = _SOURCES[service]
        with session(dsns[service]) as connection:
            for row in utc.cursor(connection).execute(query, (list(missing),)):
                contents = _Contents(*row[:4])
                for event, *context in tell(contents, *row[4:]):
                    event_type = type(event).__name__
                    if event_type in missing[contents.payment_id]:
                        found[contents.payment_id][event_type] = _made(event, *context)
    return found


def _made(event: Event, traceparent: str | None = None, tracestate: str | None = None) -> Lost:
    event_type = type(event).__name__
    if isinstance(event, WithdrawalRequested):
        message_id = UUID(request_id(event))
    else:
        message_id = made_again_id(event.payment_id, event_type)
    body = encode(event).decode()
    return Lost(
        event.payment_id, event_type, message_id, event.account_id, body, traceparent, tracestate, made_again=True
    )


def _accepted_events(about: _Contents, requested_at: datetime, traceparent: str | None) -> Rebuilt:
    yield follow(WithdrawalRequested, about, requested_at), traceparent


def _account_events(
    about: _Contents,
    status: str,
    reason: str,
    decided_at: datetime,
    updated_at: datetime,
    deducted_minor: int | None,
    refunded_minor: int | None,
) -> Rebuilt:
    yield (follow(WithdrawalRequested, about, decided_at),)
    if status == account.REJECTED:
        yield (follow(WithdrawalRejected, about, decided_at, reason=reason),)
        return
    left_minor = deducted_minor or 0
    before_minor = left_minor + about.amount_minor
    yield (follow(BalanceChecked, about, decided_at, balance_minor=before_minor, sufficient=True),)
    yield (follow(MoneyDeducted, about, decided_at, balance_minor=left_minor),)
    if status == account.COMPENSATED:
        yield (follow(MoneyRefunded, about, updated_at, balance_minor=refunded_minor or 0, reason=reason),)


def _payment_events(
    about: _Contents, status: str, reason: str, reference: str, at: datetime, *context: str | None
) -> Rebuilt:
    if status == payment.PROCESSED:
        yield follow(PaymentProcessed, about, at, provider_reference=reference), *context
        yield follow(CancelRefused, about, at, reason=payment.ALREADY_PAID), *context
    if status == payment.FAILED:
        yield follow(PaymentFailed, about, at, reason=reason), *context
        yield follow(CancelRefused, about, at, reason=f"{payment.ALREADY_FAILED}: {reason}"), *context


def _notification_events(
    about: _Contents,
    status: str,
    reason: str,
    template: str,
    recipient: str,
    at: datetime,
    *context: str | None,
) -> Rebuilt:
    if status == notification.SENT:
        yield follow(NotificationSent, about, at, template=template, recipient=recipient), *context
    if status == notification.FAILED:
        yield follow(NotificationFailed, about, at, template=template, reason=reason), *context


# Where the account service knows a request, it alone says what counts: its events come after the API's.
_SOURCES: dict[str, tuple[str, Callable[..., Rebuilt]]] = {
    API: (_ACCEPTED_ROWS, _accepted_events),
    "account": (_ACCOUNT_ROWS, _account_events),
    "payment": (_PAYMENT_ROWS, _payment_events),
    "notification": (_NOTIFICATION_ROWS, _notification_events),
}
