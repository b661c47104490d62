"""Operations that people carry out through the API: run on threads, a few at a time, with its own addresses."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from confluent_kafka import KafkaException

from api.problems import RETRY_S, Problem
from api.settings import ApiSettings
from broker import security
from broker.security import KafkaSettingsError
from broker.troubles import denied
from contracts.rights import OPERATOR
from contracts.services import DATABASES, NAMES
from contracts.variables import TREASURER_DSN, value
from operations.dead_letters.errors import DeadLetterError
from operations.errors import CursorError, FinishedError, UnaskedError
from operations.lag import Sample
from outbox_relay.errors import RelayError
from processors.runtime.database import unavailable
from producers.errors import DeniedError, ProducerError
from tracing.jaeger import JaegerError

AT_ONCE = 4
"""Operations under way in this process; whoever comes meanwhile waits for a place."""

WAIT_S_MAX = 10.0
"""For a place."""

T = TypeVar("T")


class Operators:
    """Runs operations.

    Args:
        settings: of this process.

    Attributes:
        bootstrap: Kafka.
        last_sample: the offsets when somebody last asked for rates.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._room = asyncio.Semaphore(AT_ONCE)
        self.bootstrap = settings.kafka_bootstrap
        self.last_sample: Sample | None = None

    @property
    def dsns(self) -> dict[str, str]:
        """The DSNs of the services, with the rights of an operator."""
        return {name: self._settings.dsn(name) for name in NAMES}

    @property
    def all_dsns(self) -> dict[str, str]:
        """The same of every database."""
        return {name: self._settings.dsn(name) for name in DATABASES}

    @property
    def treasurer_dsn(self) -> str:
        """The DSN of whoever opens accounts."""
        return value(TREASURER_DSN) or self._settings.dsn("account")

    async def run(self, operate: Callable[..., T], *args: Any) -> T:
        """What an operation returns.

        Raises:
            Problem: it cannot be carried out, or something that it needs does not answer.
        """
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                await self._room.acquire()
        except TimeoutError:
            raise Problem("unavailable", f"{AT_ONCE} operations are under way already", RETRY_S) from None
        # The thread works on where its caller waits no more, and has its place until it ends.
        working = asyncio.create_task(asyncio.to_thread(operate, *args))
        working.add_done_callback(self._ended)
        try:
            return await asyncio.shield(working)
        except (CursorError, RelayError) as error:
            raise Problem("invalid", str(error)) from None
        except DeadLetterError as error:
            raise Problem("not-found", str(error)) from None
        except FinishedError as error:
            raise Problem("finished", str(error)) from None
        except psycopg.errors.InsufficientPrivilege as error:
            lacks = error.diag.message_primary or "a right is missing"
            raise Problem("forbidden", f"the API's own role may not do that: {lacks}") from error
        except psycopg.OperationalError as error:
            raise Problem("unavailable", f"a database {unavailable(error)}", RETRY_S) from error
        except KafkaException as error:
            if (refused := denied(error.args[0])) is not None:
                raise self._denied(refused) from error
            raise Problem("unavailable", f"Kafka does not answer: {error.args[0].str()}", RETRY_S) from error
        except DeniedError as error:
            raise self._denied(str(error)) from error
        except (JaegerError, KafkaSettingsError, ProducerError, TimeoutError, UnaskedError) as error:
            raise Problem("unavailable", str(error), RETRY_S) from error
        finally:
            # Its error refers to this frame: what the operation has open would last until a collection.
            del working

    def _ended(self, working: asyncio.Task[Any]) -> None:
        self._room.release()
        if not working.cancelled():
            working.exception()  # of one that nobody waits for

    def _denied(self, refused: str) -> Problem:
        who = security.properties(self.bootstrap).get("sasl.username") or "of its certificate"
        return Problem(
            "forbidden",
            f"the API's own Kafka user, {who}, may not do that, as `{OPERATOR}` may: {refused}",
        )
