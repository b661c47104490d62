"""Clients of the HTTP API, for threads and for asyncio: ask for withdrawals, and follow each to its end.

::

    with ApiClient("https://settle.example", key) as api:
        accepted = api.request("acc-1", "100.00")
        print(api.wait(accepted.payment_id).state)

A request is repeated with the same ``Idempotency-Key`` until it is answered, so it is carried out once, whatever
happens to a connection or to the API. Nothing of Kafka is needed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx
import msgspec
from httpx_sse import EventSource, ServerSentEvent, SSEError

from contracts.foreign import UNREADABLE
from producers import calls
from producers.calls import TIMEOUT_S, Call
from producers.errors import NotAnsweredError, RefusedError

GIVE_UP_S = 60.0
"""How long a request is repeated before it counts as not answered."""

PAUSES_S = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Between attempts; the last one is used again and again. An answer's ``Retry-After`` prevails."""

LIMITS = httpx.Limits(max_keepalive_connections=20)
"""Of a client's connections, unless its caller gives others: as many as are wanted, as each open stream has one
and no request waits for its end. As many idle ones are kept as httpx keeps."""

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_URN = "urn:settle:problem:"
_STILL_RUNNING = "still-running"


class Accepted(msgspec.Struct, frozen=True):
    """A withdrawal that will be carried out or rejected: its request is stored.

    Attributes:
        amount: decimal text, in major units.
        trace_id: of its trace, 32 hex digits.
    """

    payment_id: UUID
    account_id: str
    amount: str
    currency: str
    requested_at: datetime
    trace_id: str


class Step(msgspec.Struct, frozen=True):
    """An event of a withdrawal, when it happened, and its reason where it has one."""

    event: str
    at: datetime
    reason: str | None = None


class Status(msgspec.Struct, frozen=True):
    """A withdrawal as it stands.

    Attributes:
        state: ``accepted``, ``requested``, ``deducted``, ``paid``, ``compensating``, ``completed``, ``rejected``,
            ``compensated``, …: as ``settle status`` says it.
        reason: why it was rejected or failed.
        finished_by: the event that finished it; None while it is under way.
        waiting_for: the step that is next, in words.
    """

    payment_id: UUID
    account_id: str
    amount: str
    currency: str
    state: str
    reason: str | None
    trace_id: str | None
    requested_at: datetime | None
    finished_at: datetime | None
    finished_by: str | None
    waiting_for: str | None
    steps: list[Step]


class Event(msgspec.Struct, frozen=True):
    """An event of a withdrawal.

    Attributes:
        id: to go on after it.
        event_id: the message ID.
        payload: the body, as published.
    """

    id: int
    payment_id: UUID
    event_id: UUID
    type: str
    payload: dict[str, Any]
    recorded_at: datetime


class _Problem(msgspec.Struct, frozen=True):
    type: str = ""
    title: str = ""
    detail: str = ""


Answer = httpx.Response | httpx.RequestError

_ENDED = httpx.RemoteProtocolError("the stream ended before the withdrawal did")
T = TypeVar("T")


class _Attempts:
    """When a request is repeated, and for how long."""

    def __init__(self, give_up_s: float) -> None:
        self._give_up_s = give_up_s
        self._until = time.monotonic() + give_up_s
        self.go_on()
        self._answered = self._arrived = False

    def go_on(self) -> None:
        """What was asked for has arrived: the pauses begin anew, and so, with the stream's end, does the time."""
        self._pauses = iter(PAUSES_S)
        self._arrived = True

    def answered(self) -> None:
        """A stream has begun: with its end, the time in which the API has to answer again begins anew.

        Not so if it is another's page, or cannot be decoded and nothing has arrived. Nor do the pauses: a server
        that ends each stream at once is not asked in a busy loop.
        """
        self._answered = True

    def pause_s(self, answer: Answer) -> float | None:
        """How long to wait before the next attempt, seconds; None where this is the answer.

        Raises:
            NotAnsweredError: it has been tried for too long.
        """
        pause = next(self._pauses, PAUSES_S[-1])
        if self._arrived or (self._answered and not isinstance(answer, SSEError | httpx.DecodingError)):
            self._until = time.monotonic() + self._give_up_s
        self._answered = self._arrived = False
        if isinstance(answer, httpx.RequestError):
            why = calls.why_unsent(answer)
        elif answer.status_code in _AGAIN or _problem_of(answer).type == _URN + _STILL_RUNNING:
            why = str(_refused(answer))
            with suppress(ValueError):
                pause = max(pause, float(answer.headers.get("retry-after", "")))
        else:
            return None
        if time.monotonic() + pause > self._until:
            raise NotAnsweredError(f"the API does not answer: {why}")
        return pause


class ApiClient:
    """Asks for withdrawals over HTTP; may be shared by threads.

    Args:
        url: of the API, such as ``https://settle.example``.
        key: an API key (``settle api-keys create``).
        timeout_s: for one answer, seconds.
        give_up_s: how long a request is repeated before :class:`NotAnsweredError`, seconds; with the end of a
            stream it begins anew.
        options: of ``httpx.Client``, such as ``verify``, ``transport`` or ``limits``.

    Every method raises :class:`RefusedError` and :class:`NotAnsweredError`.

    Raises:
        InvalidRequestError: that is no URL, or no API key; or it is production, and others could read the key on
            the way.
        EnvironmentRefusedError: ``SETTLE_ENV`` or ``SETTLE_TRUSTED_NETWORK`` is wrong.
    """

    def __init__(
        self, url: str, key: str, *, timeout_s: float = TIMEOUT_S, give_up_s: float = GIVE_UP_S, **options: Any
    ) -> None:
        self._give_up_s = give_up_s
        self._http = httpx.Client(**calls.client(url, key), timeout=timeout_s, **{"limits": LIMITS, **options})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self,
        account_id: str,
        amount: str,
        *,
        currency: str = "USD",
        payment_id: UUID | None = None,
        idempotency_key: str | None = None,
    ) -> Accepted:
        """Ask for a withdrawal; returns once its request is stored, from when on it will be carried out.

        Args:
            account_id: the account the money is taken from.
            amount: decimal text, in major units: ``100.00``.
            currency: ISO 4217 code.
            payment_id: names the withdrawal; by default a new one.
            idempotency_key: of an earlier attempt, to repeat it after a crash; by default a new one.

        Raises:
            InvalidRequestError: the idempotency key is none.
        """
        call = calls.request(account_id, amount, currency, payment_id, idempotency_key)
        return _decoded(self._answer(call), Accepted)

    def status(self, payment_id: UUID) -> Status:
        """Where a withdrawal stands."""
        return _decoded(self._answer(calls.status(payment_id)), Status)

    def cancel(self, payment_id: UUID, reason: str | None = None) -> None:
        """Ask to cancel a withdrawal: :meth:`events` tells what became of it.

        Args:
            payment_id: of the withdrawal.
            reason: why, which callers with another role than ``client`` have to say.
        """
        self._answer(calls.cancellation(payment_id, reason))

    def events(self, payment_id: UUID, after: int = 0) -> Iterator[Event]:
        """The events of a withdrawal as they happen, until it has ended; each once, also where connections break.

        Args:
            after: only those after the event with this ID.
        """
        attempts = _Attempts(self._give_up_s)
        while True:
            answer: Answer
            try:
                with self._http.stream("GET", calls.events_path(payment_id), **calls.stream(after)) as answer:
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return
                    if answer.is_success:
                        attempts.answered()
                        for message in EventSource(answer).iter_sse():
                            if (event := _event(answer, message)) is not None:
                                after = event.id
                                attempts.go_on()
                                yield event
                        answer = _ENDED
                    else:
                        answer.read()
            except httpx.RequestError as error:
                answer = error
            if (pause := attempts.pause_s(answer)) is None:
                raise _refused(answer)
            time.sleep(pause)

    def wait(self, payment_id: UUID) -> Status:
        """Where a withdrawal stands once it has ended: its state says how."""
        for _ in self.events(payment_id):
            pass
        return self.status(payment_id)

    def _answer(self, call: Call) -> httpx.Response:
        attempts = _Attempts(self._give_up_s)
        while True:
            try:
                answer: Answer = self._http.request(call.method, call.path, **call.arguments)
            except httpx.RequestError as error:
                answer = error
            if (pause := attempts.pause_s(answer)) is None:
                return _accepted(answer)
            time.sleep(pause)


class AsyncApiClient:
    """The same for asyncio: see :class:`ApiClient`."""

    def __init__(
        self, url: str, key: str, *, timeout_s: float = TIMEOUT_S, give_up_s: float = GIVE_UP_S, **options: Any
    ) -> None:
        self._give_up_s = give_up_s
        self._http = httpx.AsyncClient(
            **calls.client(url, key), timeout=timeout_s, **{"limits": LIMITS, **options}
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def request(
        self,
        account_id: str,
        amount: str,
        *,
        currency: str = "USD",
        payment_id: UUID | None = None,
        idempotency_key: str | None = None,
    ) -> Accepted:
        """Ask for a withdrawal: see :meth:`ApiClient.request`."""
        call = calls.request(account_id, amount, currency, payment_id, idempotency_key)
        return _decoded(await self._answer(call), Accepted)

    async def status(self, payment_id: UUID) -> Status:
        """Where a withdrawal stands."""
        return _decoded(await self._answer(calls.status(payment_id)), Status)

    async def cancel(self, payment_id: UUID, reason: str | None = None) -> None:
        """Ask to cancel a withdrawal: :meth:`events` tells what became of it; see :meth:`ApiClient.cancel`."""
        await self._answer(calls.cancellation(payment_id, reason))

    async def events(self, payment_id: UUID, after: int = 0) -> AsyncIterator[Event]:
        """The events of a withdrawal as they happen, until it has ended: see :meth:`ApiClient.events`."""
        attempts = _Attempts(self._give_up_s)
        while True:
            answer: Answer
            try:
                async with self._http.stream(
                    "GET", calls.events_path(payment_id), **calls.stream(after)
                ) as answer:
                    if answer.status_code == httpx.codes.NO_CONTENT:
                        return
                    if answer.is_success:
                        attempts.answered()
                        async for message in EventSource(answer).aiter_sse():
                            if (event := _event(answer, message)) is not None:
                                after = event.id
                                attempts.go_on()
                                yield event
                        answer = _ENDED
                    else:
                        await answer.aread()
            except httpx.RequestError as error:
                answer = error
            if (pause := attempts.pause_s(answer)) is None:
                raise _refused(answer)
            await asyncio.sleep(pause)

    async def wait(self, payment_id: UUID) -> Status:
        """Where a withdrawal stands once it has ended: its state says how."""
        async for _ in self.events(payment_id):
            pass
        return await self.status(payment_id)

    async def _answer(self, call: Call) -> httpx.Response:
        attempts = _Attempts(self._give_up_s)
        while True:
            try:
                answer: Answer = await self._http.request(call.method, call.path, **call.arguments)
            except httpx.RequestError as error:
                answer = error
            if (pause := attempts.pause_s(answer)) is None:
                return _accepted(answer)
            await asyncio.sleep(pause)


def _event(answer: httpx.Response, message: ServerSentEvent) -> Event | None:
    """The event of a message; None for one that only tells that the stream is alive, or how far it is."""
    return _read(answer, message.data, Event) if message.data else None


def _accepted(answer: Answer) -> httpx.Response:
    if isinstance(answer, httpx.Response) and answer.is_success:
        return answer
    raise _refused(answer)


def _decoded(answer: httpx.Response, kind: type[T]) -> T:
    return _read(answer, answer.content, kind)


def _read(answer: httpx.Response, body: bytes | str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE as error:
        raise RefusedError(
            f"somebody else than the API answers at {answer.url.host}: {error}", answer.status_code, ""
        ) from None


def _problem_of(answer: httpx.Response) -> _Problem:
    """The problem details of an answer; empty where it has none, as that of a proxy."""
    with suppress(*UNREADABLE):
        return msgspec.json.decode(answer.content, type=_Problem)
    return _Problem()


def _refused(answer: Answer) -> RefusedError:
    assert isinstance(answer, httpx.Response)
    problem = _problem_of(answer)
    words = ": ".join(filter(None, (problem.title or answer.reason_phrase, problem.detail)))
    return RefusedError(f"HTTP {answer.status_code}, {words}", answer.status_code, problem.type.removeprefix(_URN))
