"""The API as the benchmark varies it: an endpoint that does nothing, and a transaction for each request."""

import asyncio
import sys

from litestar import get

from api import store
from api.batching import UnavailableError
from api.decide import Outcome, decide
from api.front import Front
from api.guard import OPEN
from api.service import run_api
from api.settings import ApiSettings
from api.store import Asked
from contracts.services import API
from processors.runtime.connection import SharingConnection
from processors.runtime.database import Database

EMPTY = "/bench/empty"
CONNECTIONS = 16
"""Of the variant with a transaction for each request."""


@get(EMPTY, opt={OPEN: True}, include_in_schema=False)
async def empty() -> None:
    """What the server costs alone."""


class OneByOne:
    """In place of :class:`api.batching.Batcher`: each request has a transaction and for its time a connection."""

    def __init__(self, dsn: str) -> None:
        self._idle: asyncio.LifoQueue[Database] = asyncio.LifoQueue()
        for number in range(CONNECTIONS):
            self._idle.put_nowait(Database(dsn, f"{API}-{number}", SharingConnection))

    def start(self) -> None:
        """Nothing to begin."""

    async def close(self) -> None:
        """Close the connections."""
        while not self._idle.empty():
            await self._idle.get_nowait().close()

    async def submit(self, asked: Asked) -> Outcome:
        """The outcome of a request."""
        database = await self._idle.get()
        try:
            async with database.connected() as connection:
                new = await store.accept(connection, [asked])
                known = () if new else await store.known(connection, [asked])
            return decide([asked], new, known)[0]
        except Exception as error:
            raise UnavailableError(str(error)) from error
        finally:
            self._idle.put_nowait(database)


def _front(settings: ApiSettings) -> Front:
    front = Front(settings)
    if "--one-by-one" in sys.argv:
        front.batches = OneByOne(settings.dsn(API))  # type: ignore[assignment]  # it has the methods that are used
    return front


if __name__ == "__main__":
    run_api(ApiSettings(), _front, [empty])
