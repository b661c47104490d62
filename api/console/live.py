"""Streams of open pages: fragments as server-sent events, as long as whoever reads them may."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from litestar.response import Stream

from api.access import Caller
from api.bodies import StrictRequest
from api.console.rendering import render
from api.front import Front
from api.problems import Problem
from api.statuses import EVENT_STREAM, HEARTBEAT_S
from api.watch import View

TROUBLE = "trouble"
"""The event that says why a page stands still, and since when; empty once it moves again."""


def stream(request: StrictRequest, *views: View) -> Stream:
    """What a page shows, from now on.

    Raises:
        Problem: too many pages are open.
    """
    front: Front = request.app.state.front
    front.watch.check_room()
    headers = request.headers.get("authorization"), request.headers.get("cookie")
    return Stream(
        _messages(front, headers, request.user, views),
        media_type=EVENT_STREAM,
        headers={"X-Accel-Buffering": "no"},
    )


async def _messages(
    front: Front, headers: tuple[str | None, str | None], caller: Caller, views: tuple[View, ...]
) -> AsyncIterator[bytes]:
    trouble, since = None, datetime.now(UTC)
    async for news in front.watch.stream(*views, heartbeat_s=HEARTBEAT_S):
        if not await _still(front, headers, caller):
            return
        fragments = news.fragments
        if (news.trouble is None) != (trouble is None):
            since = datetime.now(UTC)
        if news.trouble != trouble:
            trouble = news.trouble
            fragments[TROUBLE] = render("fragments/trouble.html", trouble=trouble, since=since)
        yield b"".join(_event(name, text) for name, text in fragments.items()) or b": nothing new\n\n"


async def _still(front: Front, headers: tuple[str | None, str | None], caller: Caller) -> bool:
    """Whether the credentials are still the caller's: a key may be revoked, a session ends."""
    try:
        return await front.credentials.caller_of(*headers) == caller
    except Problem:
        return True  # the database of the credentials is away, which ends no session


def _event(name: str, text: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{lines}\n".encode()
