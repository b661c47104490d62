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

FAILED = "failed"
"""In a scope's ``state``: an error that a way around Litestar has met, which Litestar is to answer."""

_SINGLE = frozenset((b"authorization", b"content-type", b"idempotency-key", b"last-event-id"))
"""Headers that say one thing: with two, another program on the way may have read the other."""

_SAFE = ("GET", "HEAD", "OPTIONS")
OURS = ("same-origin", "none")
"""Values of ``Sec-Fetch-Site``: a page of ours, or a person, has sent the request."""

Connection = ASGIConnection[Any, Any, Any, Any]


def guarded(app: ASGIApp) -> ASGIApp:
    """The same application, where only requests that may pass do; their caller is ``scope["user"]`` then.

    A middleware and none of Litestar's guards, as for those it copies the handler: a sixth of a request's time.
    """

    async def pass_on(scope: Scope, receive: Receive, send: Send) -> None:
        if (error := scope["state"].get(FAILED)) is not None:
            raise error
        headers = first_headers(scope)
        if not _is_as_documented(scope):
            raise Problem("path-unknown", "the path is unknown, written like this: a slash or a % too many")
        if scope.get("method") == "OPTIONS":  # Litestar's own handler, which knows only some of a path's methods
            raise MethodNotAllowedException
        handler = scope["route_handler"]
        if not handler.opt.get(OPEN):
            front: Front = scope["litestar_app"].state.front
            scope["user"] = await allowed(front, scope, headers, handler.opt.get(PERMISSION))
        if scope["query_string"] and isinstance(handler, HTTPRouteHandler) and handler.resolve_include_in_schema():
            parameters.check(handler, scope["query_string"])
        await app(scope, receive, send)

    return pass_on


def _is_as_documented(scope: Scope) -> bool:
    """Whether a path is written as its route is, but for parameters and a slash at its end.

    Litestar passes over empty segments and decodes what is encoded; a program on the way that has been told which
    paths to let through may not.
    """
    raw = bytes(scope["raw_path"])
    if b"%" not in raw and b"//" not in raw:
        return True
    given = raw.decode("latin-1").removesuffix("/").split("/")
    literal = str(scope["path_template"]).removesuffix("/").split("/")
    return len(given) == len(literal) and all(
        one == other or other.startswith("{") for one, other in zip(given, literal, strict=True)
    )


def first_headers(scope: Scope) -> dict[bytes, str]:
    """The first header of each name.

    Raises:
        Problem: one of those that say one thing occurs twice.
    """
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name not in found:
            found[name] = value.decode("latin-1")
        elif name in _SINGLE:
            raise Problem("malformed", f"a header occurs twice: {name.decode()}")
    return found


async def allowed(front: Front, scope: Scope, headers: dict[bytes, str], permission: str | None) -> Caller:
    """Who sends a request with these headers, and may what it asks for.

    Raises:
        Problem: nobody is known by its credentials, its caller comes too often, or may not do that.
    """
    caller = await front.credentials.caller_of(headers.get(b"authorization"), headers.get(b"cookie"))
    if caller is None:
        raise _nobody(front, headers.get(b"authorization"))
    if (wait_s := front.limit.wait_s(caller.name)) is not None:
        raise Problem("too-many-requests", f"more than {front.settings.api_rate:g} requests a second", wait_s)
    is_safe = scope.get("method") in _SAFE
    # A browser sends a cookie along whichever page has it send the request.
    if caller.by_cookie and not is_safe and headers.get(b"sec-fetch-site") not in OURS:
        raise Problem("forbidden", "with a session, only pages of this API may change something")
    if permission is None or permission not in caller.permissions:
        raise Problem("forbidden", f"{caller.role} {caller.name} lacks the permission {permission}")
    return caller


def _nobody(front: Front, authorization: str | None) -> Problem:
    """The problem of a request whose credentials are nobody's."""
    if authorization is not None and front.credentials.is_of_provider(authorization):
        found = Problem("unauthenticated", "the token is not one that is taken here; the API's log says why")
    else:
        found = Problem("unauthenticated", "send an API key that is valid: Authorization: Bearer settle_…")
    if authorization is not None:
        found.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'  # RFC 6750, 3.1
    return found


def caller_of(connection: Connection) -> Caller:
    """Who sends a request that has passed the guard."""
    caller: Caller = connection.scope["user"]
    return caller
