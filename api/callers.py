"""Whose withdrawals endings are: asked once for all clients that are told of them."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from uuid import UUID

from psycopg import AsyncConnection

from api import store
from api.store import Stored
from operations.endings import Ending

REMEMBERED_S = 5.0
"""How long an answer is remembered: by then who waits between two attempts has asked as well."""

REMEMBERED_MAX = 10_000
"""Withdrawals that are remembered; with more, all are forgotten."""


class Callers:
    """Remembers the answer for each withdrawal for a while.

    It makes one query at a time; all who wait for it share its failure, which is not remembered.

    Args:
        connected: gives a connection to the API's database.
    """

    def __init__(self, connected: Callable[[], AbstractAsyncContextManager[AsyncConnection]]) -> None:
        self._connected = connected
        self._remembered: dict[UUID, Stored | None] = {}
        self._asking: asyncio.Task[None] | None = None

    async def of(self, endings: Sequence[Ending]) -> dict[UUID, Stored]:
        """The request of each withdrawal that came through the API, with its caller, by payment ID.

        Args:
            endings: at most half of :data:`REMEMBERED_MAX`.

        Raises:
            Problem: the database does not answer.
        """
        asked = [one.payment_id for one in endings]
        while unknown := [one for one in asked if one not in self._remembered]:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask(unknown))
            await asyncio.shield(self._asking)  # who leaves takes it from nobody else
        return {one: stored for one in asked if (stored := self._remembered[one]) is not None}

    async def _ask(self, payment_ids: list[UUID]) -> None:
        async with self._connected() as connection:
            found = await store.of_payments(connection, payment_ids)
        if len(self._remembered) + len(payment_ids) > REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered.update({one: found.get(one) for one in payment_ids})
        asyncio.get_running_loop().call_later(REMEMBERED_S, self._forget, payment_ids)

    def _forget(self, payment_ids: list[UUID]) -> None:
        for one in payment_ids:
            self._remembered.pop(one, None)
