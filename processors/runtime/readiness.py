"""Readiness of a service: what it waits for, if anything, checked in the background.

A probe of ``/readyz`` therefore costs nothing and is answered at once, also while everything else hangs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import psycopg

from processors.runtime.database import Database, unavailable

LOOK_EVERY_S = 1.0
LOOK_AGAIN_S = 0.25
"""While it waits for something."""

ANSWER_S = 1.0
"""How long a database or broker may take to answer before it counts as away."""

KAFKA_S = 10.0
"""How long Kafka's client may take to report on the broker: the query is queued behind other calls."""

BEAT_S = 1.0
HANGS_S = 10.0
"""An event loop that is stalled for so long hangs: no batch takes so long to decide on."""


class Readiness:
    """What a service waits for. Attributes may be read by any thread, also while the event loop hangs.

    Args:
        dsn: of the service's database; asked on a connection of its own, as a batch may hold the other.
        service: shown in ``pg_stat_activity``.
    """

    def __init__(self, dsn: str, service: str) -> None:
        self._found: tuple[str, ...] = ("it is starting",)
        self._database = Database(dsn, f"{service}-ready")
        self._asking: dict[str, asyncio.Task[str | None]] = {}
        self._beaten = time.monotonic()
        self._next_beat: asyncio.TimerHandle | None = None

    def beat(self) -> None:
        """Record heartbeats of the running event loop: now, and from now on until :meth:`close`."""
        self._beaten = time.monotonic()
        self._next_beat = asyncio.get_running_loop().call_later(BEAT_S, self.beat)

    @property
    def hangs(self) -> str | None:
        """The text to report if the event loop is stalled; None while it runs."""
        stands_s = time.monotonic() - self._beaten
        return f"its event loop has stood for {stands_s:.0f} s" if stands_s > HANGS_S else None

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Texts, one for each cause; empty when the service is ready."""
        hangs = self.hangs
        return self._found if hangs is None else (hangs, *self._found)

    async def look(self, ask_kafka: Callable[[], Awaitable[str | None]]) -> None:
        """Ask the database and Kafka.

        Args:
            ask_kafka: returns what is wrong with Kafka, or None.
        """
        found = await asyncio.gather(
            self._ask("the database does not answer", self._select, ANSWER_S),
            self._ask("Kafka's client does not answer", ask_kafka, KAFKA_S),
        )
        self._found = tuple(reason for reason in found if reason is not None)

    async def close(self) -> None:
        """Close the connection."""
        if self._next_beat is not None:
            self._next_beat.cancel()
        for asking in self._asking.values():
            asking.cancel()
        await self._database.close()

    async def _ask(
        self, silence: str, question: Callable[[], Awaitable[str | None]], limit_s: float
    ) -> str | None:
        # A query without an answer is left pending rather than repeated: its connection or thread is in use.
        asking = self._asking.get(silence)
        if asking is None or asking.done():
            asking = self._asking[silence] = asyncio.ensure_future(question())
        await asyncio.wait([asking], timeout=limit_s)
        return asking.result() if asking.done() else f"{silence} within {limit_s:g} s"

    async def _select(self) -> str | None:
        try:
            cursor = await (await self._database.connect()).execute("SHOW transaction_read_only")
            (read_only,) = await cursor.fetchone() or ("",)
        except psycopg.Error as error:
            await self._database.close()
            return f"the database {unavailable(error)}: {' '.join(str(error).split())}"
        if read_only == "on":
            await self._database.close()  # once it can be written to, a session may still be read-only
            return "the database is read-only"
        return None
