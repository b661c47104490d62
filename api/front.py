"""What the handlers of requests share: databases, credentials, limits, and the batches of requests."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
from psycopg.errors import LockNotAvailable

from api import store
from api.batching import Batcher, UnavailableError
from api.callers import Callers
from api.credentials import Credentials
from api.decide import Outcome, decide
from api.follow import Follow
from api.instrumentation import BATCH_REQUESTS
from api.limits import RateLimit, StreamLimit
from api.looks import Looks
from api.oidc import Tokens
from api.operators import Operators
from api.problems import RETRY_S, Problem
from api.readers import Readers
from api.settings import ApiSettings
from api.store import Asked
from api.watch import Watch
from contracts import failpoints
from contracts.services import API
from operations.dead_letters.kept import KeptLetters
from processors.runtime.connection import SharingConnection
from processors.runtime.database import Database, is_transient, unavailable

PATIENCE_S = 5.0
"""How long a batch is tried again while the database is away; then its callers are told to come later."""

PAUSE_S = 0.2

TURN_S = 5.0
"""How long a single request waits for those before it, which take milliseconds unless the database hangs."""


class Front:
    """What handlers share, from ``start`` to ``close``.

    Args:
        settings: of this process.

    Attributes:
        loop: the event loop, once it is started.
        operators: runs what operators look at.
        acting: runs what they do, which does not wait for those who only look.
        tracing: runs what asks Jaeger, which may be mute for longer than a page waits.
        glancing: runs what a page looks for and does not wait for: it keeps its place until it ends.
        managing: runs the management of keys, which waits for neither: whatever hangs, a leaked key is revoked.
        is_stopping: whether the process has been told to stop, which ends every stream.
    """

    loop: asyncio.AbstractEventLoop
    is_stopping = False

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.limit = RateLimit(settings.api_rate)
        self.streams = StreamLimit(settings.api_streams)
        self.operators = Operators(settings)
        self.acting = Operators(settings)
        self.tracing = Operators(settings)
        self.glancing = Operators(settings)
        self.managing = Operators(settings)
        self._writes = Database(settings.dsn(API), API, SharingConnection)
        self._singles = Database(settings.dsn(API), f"{API}-singles", SharingConnection)
        self._one_by_one = asyncio.Lock()
        self._tokens = Tokens(settings) if settings.api_oidc_issuer else None
        self.credentials = Credentials(
            self.connected,
            self._tokens.caller_of if self._tokens else None,
            is_tls=settings.api_tls_certificate is not None,
        )
        self.batches = Batcher(self._accept)
        self.readers = Readers(settings.dsn)
        self.follow = Follow(self.readers)
        self.callers = Callers(self.connected)
        self.letters = KeptLetters(settings.kafka_bootstrap)
        self.looks = Looks(self.readers, Operators(settings), self.letters, settings.stuck_s)
        self.watch = Watch(self)

    def start(self) -> None:
        """Begin, on the running event loop."""
        self.loop = asyncio.get_running_loop()
        self.batches.start()

    async def close(self) -> None:
        """Store nothing any more, and close the connections."""
        await self.watch.close()
        await self.looks.close()
        await self.follow.close()
        await self.batches.close()
        self.readers.close()
        if self._tokens is not None:
            await self._tokens.close()
        await self._writes.close()
        await self._singles.close()

    @asynccontextmanager
    async def connected(self, turn_s: float | None = TURN_S) -> AsyncIterator[psycopg.AsyncConnection]:
        """The connection to the API's database for short statements of single requests, one request at a time.

        Args:
            turn_s: how long to wait for those before it, seconds; None for what has to be written.

        Raises:
            Problem: the database does not answer, this request or those before it; whether the last statement took
                effect is not known.
        """
        try:
            async with asyncio.timeout(turn_s):
                await self._one_by_one.acquire()
        except TimeoutError:
            raise Problem("unavailable", "the database does not answer", RETRY_S) from None
        try:
            async with self._singles.connected() as connection:
                yield connection
        except psycopg.OperationalError as error:
            raise Problem("unavailable", f"the database {unavailable(error)}", RETRY_S) from error
        finally:
            self._one_by_one.release()

    async def _accept(self, batch: Sequence[Asked]) -> list[Outcome]:
        """Store a batch, also through a short outage: what an earlier attempt has committed is known then.

        Raises:
            UnavailableError: the database is not to be had.
            psycopg.errors.LockNotAvailable: another instance holds a key of the batch.
            psycopg.Error: the database refuses a value of the batch, so all of it.
        """
        give_up = time.monotonic() + PATIENCE_S
        failpoints.hit("api.batch-taken")
        BATCH_REQUESTS.observe(len(batch))
        while True:
            try:
                return await self._accept_once(batch)
            except LockNotAvailable:
                raise
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                if time.monotonic() > give_up:
                    raise UnavailableError(f"the database {unavailable(error)}") from error
            await asyncio.sleep(PAUSE_S)

    async def _accept_once(self, batch: Sequence[Asked]) -> list[Outcome]:
        async with self._writes.connected() as connection:
            new = await store.accept(connection, batch)
            failpoints.hit("api.committed")
            others = [asked for asked in batch if asked.request.payment_id not in new]
            known = await store.known(connection, others) if others else ()
        return decide(batch, new, known)
