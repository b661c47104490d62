"""Errors as the API answers them: problem details, ``application/problem+json`` (RFC 9457)."""

from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import ParameterKwarg
from litestar.typing import FieldDefinition

log = structlog.get_logger()

RETRY_S = 1
"""When to repeat a request that could not be answered now, seconds."""

URN = "urn:settle:problem:"
MEDIA_TYPE = "application/problem+json"

KINDS: dict[str, tuple[int, str]] = {
    "malformed": (400, "The request cannot be read"),
    "key-missing": (400, "The Idempotency-Key is missing"),
    "unauthenticated": (401, "Nobody is known by these credentials"),
    "forbidden": (403, "This caller may not do that"),
    "not-found": (404, "There is nothing here"),
    "path-unknown": (404, "The API has no such path"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "too-slow": (408, "The request did not arrive in time"),
    "still-running": (409, "A request with this Idempotency-Key is still running"),
    "payment-id-taken": (409, "The payment ID belongs to another withdrawal"),
    "audit-running": (409, "An audit is running already"),
    "finished": (409, "The withdrawal is finished"),
    "too-large": (413, "The request is too large"),
    "unsupported-media-type": (415, "The body is not JSON"),
    "invalid": (422, "The request cannot be accepted"),
    "key-reused": (422, "The Idempotency-Key was used for another request"),
    "too-many-requests": (429, "Too many requests"),
    "internal": (500, "The API failed"),
    "unavailable": (503, "The request cannot be answered now"),
}
"""Every kind of problem: the end of its type, its HTTP status, and its title."""

_OF_STATUS = {
    401: "unauthenticated",
    403: "forbidden",
    404: "path-unknown",
    405: "method-not-allowed",
    413: "too-large",
}


class Problem(Exception):  # noqa: N818 RFC 9457 names it so
    """A request that is answered with a problem.

    Args:
        kind: of :data:`KINDS`.
        detail: what is wrong with this request, for a person.
        retry_after_s: when to repeat it, seconds.
    """

    def __init__(self, kind: str, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail
        self.headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else {}
        if kind == "unauthenticated":
            self.headers["WWW-Authenticate"] = "Bearer"


class ProblemDetails(msgspec.Struct, frozen=True):
    """The body of every error.

    Attributes:
        type: ``urn:settle:problem:`` and the kind.
        title: the kind in words.
        status: as in the HTTP response.
        detail: what is wrong with this request.
    """

    type: str
    title: str
    status: int
    detail: str


def answer(problem: Problem) -> Response[ProblemDetails]:
    """The response to a request with a problem."""
    status, title = KINDS[problem.kind]
    return Response(
        ProblemDetails(URN + problem.kind, title, status, problem.detail),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )


def on_problem(_request: Request[Any, Any, Any], problem: Problem) -> Response[ProblemDetails]:
    """Answer what our own code raises."""
    return answer(problem)


def on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[ProblemDetails]:
    """Answer what Litestar raises; whatever is not known by its status is a request that cannot be read."""
    if error.status_code >= 500:
        return on_error(request, error)
    if isinstance(error, ValidationException) and isinstance(error.extra, list) and error.extra:
        if error.extra[0].get("key") == _BODY and request.headers.get("content-length", "0") == "0":
            return answer(Problem("malformed", "the body is missing"))
        wrong = (
            f"{_named(request, one['key'])}: {one['message']}"
            if one.get("key") not in (None, _BODY)
            else one["message"]
            for one in error.extra
        )
        return answer(Problem("invalid", "; ".join(wrong)))
    kind = _OF_STATUS.get(error.status_code, "malformed")
    problem = Problem(kind, _DETAILS.get(kind) or error.detail)
    if kind == "method-not-allowed":
        problem.headers["Allow"] = ", ".join(_allowed(request))
    return answer(problem)


def on_error(request: Request[Any, Any, Any], error: Exception) -> Response[ProblemDetails]:
    """Answer an error of ours: the log has it, the caller learns nothing of it."""
    log.error("a request fails", path=request.scope["path"], exc_info=error)
    return answer(Problem("internal", "the log of the API has more; repeating the request with its key is safe"))


def on_unstorable(_request: Request[Any, Any, Any], _error: Exception) -> Response[ProblemDetails]:
    """Answer a value that no database of ours can hold, such as text with U+0000; wherever it was sent."""
    return answer(Problem("invalid", "a value has characters or numbers that cannot be stored, so nothing has it"))


def on_missing_right(_request: Request[Any, Any, Any], error: Exception) -> Response[ProblemDetails]:
    """Answer a statement that the API's own role may not run, such as one about a table that is new."""
    said = " ".join(str(error).split())
    log.error("the API's database role lacks a right", reason=said, remedy="settle migrate --grant")
    return answer(
        Problem("unavailable", f"the API's own role lacks a right: {said}; `settle migrate --grant` gives it")
    )


def _allowed(request: Request[Any, Any, Any]) -> list[str]:
    """The methods of the route with a request's path."""
    parts = [part for part in request.scope["path"].split("/") if part]
    for route in request.app.routes:
        wanted = route.path_components
        if len(wanted) == len(parts) and all(
            not isinstance(one, str) or one == part for one, part in zip(wanted, parts, strict=True)
        ):
            return sorted(set(route.methods) - {"OPTIONS"})
    return []


def _named(request: Request[Any, Any, Any], argument: str) -> str:
    """A parameter's name in a request, by that of the handler's argument."""
    field = request.scope["route_handler"].parsed_fn_signature.parameters.get(argument)
    return name_of(field) if field is not None else argument


def name_of(field: FieldDefinition) -> str:
    """The name that a handler's argument has in a request."""
    about = field.kwarg_definition
    return (isinstance(about, ParameterKwarg) and (about.query or about.header)) or field.name


_BODY = "data"
"""The parameter of handlers that is the whole body."""

_DETAILS = {
    "path-unknown": "the path is unknown",
    "too-large": "the body is larger than the API takes",
    "method-not-allowed": "the path is known, but not with this method",
}


OF_A_BODY = ("too-slow", "too-large", "unsupported-media-type")
"""What a route that takes a body may answer with, beside what every route may."""


def problems(*kinds: str) -> dict[int, ResponseSpec]:
    """The errors that a route may answer with, beside those of every route, for its documentation."""
    every = (
        "malformed",
        "unauthenticated",
        "forbidden",
        "invalid",
        "too-many-requests",
        "internal",
        "unavailable",
    )
    found: dict[int, ResponseSpec] = {}
    for kind in (*every, *kinds):
        status, title = KINDS[kind]
        said = f"{found[status].description}; {title}" if status in found else title
        found[status] = ResponseSpec(
            ProblemDetails, generate_examples=False, description=said, media_type="application/problem+json"
        )
    return found
