"""All SQL of the fraud service."""

from collections.abc import Sequence
from uuid import UUID

from psycopg import AsyncConnection

from processors.runtime import outbox_rows
from processors.runtime.messages import Emitted
from processors.runtime.rows import Rows, write_rows

_CHECKS = Rows("checks", payment_id="uuid", suspicious="boolean")


async def known(connection: AsyncConnection, payment_ids: Sequence[UUID]) -> set[UUID]:
    """Those of the withdrawals that have been checked."""
    found = await connection.execute("SELECT payment_id FROM checks WHERE payment_id = ANY(%b)", (payment_ids,))
    return {payment_id for (payment_id,) in await found.fetchall()}


async def write(connection: AsyncConnection, emitted: Sequence[Emitted]) -> None:
    """Write checks and their events."""
    rows = [(one.event.payment_id, one.event.suspicious) for one in emitted]
    await write_rows(connection, _CHECKS.insert(rows), outbox_rows.insert("fraud", emitted))
