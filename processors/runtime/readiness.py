"""A service's readiness: whether it can work now, and if not, what it waits for. Looked after in the background.

So a probe of ``/readyz`` costs nothing and is answered at once, also while everything else hangs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import psycopg

from processors.runtime.database import Database

LOOK_EVERY_S = 1.0
LOOK_AGAIN_S = 0.25
"""While it waits for something."""

ANSWER_S = 1.0
"""How long a database or broker may take to answer before it counts as away."""


class Readiness:
    """What a service waits for.

    Attributes:
        waits_for: in words, one entry for each thing; empty when it can work.

    Args:
        dsn: of the service's database; asked on a connection of its own, as a batch may hold the other.
        service: shown in ``pg_stat_activity``.
    """

    def __init__(self, dsn: str, service: str) -> None:
        self.waits_for: tuple[str, ...] = ("it is starting",)
        self._database = Database(dsn, f"{service}-ready")
        self._asking: asyncio.Task[str | None] | None = None

    async def look(
        self, ask_kafka: Callable[[], Awaitable[str | None]], ask_service: Callable[[], Iterable[str]]
    ) -> None:
        """Ask the database, Kafka, and the service itself.

        Args:
            ask_kafka: what is the matter with it, or None.
            ask_service: what keeps its own work from its end.
        """
        found = (await self._ask_database(), await ask_kafka(), *ask_service())
        self.waits_for = tuple(reason for reason in found if reason is not None)

    async def close(self) -> None:
        """Close the connection."""
        if self._asking is not None:
            self._asking.cancel()
        await self._database.close()

    async def _ask_database(self) -> str | None:
        # A question without an answer is left open rather than asked again: its connection is taken.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._select())
        await asyncio.wait([self._asking], timeout=ANSWER_S)
        if not self._asking.done():
            return f"the database does not answer within {ANSWER_S:g} s"
        return self._asking.result()

    async def _select(self) -> str | None:
        try:
            cursor = await (await self._database.connect()).execute("SHOW transaction_read_only")
            (read_only,) = await cursor.fetchone() or ("",)
        except psycopg.Error as error:
            await self._database.close()
            return f"the database does not answer: {' '.join(str(error).split())}"
        if read_only == "on":
            await self._database.close()  # once it can be written to, a session may still be read-only
            return "the database is read-only"
        return None
