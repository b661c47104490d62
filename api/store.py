"""All SQL of the API on the path of a request: withdrawals with their keys and outbox rows, credentials."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from contracts.events import CancelRequested, WithdrawalRequested, encode, request_id
from contracts.topics import PAYMENT_REQUESTS, WITHDRAWAL_REQUESTS
from processors.runtime.rows import columns
from tracing import TraceContext

# One statement is one transaction: of the requests that arrived together, each is stored with its outbox row, or
# not at all because its key or its payment ID is known. It has them as one document (processors.runtime.rows).
_ACCEPT = f"""
WITH asked AS (
    SELECT * FROM json_to_recordset(%t::json) AS n (
        payment_id uuid, caller text, idempotency_key text, names_payment boolean, account_id text,
        amount_minor bigint, currency text, requested_at timestamptz, traceparent text, tracestate text,
        message_id uuid, payload json
    )
), accepted AS (
    INSERT INTO withdrawals
        (payment_id, caller, idempotency_key, names_payment, account_id, amount_minor, currency, requested_at,
        traceparent)
    SELECT payment_id, caller, idempotency_key, names_payment, account_id, amount_minor, currency, requested_at,
        traceparent
    FROM asked ON CONFLICT DO NOTHING RETURNING payment_id
), sent AS (
    INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, traceparent, tracestate)
    SELECT message_id, '{WITHDRAWAL_REQUESTS.aggregate}', account_id, '{WithdrawalRequested.__name__}',
        payload, traceparent, tracestate
    FROM asked JOIN accepted USING (payment_id)
)
SELECT payment_id FROM accepted
"""  # noqa: S608 made of constants

_COLUMNS = """payment_id, caller, idempotency_key, names_payment, account_id, amount_minor, currency, requested_at,
    traceparent"""

_KNOWN = f"""
SELECT {_COLUMNS} FROM withdrawals
WHERE (caller, idempotency_key) IN (SELECT * FROM unnest(%b::text[], %b::text[]) AS n (caller, idempotency_key))
UNION ALL
SELECT {_COLUMNS} FROM withdrawals WHERE payment_id = ANY(%b::uuid[])
"""  # noqa: S608 made of constants

_ONE = f"SELECT {_COLUMNS} FROM withdrawals WHERE payment_id = %b"  # noqa: S608 made of constants

_OF_CALLER = f"""
SELECT {_COLUMNS} FROM withdrawals
WHERE caller = %b AND (requested_at, payment_id) < (%b::timestamptz, %b::uuid)
ORDER BY requested_at DESC, payment_id DESC LIMIT %b
"""  # noqa: S608 made of constants

_OF_PAYMENTS = f"SELECT {_COLUMNS} FROM withdrawals WHERE payment_id = ANY(%b::uuid[])"  # noqa: S608 made of constants

_CANCEL = f"""
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, traceparent, tracestate)
VALUES (%b, '{PAYMENT_REQUESTS.aggregate}', %b, '{CancelRequested.__name__}', %b::text::json, %b, %b)
"""  # noqa: S608 made of constants

_KEY = """
SELECT secret_hash, caller, role, scopes FROM api_keys
WHERE key_id = %b AND revoked_at IS NULL AND coalesce(expires_at > now(), true)
"""

_SESSION = "SELECT caller, role FROM sessions WHERE session_hash = %b AND expires_at > now()"

_SIGN_IN = """
WITH used AS (DELETE FROM sign_ins WHERE token_hash = %b RETURNING caller, role, expires_at),
gone AS (DELETE FROM sessions WHERE expires_at <= now())
INSERT INTO sessions (session_hash, caller, role, expires_at)
SELECT %b, caller, role, now() + make_interval(secs => %b::float8) FROM used WHERE expires_at > now()
RETURNING caller
"""

_SIGN_OUT = "DELETE FROM sessions WHERE session_hash = %b"


_ENCODER = msgspec.json.Encoder()


class Asked(msgspec.Struct, frozen=True):
    """A request for a withdrawal, checked.

    Attributes:
        caller: who asks.
        key: its idempotency key.
        names_payment: whether the caller chose the payment ID.
        request: the event that it becomes.
        context: of the span under which its outbox row is written; no other request has the same.
    """

    caller: str
    key: str
    names_payment: bool
    request: WithdrawalRequested
    context: TraceContext


class Stored(msgspec.Struct, frozen=True):
    """A withdrawal that was accepted; the columns of its row."""

    payment_id: UUID
    caller: str
    idempotency_key: str
    names_payment: bool
    account_id: str
    amount_minor: int
    currency: str
    requested_at: datetime
    traceparent: str

    @property
    def trace_id(self) -> str:
        """The ID of its trace, recorded or not."""
        return TraceContext(self.traceparent).trace_id or ""


async def accept(connection: AsyncConnection, batch: Sequence[Asked]) -> set[UUID]:
    """Store those of some requests whose key and payment ID are new, with their outbox rows, in one transaction.

    Args:
        connection: in autocommit mode.
        batch: with distinct keys and distinct payment IDs.

    Returns:
        The payment IDs of those that are stored now.
    """
    document = _ENCODER.encode([_row(asked) for asked in batch]).decode()
    cursor = await connection.execute(_ACCEPT, (document,))
    return {payment_id for (payment_id,) in await cursor.fetchall()}


async def known(connection: AsyncConnection, batch: Sequence[Asked]) -> list[Stored]:
    """The withdrawals that have the keys or the payment IDs of some requests."""
    keys = columns([(asked.caller, asked.key, asked.request.payment_id) for asked in batch])
    return await _stored(connection, _KNOWN, keys)


async def find(connection: AsyncConnection, payment_id: UUID) -> Stored | None:
    """The withdrawal with this payment ID; None where it was not accepted here."""
    return next(iter(await _stored(connection, _ONE, [payment_id])), None)


async def of_caller(
    connection: AsyncConnection, caller: str, before: tuple[datetime, UUID], limit: int
) -> list[Stored]:
    """A caller's withdrawals that were requested before a place in the list, the newest first."""
    return await _stored(connection, _OF_CALLER, [caller, *before, limit])


async def of_payments(connection: AsyncConnection, payment_ids: Sequence[UUID]) -> dict[UUID, Stored]:
    """The requests for some withdrawals, by payment ID; without those that did not come through the API."""
    return {one.payment_id: one for one in await _stored(connection, _OF_PAYMENTS, [list(payment_ids)])}


async def cancel(
    connection: AsyncConnection, message_id: UUID, wish: CancelRequested, context: TraceContext
) -> None:
    """Store the outbox row of a cancellation."""
    payload = encode(wish).decode()
    values = (message_id, wish.account_id, payload, context.traceparent, context.tracestate)
    await connection.execute(_CANCEL, values)


async def find_key(connection: AsyncConnection, key_id: str) -> tuple[bytes, str, str, list[str]] | None:
    """The hash of a valid API key's secret, its caller, role and scopes."""
    return await (await connection.execute(_KEY, (key_id,))).fetchone()


async def find_session(connection: AsyncConnection, session_hash: bytes) -> tuple[str, str] | None:
    """The caller and role of a session that has not expired."""
    return await (await connection.execute(_SESSION, (session_hash,))).fetchone()


async def sign_in(connection: AsyncConnection, token_hash: bytes, session_hash: bytes, lasts_s: float) -> bool:
    """Turn a one-time token into a session; whether the token was valid. It is spent in any case."""
    cursor = await connection.execute(_SIGN_IN, (token_hash, session_hash, lasts_s))
    return await cursor.fetchone() is not None


async def sign_out(connection: AsyncConnection, session_hash: bytes) -> None:
    """End a session, if there is one."""
    await connection.execute(_SIGN_OUT, (session_hash,))


async def _stored(connection: AsyncConnection, query: str, values: Sequence[Any]) -> list[Stored]:
    cursor = await connection.execute(query.encode(), values)
    found = [Stored(*row) for row in await cursor.fetchall()]
    return [msgspec.structs.replace(one, requested_at=one.requested_at.astimezone(UTC)) for one in found]


class _Row(msgspec.Struct, frozen=True, gc=False):
    """What a request becomes; each field is a column of the statement's document."""

    payment_id: UUID
    caller: str
    idempotency_key: str
    names_payment: bool
    account_id: str
    amount_minor: int
    currency: str
    requested_at: datetime
    traceparent: str | None
    tracestate: str | None
    message_id: str
    payload: msgspec.Raw


def _row(asked: Asked) -> _Row:
    request, context = asked.request, asked.context
    return _Row(
        request.payment_id,
        asked.caller,
        asked.key,
        asked.names_payment,
        request.account_id,
        request.amount_minor,
        request.currency,
        request.occurred_at,
        context.traceparent,
        context.tracestate,
        request_id(request),
        msgspec.Raw(encode(request)),
    )
