"""Whose withdrawals endings are: asked once for all clients that are told of the same ones."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from uuid import UUID

from psycopg import AsyncConnection

from api import store
from api.store import Stored
from operations.endings import Ending


class Callers:
    """Remembers the answer about the newest endings, which all who follow are given as one list; a failure is not
    remembered.

    Args:
        connected: gives a connection to the API's database.
    """

    def __init__(self, connected: Callable[[], AbstractAsyncContextManager[AsyncConnection]]) -> None:
        self._connected = connected
        self._asked: Sequence[Ending] = ()
        self._answer: asyncio.Task[dict[UUID, Stored]] | None = None

    async def of(self, endings: Sequence[Ending]) -> dict[UUID, Stored]:
        """The request of each withdrawal that came through the API, with its caller, by payment ID.

        Raises:
            Problem: the database does not answer.
        """
        if self._answer is None or self._asked is not endings:
            self._asked, self._answer = endings, asyncio.create_task(self._find(endings))
            self._answer.add_done_callback(self._forget_failed)
        return await asyncio.shield(self._answer)  # who leaves takes it from nobody else

    def _forget_failed(self, answer: asyncio.Task[dict[UUID, Stored]]) -> None:
        has_failed = answer.cancelled() or answer.exception() is not None
        if has_failed and answer is self._answer:
            self._answer = None

    async def _find(self, endings: Sequence[Ending]) -> dict[UUID, Stored]:
        async with self._connected() as connection:
            return await store.of_payments(connection, [one.payment_id for one in endings])
