"""The load of a run: requests at a steady rate from a thread of its own, by Kafka or through the HTTP API."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self
from uuid import UUID

from lab.chaos.plan import Options
from producers.client import WithdrawalClient
from producers.load import run_load
from producers.plan import LoadPlan, Planned, plan_load

ACCOUNTS_MIN = 200
REQUESTS_PER_ACCOUNT_MAX = 10_000

DECLINED, INSUFFICIENT, TWICE = 0.05, 0.05, 0.1

AFTERWARDS = 20
"""Requests after all faults, every one traced."""

DELIVERY_S = 120.0
TICK_S = 0.2


def accounts(options: Options) -> int:
    """How many accounts the load needs."""
    return max(ACCOUNTS_MIN, round(options.rate * options.duration_s / REQUESTS_PER_ACCOUNT_MAX))


class Sender(ABC):
    """What sends the requests; used by one thread at a time, in its block."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *error: object) -> None: ...

    @property
    @abstractmethod
    def asked(self) -> Mapping[UUID, int]:
        """The withdrawals that there have to be: amount in minor units by payment ID."""

    @abstractmethod
    def send(self, messages: Iterable[Planned], rate: float, stop: threading.Event) -> int:
        """Send messages at a rate a second, until each is taken or it is to stop; returns how many were sent.

        Raises:
            ProducerError: one was not taken.
        """


class ByKafka(Sender):
    """Writes requests to Kafka.

    Args:
        bootstrap: ``host:port``.
    """

    def __init__(self, bootstrap: str) -> None:
        self._asked: dict[UUID, int] = {}
        # A long timeout: the broker will be away for a while.
        self._client = WithdrawalClient(bootstrap, delivery_timeout_s=DELIVERY_S)

    def __exit__(self, *error: object) -> None:
        self._client.__exit__(None, None, None)

    @property
    def asked(self) -> Mapping[UUID, int]:
        """All that were sent."""
        return self._asked

    def send(self, messages: Iterable[Planned], rate: float, stop: threading.Event) -> int:
        """Send messages: see :class:`Sender`."""
        report = run_load(self._client, self._noted(messages), rate=rate, stop=stop)
        if report.first_failure is not None:
            raise report.first_failure
        return report.sent

    def _noted(self, messages: Iterable[Planned]) -> Iterator[Planned]:
        for planned in messages:
            self._asked[planned.payment_id] = planned.amount_minor
            yield planned


class Load:
    """Requests at a steady rate, in a thread of its own; stopped when the block is left.

    Args:
        sender: of the requests; entered and left with this.
        options: of the run.

    Attributes:
        sent: requests, repeats among them.
    """

    def __init__(self, sender: Sender, options: Options) -> None:
        self.sent = 0
        self._sender = sender
        self._stop = threading.Event()
        self._rate = options.rate
        duplicates = TWICE if options.duplicates else 0.0
        self._plan = LoadPlan(
            round(options.rate * options.duration_s / (1 + duplicates)),
            accounts(options),
            duplicates=duplicates,
            declined=DECLINED,
            insufficient=INSUFFICIENT,
            seed=options.seed,
        )
        self._pool = ThreadPoolExecutor(1, "load")
        self._running: Future[int]

    def __enter__(self) -> "Load":
        self._sender.__enter__()
        self.began = time.time()
        self._running = self._pool.submit(self._sender.send, plan_load(self._plan), self._rate, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._sender.__exit__(None, None, None)

    @property
    def asked(self) -> Mapping[UUID, int]:
        """The withdrawals that there have to be: amount in minor units by payment ID."""
        return self._sender.asked

    @property
    def elapsed_s(self) -> float:
        """Since it began."""
        return time.time() - self.began

    def wait_until(self, at_s: float) -> None:
        """Until so many seconds after its beginning.

        Raises:
            ProducerError: it has ended with an error.
        """
        while (left_s := at_s - self.elapsed_s) > 0:
            if self._running.done():
                self._running.result()
            time.sleep(min(left_s, TICK_S))

    def finish(self) -> None:
        """Until every request is taken.

        Raises:
            ProducerError: one was not.
        """
        while not self._running.done():
            time.sleep(TICK_S)
        self.sent = self._running.result()

    def afterwards(self) -> None:
        """Send some more requests after the faults."""
        more = plan_load(LoadPlan(AFTERWARDS, declined=0.2, insufficient=0.2))
        self._sender.send(more, self._rate, self._stop)
