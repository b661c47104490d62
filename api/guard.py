"""The check of every request before its handler: who asks, how often, and whether it may."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from api import parameters
from api.access import Caller
from api.front import Front
from api.problems import Problem

OPEN = "open"
"""In a handler's ``opt``: it needs no credentials."""

PERMISSION = "permission"
"""In a handler's ``opt``: which permission it asks for. A handler with neither is for nobody."""

_SINGLE = frozenset((b"authorization", b"content-type", b"idempotency-key", b"last-event-id"))
"""Headers that say one thing: with two, another program on the way may have read the other."""

_SAFE = ("GET", "HEAD", "OPTIONS")
_OURS = ("same-origin", "none")
"""Values of ``Sec-Fetch-Site``: a page of ours, or a person, has sent the request."""

Connection = ASGIConnection[Any, Any, Any, Any]


def guarded(app: ASGIApp) -> ASGIApp:
    """The same application, where only requests that may pass do; their caller is ``scope["user"]`` then.

    A middleware and none of Litestar's guards, as for those it copies the handler: a sixth of a request's time.
    """

    async def pass_on(scope: Scope, receive: Receive, send: Send) -> None:
        single = [name for name, _ in scope["headers"] if name in _SINGLE]
        if len(set(single)) < len(single):
            raise Problem("malformed", f"a header occurs twice: {max(single, key=single.count).decode()}")
        if scope.get("method") == "OPTIONS":  # Litestar's own handler, which knows only some of a path's methods
            raise MethodNotAllowedException
        handler = scope["route_handler"]
        if not handler.opt.get(OPEN):
            scope["user"] = await _allowed(ASGIConnection(scope), handler.opt.get(PERMISSION))
        is_documented = isinstance(handler, HTTPRouteHandler) and handler.resolve_include_in_schema()
        if scope["query_string"] and is_documented:
            parameters.check(handler, scope["query_string"])
        await app(scope, receive, send)

    return pass_on


async def _allowed(connection: Connection, permission: str | None) -> Caller:
    """Who sends a request.

    Raises:
        Problem: nobody is known by its credentials, its caller comes too often, or may not do that.
    """
    front: Front = connection.app.state.front
    headers = connection.headers
    caller = await front.credentials.caller_of(headers.get("authorization"), headers.get("cookie"))
    if caller is None:
        raise Problem("unauthenticated", "send an API key that is valid: Authorization: Bearer settle_…")
    if (wait_s := front.limit.wait_s(caller.name)) is not None:
        raise Problem("too-many-requests", f"more than {front.settings.api_rate:g} requests a second", wait_s)
    is_safe = connection.scope.get("method") in _SAFE
    # A browser sends a cookie along whichever page has it send the request.
    if caller.by_cookie and not is_safe and headers.get("sec-fetch-site") not in _OURS:
        raise Problem("forbidden", "with a session, only pages of this API may change something")
    if permission is None or permission not in caller.permissions:
        raise Problem("forbidden", f"{caller.role} {caller.name} lacks the permission {permission}")
    return caller


def caller_of(connection: Connection) -> Caller:
    """Who sends a request that has passed the guard."""
    caller: Caller = connection.scope["user"]
    return caller
