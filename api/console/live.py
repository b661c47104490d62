"""Streams of open pages: fragments as server-sent events."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime

from litestar.response import Stream

from api import parameters, streams
from api.bodies import StrictRequest
from api.console.rendering import render
from api.front import Front
from api.problems import Problem
from api.streams import CHECK_S
from api.watch import View

BEAT = b"event: beat\ndata:\n\n"
"""What an open page is sent when nothing has changed: a comment would not reach its script."""

BEAT_S = 5.0
"""How often. A page that hears nothing for three times as long says that it is not connected (``console.js``)."""

TROUBLE = "trouble"
"""The event that says why a page stands still, and since when; empty once it moves again.

A stream says it once it has found anything: the page may show the trouble that a stream before it has told.
"""

_UNSAID = object()


def stream(request: StrictRequest, *views: View) -> Stream:
    """What a page shows, from now on.

    Raises:
        Problem: too many pages are open, or the query has a parameter or value that no page gives its stream.
    """
    front: Front = request.app.state.front
    parameters.check(request.route_handler, request.scope["query_string"])
    if any("\0" in value for _, value in request.query_params.multi_items()):
        raise Problem("invalid", "a value has the character U+0000, so nothing has it")
    streams.check_room(request)
    front.watch.check_room()
    return streams.stream(request, _messages(front, views), BEAT, BEAT_S)


async def _messages(front: Front, views: tuple[View, ...]) -> AsyncGenerator[bytes, None]:
    trouble: str | object | None = _UNSAID
    since = datetime.now(UTC)
    async with aclosing(front.watch.stream(*views, heartbeat_s=CHECK_S)) as watched:
        async for news in watched:
            fragments = news.fragments
            is_known = bool(fragments) or news.trouble is not None or trouble is not _UNSAID
            if is_known and news.trouble != trouble:
                if trouble is None or news.trouble is None:
                    since = datetime.now(UTC)
                trouble = news.trouble
                fragments[TROUBLE] = render("fragments/trouble.html", trouble=trouble, since=since)
            yield b"".join(_event(name, text) for name, text in fragments.items())


def _event(name: str, text: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{lines}\n".encode()
