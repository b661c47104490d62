"""Batches of concurrent requests: those that arrive while a transaction is under way share the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from uuid import UUID

from psycopg.errors import LockNotAvailable

from api.decide import Outcome, StillRunning
from api.store import Asked

BATCH_MAX = 500
"""Requests in one transaction at the most."""

WAITING_MAX = 5_000
"""Requests that wait for a transaction at the most; with a database that is away they soon would."""

STOPPING = "the API is stopping"

Accept = Callable[[Sequence[Asked]], Awaitable[list[Outcome]]]


_Waiting = tuple[Asked, "asyncio.Future[Outcome]"]


class UnavailableError(Exception):
    """Nothing can be stored now; the text is one line for a person."""


class Batcher:
    """Hands requests to one transaction after the other, and each outcome to who asked.

    Args:
        accept: stores a batch of requests with distinct keys and distinct payment IDs, all in one transaction.
    """

    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self._waiting: deque[_Waiting] = deque()
        self._running: set[tuple[str, str]] = set()
        self._arrived = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="batches")

    async def close(self) -> None:
        """Stop; what still waits is not stored."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._fail_waiting(UnavailableError(STOPPING))

    async def submit(self, asked: Asked) -> Outcome:
        """The outcome of a request, once its transaction is committed.

        Raises:
            UnavailableError: it may be stored or not; repeating it with the same key is safe.
        """
        key = (asked.caller, asked.key)
        if key in self._running:
            return StillRunning()
        if len(self._waiting) >= WAITING_MAX:
            raise UnavailableError(f"{WAITING_MAX:,} requests are waiting already")
        outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._running.add(key)
        self._waiting.append((asked, outcome))
        self._arrived.set()
        # The caller may leave: what it asked for happens all the same, and the key stays taken until then.
        return await outcome

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                batch = self._take()
                try:
                    await self._finish(batch)
                except UnavailableError as error:
                    self._fail(batch, error)
                    self._fail_waiting(error)
                except asyncio.CancelledError:
                    self._fail(batch, UnavailableError(STOPPING))
                    raise

    def _take(self) -> list[_Waiting]:
        """The next batch: of requests with the same payment ID only the first, as the others need its outcome."""
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        payments: set[UUID] = set()
        while self._waiting and len(batch) < BATCH_MAX:
            one = self._waiting.popleft()
            payment_id = one[0].request.payment_id
            (later if payment_id in payments else batch).append(one)
            payments.add(payment_id)
        self._waiting.extendleft(reversed(later))
        # Instances that have some keys in common then wait for each other in the same order.
        return sorted(batch, key=lambda one: (one[0].caller, one[0].key))

    async def _finish(self, batch: list[_Waiting]) -> None:
        """Store a batch; one that is refused is halved, until the request that is to blame stands alone."""
        try:
            outcomes = await self._accept([asked for asked, _ in batch])
        except UnavailableError:
            raise
        except Exception as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._finish(batch[:middle])
                await self._finish(batch[middle:])
            elif isinstance(error, LockNotAvailable):  # another instance has its key in a transaction
                self._answer(*batch[0], StillRunning())
            else:
                self._fail(batch, error)
            return
        for (asked, future), outcome in zip(batch, outcomes, strict=True):
            self._answer(asked, future, outcome)

    def _answer(self, asked: Asked, future: asyncio.Future[Outcome], outcome: Outcome) -> None:
        self._running.discard((asked.caller, asked.key))
        if not future.done():
            future.set_result(outcome)

    def _fail(self, batch: Iterable[_Waiting], error: Exception) -> None:
        for asked, future in batch:
            self._running.discard((asked.caller, asked.key))
            if not future.done():
                future.set_exception(error)
                future.exception()  # its caller may have left

    def _fail_waiting(self, error: UnavailableError) -> None:
        self._fail(self._waiting, error)
        self._waiting.clear()
