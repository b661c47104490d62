"""Requests that the API has accepted and no relay has published: withdrawals that the saga service cannot know.

They are rows of the API's outbox. One that is younger than :data:`ON_ITS_WAY_S` is left out: it is on its way.
"""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
import psycopg

from contracts.events import WithdrawalRequested
from contracts.topics import WITHDRAWAL_REQUESTS
from operations.withdrawals import OpenOnes
from processors.runtime import utc

ACCEPTED: Final = "accepted"
"""The state of a withdrawal that the saga service has not recorded yet."""

ON_ITS_WAY_S = 2.0

_REQUESTS = f"""public.outbox
WHERE aggregatetype = '{WITHDRAWAL_REQUESTS.aggregate}' AND type = '{WithdrawalRequested.__name__}'
    AND created_at < now() - make_interval(secs => %(age)s)"""

_COUNT = f"""
SELECT count(*), count(*) FILTER (WHERE created_at < now() - make_interval(secs => %(silent)s)) FROM {_REQUESTS}
"""  # noqa: S608 made of constants

_WAITING = """
SELECT w.payment_id, w.account_id, w.amount_minor, w.currency, w.requested_at, w.traceparent, o.created_at
FROM (
    SELECT * FROM (
        SELECT (payload->>'payment_id')::uuid AS payment_id, created_at FROM {requests}
            AND (%(account)s::text IS NULL OR aggregateid = %(account)s)) AS rows
    WHERE %(before)s::timestamptz IS NULL OR (created_at, payment_id) < (%(before)s, %(before_id)s::uuid)
    ORDER BY created_at {order}, payment_id {order} LIMIT %(limit)s) AS o
JOIN withdrawals AS w USING (payment_id)
ORDER BY o.created_at {order}, w.payment_id {order}
"""


class Waiting(msgspec.Struct, frozen=True):
    """A request that waits to be published; the amount in minor units.

    Attributes:
        traceparent: of its trace, W3C.
        accepted_at: when it was stored, by the API's database.
    """

    payment_id: UUID
    account_id: str
    amount_minor: int
    currency: str
    requested_at: datetime
    traceparent: str
    accepted_at: datetime


def count_waiting(connection: psycopg.Connection[Any], silent_s: float) -> OpenOnes:
    """How many wait, and how many of them for longer than so many seconds, from the API's database.

    Raises:
        psycopg.OperationalError: the database does not answer.
    """
    values = {"age": ON_ITS_WAY_S, "silent": max(silent_s, ON_ITS_WAY_S)}
    count, silent = connection.execute(_COUNT.encode(), values).fetchone() or (0, 0)
    return OpenOnes(ACCEPTED, count, silent)


def waiting(
    connection: psycopg.Connection[Any],
    limit: int,
    account_id: str | None = None,
    before: tuple[datetime, UUID] | None = None,
    older_than_s: float = ON_ITS_WAY_S,
    *,
    oldest_first: bool = False,
) -> list[Waiting]:
    """Those that wait, the newest first, from the API's database.

    Args:
        connection: to it.
        limit: how many at the most.
        account_id: only of this account.
        before: only those that come after one in this order: when it was accepted, and its payment ID.
        older_than_s: only those that have waited for so long, seconds.
        oldest_first: the other way round.

    Raises:
        psycopg.OperationalError: the database does not answer.
    """
    at, payment_id = before or (None, None)
    values = {
        "age": max(older_than_s, ON_ITS_WAY_S),
        "account": account_id,
        "before": at,
        "before_id": payment_id,
        "limit": limit,
    }
    query = _WAITING.format(requests=_REQUESTS, order="ASC" if oldest_first else "DESC")
    return [Waiting(*row) for row in utc.cursor(connection).execute(query.encode(), values)]
