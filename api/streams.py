"""Streams of server-sent events, whatever they tell: each lasts as long as whoever reads it may."""

import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing
from functools import partial
from typing import Any

from litestar.response import Stream
from litestar.types import Receive, Scope, Send

from api.access import Caller
from api.bodies import StrictRequest
from api.follow import CROWDED_S
from api.front import Front
from api.guard import caller_of
from api.problems import Problem

EVENT_STREAM = "text/event-stream"

HEARTBEAT_S = 15.0
"""A stream that has nothing to say says that it is there, so that nobody between closes it."""

CHECK_S = 2.0
"""How often a stream's generator yields at the least: its caller is checked then, and whether the process stops.

A key that is revoked ends it this much after it is refused: :data:`api.credentials.REMEMBERED_S` and this are 5 s.
"""

UNCHECKED_S_MAX = 30.0
"""How long a stream stays open while nobody can be asked whether its caller may still read it."""

NOTHING_NEW = b": nothing new\n\n"

_REFUSED = re.compile(r"q=0(\.0{0,3})?")


def stream(
    request: StrictRequest,
    content: AsyncGenerator[bytes, None],
    heartbeat: bytes = NOTHING_NEW,
    heartbeat_s: float = HEARTBEAT_S,
) -> Stream:
    """An answer that lasts until its content, the caller's right to it or the process ends.

    Args:
        request: of the caller who reads it, which has passed the guard.
        content: messages as they come; at least every :data:`CHECK_S`, be it an empty one, which is not sent.
        heartbeat: what is sent where there was nothing to say for ``heartbeat_s`` seconds.
        heartbeat_s: how often.
    """
    front: Front = request.app.state.front
    headers = {"X-Accel-Buffering": "no"}
    checked = _while_allowed(request, content, heartbeat, heartbeat_s)
    found = _Closing(checked, media_type=EVENT_STREAM, headers=headers)
    found.counted = partial(front.streams.opened, caller_of(request).name)
    return found


def check_room(request: StrictRequest) -> None:
    """Refuse a stream to a caller who has as many as one may have; before anything is begun for it.

    Raises:
        Problem: there are too many of this caller.
    """
    front: Front = request.app.state.front
    if not front.streams.has_room(caller_of(request).name):
        most = front.streams.most
        raise Problem("too-many-requests", f"this caller has {most:,} streams open already", CROWDED_S)


def wants_stream(request: StrictRequest) -> bool:
    """Whether the ``Accept`` headers name event streams, and not to refuse them (RFC 9110, 12.4.2: ``q=0``)."""
    for one in ",".join(request.headers.getall("accept", [])).lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        if kind == EVENT_STREAM and not any(_REFUSED.fullmatch(part) for part in parameters):
            return True
    return False


async def _while_allowed(
    request: StrictRequest, content: AsyncGenerator[bytes, None], heartbeat: bytes, heartbeat_s: float
) -> AsyncGenerator[bytes, None]:
    front: Front = request.app.state.front
    caller, said_at, checked_at = caller_of(request), float("-inf"), time.monotonic()
    headers = request.headers.get("authorization"), request.headers.get("cookie")
    async with aclosing(content):
        async for said in content:
            still = await _still(front, headers, caller)
            now = time.monotonic()
            if still is False or (still is None and now - checked_at > UNCHECKED_S_MAX):
                return
            checked_at = now if still else checked_at
            if said or now - said_at >= heartbeat_s:
                yield said or heartbeat
                said_at = now
            if front.is_stopping:  # whoever reads goes on at another instance, after the last event that it has
                return


async def _still(front: Front, headers: tuple[str | None, str | None], caller: Caller) -> bool | None:
    """Whether the credentials are still the caller's, as a key may be revoked; None where nobody can be asked."""
    try:
        return await front.credentials.caller_of(*headers) == caller
    except Problem:
        return None


class _Closing(Stream):
    """A stream whose generator is closed with it: one that is cancelled while it sends would follow on unread."""

    counted: Callable[[], AbstractContextManager[None]]

    def to_asgi_response(self, *args: Any, **options: Any) -> Any:
        """The response as an application."""
        response = super().to_asgi_response(*args, **options)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            async with aclosing(self.iterator):  # type: ignore[type-var]  # stream() has made it
                with self.counted():
                    await response(scope, receive, send)

        return answer
