"""Errors as pages: what a problem says, in the frame, or how to sign in."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from litestar import Request, Response
from litestar.datastructures import Cookie

from api.access import Caller
from api.console import frame
from api.console.rendering import html, render
from api.credentials import SIGN_IN, SIGN_IN_S
from api.front import Front
from api.people import WANTED, WANTED_MAX
from api.problems import ProblemDetails

Handler = Callable[[Request[Any, Any, Any], Any], Response[ProblemDetails]]

_CARRIED = ("retry-after", "www-authenticate", "allow")


def for_people(handler: Handler) -> Callable[[Request[Any, Any, Any], Any], Response[Any]]:
    """The same handler of errors; what it answers is a page where a person looks at it."""

    def answer(request: Request[Any, Any, Any], error: Any) -> Response[Any]:
        found = handler(request, error)
        return _page(request, found) if _is_for_people(request) else found

    return answer


def _is_for_people(request: Request[Any, Any, Any]) -> bool:
    path = request.scope["path"]
    if path == SIGN_IN:
        return "text/html" in request.headers.get("accept", "")
    return path == frame.HOME or path.startswith(f"{frame.HOME}/")


def _page(request: Request[Any, Any, Any], found: Response[ProblemDetails]) -> Response[str]:
    details = found.content
    caller = request.scope.get("user")
    front: Front = request.app.state.front
    if isinstance(caller, Caller):
        answer = frame.framed(
            front, caller, "error.html", title=details.title, status=details.status, problem=details
        )
    elif details.status == 401:
        answer = _sign_in(request, details)
    else:
        answer = html(render("bare_error.html", problem=details, title=details.title), details.status)
    for name, value in found.headers.items():
        if name.lower() in _CARRIED:
            answer.headers[name] = value
    return answer


def _sign_in(request: Request[Any, Any, Any], details: ProblemDetails) -> Response[str]:
    # A link from another site comes without the cookie, which is for this site's own pages: this page is one.
    is_from_elsewhere = request.headers.get("sec-fetch-site") == "cross-site"
    is_link = request.scope["path"] == SIGN_IN
    answer = html(
        render(
            "sign_in.html",
            title="Sign in",
            detail=details.detail if is_link else None,
            again=is_from_elsewhere and not is_link,
        ),
        details.status,
    )
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if (
        not is_link
        and request.method == "GET"
        and len(wanted) <= WANTED_MAX
        and "text/html" in request.headers.get("accept", "")
    ):
        answer.set_cookie(
            Cookie(
                WANTED,
                value=quote(wanted, safe="/"),
                max_age=int(SIGN_IN_S),
                path=SIGN_IN,
                httponly=True,
                samesite="lax",
                secure=request.scope["scheme"] == "https",
            )
        )
    return answer
