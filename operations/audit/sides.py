"""The audit's view of each withdrawal in every service: a stream per database, merged by payment ID.

Memory stays flat however many withdrawals there are: each database sends its rows in order, and rows of the same
payment ID meet here.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import Any
from uuid import UUID

from contracts.postgres import session
from operations.audit.story import AccountSide, NotificationSide, PaymentSide, ProviderSide, SagaSide, Story

FETCH_ROWS = 5_000

_PAYMENT_ID = """substring({} from '"payment_id": ?"([0-9a-f-]{{36}})"')"""
# Not by a JSON operator, which would fail on one body that cannot be parsed.
PAYMENT_ID_OF_ROW = _PAYMENT_ID.format("payload::text")
"""SQL for the payment ID, as text, in a row of ``outbox``."""
PAYMENT_ID_OF_DEAD = _PAYMENT_ID.format("encode(payload, 'escape')")
"""SQL for the payment ID, as text, in a row of ``outbox_dead``, whatever else it holds."""

# ``{which}`` stands for the condition on payment IDs, where only some are wanted.
_ACCOUNT = """
SELECT payment_id, l.account_id, l.amount_minor, l.currency, l.status,
    coalesce(b.deductions, 0), coalesce(b.refunds, 0), coalesce(b.net, 0)::bigint,
    coalesce(nullif(b.first_account, l.account_id), nullif(b.last_account, l.account_id))
FROM (SELECT * FROM saga_log {which}) l FULL JOIN (
    SELECT payment_id, count(*) FILTER (WHERE kind = 'deduction') AS deductions,
        count(*) FILTER (WHERE kind = 'refund') AS refunds, sum(amount_minor) AS net,
        min(account_id COLLATE "C") AS first_account, max(account_id COLLATE "C") AS last_account
    FROM ledger {which} GROUP BY payment_id) b USING (payment_id)
ORDER BY payment_id
"""

_PAYMENT = """
SELECT payment_id, account_id, amount_minor, currency, status FROM payments {which} ORDER BY payment_id
"""

_NOTIFICATION = """
SELECT payment_id, count(*) FILTER (WHERE status = 'sent'), count(*) FILTER (WHERE status = 'failed')
FROM notifications {which} GROUP BY payment_id ORDER BY payment_id
"""

_PROVIDER = """
SELECT payment_id, account_id, amount_minor, currency, status, count(*) OVER (PARTITION BY payment_id)
FROM charges {which} ORDER BY payment_id
"""

_SAGA = """
SELECT payment_id, w.account_id, w.amount_minor, w.currency, w.state, coalesce(e.types, ARRAY[]::text[]),
    coalesce(e.derived, ARRAY[]::uuid[])
FROM (SELECT * FROM withdrawals {which}) w FULL JOIN (
    SELECT payment_id, array_agg(type ORDER BY type) AS types, array_agg(event_id) FILTER (
        WHERE get_byte(uuid_send(event_id), 6) >> 4 = 5 AND type <> 'WithdrawalRequested') AS derived
    FROM event_store {which} GROUP BY payment_id) e
    USING (payment_id)
ORDER BY payment_id
"""

_SOME = "WHERE payment_id = ANY(%(ids)s::uuid[])"

# Later services first: whatever they have, the earlier ones must have when they are read after them.
_SOURCES = (
    ("saga", _SAGA),
    ("notification", _NOTIFICATION),
    ("provider", _PROVIDER),
    ("payment", _PAYMENT),
    ("account", _ACCOUNT),
)


def stories(dsns: Mapping[str, str], ids: Sequence[UUID] | None = None) -> Iterator[Story]:
    """The story of every withdrawal in any database, by ascending payment ID.

    Args:
        dsns: of ``account``, ``payment``, ``notification``, ``provider`` and ``saga``.
        ids: payment IDs, where only some withdrawals are wanted.

    Raises:
        psycopg.OperationalError: a database does not answer.
    """
    with ExitStack() as stack:
        streams = []
        for place, (name, query) in enumerate(_SOURCES):
            connection = stack.enter_context(session(dsns[name]))
            # A server-side cursor sees the database as it is now, however long the reading takes.
            cursor = connection.cursor(f"audit_{name}")
            cursor.itersize = FETCH_ROWS
            cursor.execute(query.format(which="" if ids is None else _SOME).encode(), {"ids": ids})
            streams.append(_tagged(place, cursor))
        merged = heapq.merge(*streams, key=lambda item: item[0])
        for payment_id, rows in groupby(merged, key=lambda item: item[0]):
            yield _story(payment_id, {_SOURCES[place][0]: row for _, place, row in rows})


def _tagged(place: int, rows: Any) -> Iterator[tuple[UUID, int, tuple[Any, ...]]]:
    for row in rows:
        yield row[0], place, row


def _story(payment_id: UUID, rows: Mapping[str, tuple[Any, ...]]) -> Story:
    account, payment = rows.get("account"), rows.get("payment")
    provider, saga, notification = rows.get("provider"), rows.get("saga"), rows.get("notification")
    return Story(
        payment_id,
        AccountSide(_contents(account), *account[4:]) if account else None,
        PaymentSide((payment[1], payment[2], payment[3]), payment[4]) if payment else None,
        ProviderSide((provider[1], provider[2], provider[3]), *provider[4:]) if provider else None,
        SagaSide(_contents(saga), *saga[4:]) if saga else None,
        NotificationSide(*notification[1:]) if notification else None,
    )


def _contents(row: tuple[Any, ...]) -> tuple[str, int, str] | None:
    account_id, amount_minor, currency = row[1:4]
    return None if account_id is None else (account_id, amount_minor, currency)
