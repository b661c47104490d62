"""The base class of processors: services that handle batches, each with a database of its own."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from psycopg import AsyncConnection

from contracts.events import Event
from contracts.topics import Topic
from processors.runtime.batch import Batch
from processors.runtime.clock import DatabaseClock
from processors.runtime.database import Database
from processors.runtime.instrumentation import transaction
from processors.runtime.messages import Message
from processors.runtime.pacing import ENOUGH_RECORDS
from processors.runtime.settings import ServiceSettings


class Processor(ABC):
    """A service: the topics it consumes, and how it handles a batch.

    Attributes:
        name: of the service, its database and its consumer group.
        topics: what it subscribes to.
        handles: the event types it acts on; others are ignored.
        clock: decides what is due.
        gather_s_max: how long it may wait under load to make a batch larger.
        enough: how many records are not waited for to become more.
    """

    name: ClassVar[str]
    topics: ClassVar[tuple[Topic, ...]]
    handles: ClassVar[tuple[type[Event], ...]]
    gather_s_max: ClassVar[float] = 0.2
    enough: ClassVar[int] = ENOUGH_RECORDS

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.database = Database(settings.dsn(self.name), self.name)
        self.clock = DatabaseClock()

    async def open(self) -> None:
        """Connect, and set the clock.

        Raises:
            psycopg.OperationalError: the database does not answer.
        """
        await self.clock.look(await self.database.connect())

    @abstractmethod
    async def process(self, batch: Batch) -> None:
        """Act on a batch in one transaction; called again with the same batch if it raises."""

    def transaction(self, batch: Batch) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction for the whole batch."""
        return transaction(self.name, self.database, batch.messages)

    async def keep(self, message: Message, error: str) -> bool:  # noqa: ARG002
        """Store a message that fails each time, to retry it from the service's own database.

        Returns:
            Whether it is stored; False, as here, sends it to the dead letters.
        """
        return False

    async def work_due(self) -> int:
        """Retry what is due from the service's own database; returns how many items were tried.

        Runs beside :meth:`process`, so it needs a connection of its own.
        """
        return 0

    async def close(self) -> None:
        """Close every connection."""
        await self.database.close()
