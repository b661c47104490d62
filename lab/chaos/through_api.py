"""Load through the HTTP API, and a follower of its stream of endings: what a run knows of the API from outside.

Callers are patient, but for every tenth, which leaves after one attempt that was not answered. When the faults are
over, those come back with the same ``Idempotency-Key``: only then is every request answered, and each answer names
the one withdrawal that there may be for it.
"""

import asyncio
import random
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

import httpx
import msgspec
from httpx_sse import EventSource
from opentelemetry import trace

import tracing
from api.access import CLIENT, VIEWER
from api.credentials import create_key
from api.texts import amount_text
from contracts.postgres import session
from contracts.secret_files import CA
from lab.chaos.load import DELIVERY_S, TICK_S, Sender
from operations.endings import latest
from producers.api import Accepted, AsyncApiClient
from producers.errors import NotAnsweredError, RefusedError
from producers.plan import Planned
from stack.secured import secrets_folder
from stack.supervisor import Stack

CURRENCY = "USD"

HASTY_EVERY = 10
"""Every tenth caller leaves after one attempt."""

AT_ONCE_MAX = 500
"""Requests under way, each on a connection of its own; further ones wait while the API is away."""

ANSWER_S = 10.0
SILENT_S = 2.0
"""The follower reconnects when it is told nothing for so long, as while the API is frozen."""

AGAIN_S = 0.1


@dataclass
class Request:
    """A request under one idempotency key.

    Attributes:
        answers: to all attempts that were accepted.
        refused: why the last one was refused that was; none should be.
    """

    account_id: str
    amount_minor: int
    answers: list[Accepted] = field(default_factory=list)
    refused: str | None = None


class ThroughApi(Sender):
    """Sends requests to the API of a stack. While this process is traced, their traces are all recorded.

    Attributes:
        requests: by their idempotency keys.
    """

    def __init__(self, stack: Stack) -> None:
        self.requests: dict[str, Request] = {}
        self._url = stack.state.api_url
        self._key = create_key(stack.state.dsns["api"], "chaos", CLIENT)
        self._verify = _verify(stack)

    def __exit__(self, *error: object) -> None:
        """Nothing is open between two calls."""

    @property
    def asked(self) -> Mapping[UUID, int]:
        """The withdrawals that the answers name."""
        return {
            accepted.payment_id: request.amount_minor
            for request in self.requests.values()
            for accepted in request.answers
        }

    def send(self, messages: Iterable[Planned], rate: float, stop: threading.Event) -> int:
        """Send messages, and at the end again those that were not answered: see :class:`Sender`."""
        return asyncio.run(self._send_until(messages, rate, stop))

    async def _send_until(self, messages: Iterable[Planned], rate: float, stop: threading.Event) -> int:
        sending = asyncio.create_task(self._send(messages, rate))
        while not sending.done() and not stop.is_set():
            await asyncio.wait((sending,), timeout=TICK_S)
        sending.cancel()
        return await sending

    async def _send(self, messages: Iterable[Planned], rate: float) -> int:
        loop = asyncio.get_running_loop()
        sent, started = 0, loop.time()
        self._room = asyncio.Semaphore(AT_ONCE_MAX)
        async with self._client(DELIVERY_S) as patient, self._client(0.0) as hasty:
            async with asyncio.TaskGroup() as callers:
                for planned in messages:
                    await asyncio.sleep(started + sent / rate - loop.time())
                    sent += 1
                    client = patient if sent % HASTY_EVERY else hasty
                    key = str(planned.payment_id)  # names the request alone: the withdrawal's ID is the API's
                    request = self.requests.setdefault(key, Request(planned.account_id, planned.amount_minor))
                    callers.create_task(self._ask(client, key, request))
            async with asyncio.TaskGroup() as callers:
                for key, request in self.requests.items():
                    if not request.answers:
                        callers.create_task(self._ask(patient, key, request))
        return sent

    async def _ask(self, client: AsyncApiClient, key: str, request: Request) -> None:
        amount = amount_text(request.amount_minor, CURRENCY)
        async with self._room:
            with suppress(NotAnsweredError), trace.use_span(_span()):
                try:
                    answer = await client.request(request.account_id, amount, idempotency_key=key)
                except RefusedError as error:
                    request.refused = str(error)
                else:
                    request.answers.append(answer)

    def _client(self, give_up_s: float) -> AsyncApiClient:
        every = httpx.Limits(max_connections=None)
        return AsyncApiClient(
            self._url, self._key, timeout_s=ANSWER_S, give_up_s=give_up_s, verify=self._verify, limits=every
        )


class _Ending(msgspec.Struct, frozen=True):
    payment_id: UUID
    state: str


class Follower:
    """Follows the endings of all withdrawals, and each time that it is cut off goes on after the last one.

    Attributes:
        told: payment ID and state, as they came.
        connections: streams that were opened.
        refused: why the API does not let it go on, which it should.
    """

    def __init__(self, stack: Stack) -> None:
        self.told: list[tuple[UUID, str]] = []
        self.connections = 0
        self.refused: str | None = None
        with session(stack.state.dsns["saga"], autocommit=True) as connection:
            self._place = latest(connection)
        self._http = httpx.Client(
            base_url=stack.state.api_url,
            headers={"Authorization": f"Bearer {create_key(stack.state.dsns['api'], 'chaos-follower', VIEWER)}"},
            timeout=httpx.Timeout(ANSWER_S, read=SILENT_S),
            verify=_verify(stack),
        )
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._http.close()

    def wait(self, count: int, limit_s: float) -> None:
        """Until it was told so many endings, or that takes too long."""
        deadline = time.monotonic() + limit_s
        while len(self.told) < count and time.monotonic() < deadline:
            time.sleep(TICK_S)

    def _follow(self) -> None:
        while not self._done.is_set() and self.refused is None:
            with (
                suppress(httpx.TransportError),
                self._http.stream("GET", "/v1/events", headers={"Last-Event-ID": self._place}) as answer,
            ):
                if answer.is_success:
                    self._listen(answer)
                elif answer.is_client_error:
                    self.refused = f"HTTP {answer.status_code}, {answer.read().decode(errors='replace')}"
            self._done.wait(AGAIN_S)

    def _listen(self, answer: httpx.Response) -> None:
        self.connections += 1
        for message in EventSource(answer).iter_sse():
            self._place = message.id or self._place
            if message.data:
                ending = msgspec.json.decode(message.data, type=_Ending)
                self.told.append((ending.payment_id, ending.state))
            if self._done.is_set():
                return


def _verify(stack: Stack) -> ssl.SSLContext | bool:
    """What certificates have to be signed by."""
    ca = secrets_folder(stack.data) / CA
    return ssl.create_default_context(cafile=ca) if stack.state.secured else True


def _span() -> trace.Span:
    """The caller's span, outside of Settle, where all is to be traced; else none."""
    if not tracing.enabled():
        return trace.INVALID_SPAN
    ids = random.getrandbits(128) or 1, random.getrandbits(64) or 1
    return trace.NonRecordingSpan(trace.SpanContext(*ids, False, trace.TraceFlags(trace.TraceFlags.SAMPLED)))
