"""Bodies of requests: strict JSON, of which nothing can be understood in two ways."""

import asyncio
import json
import re
from typing import Any, NoReturn

import msgspec
from litestar import Request
from litestar.types import Empty, Receive

from api.problems import Problem

BODY_BYTES_MAX = 16 * 1024
"""Of a request; ours have some hundred bytes."""

LIST_BYTES_MAX = 512 * 1024
"""Of a request with a list of what is to be acted on."""

BODY_S_MAX = 10.0
"""How long a body may take to arrive."""

TOO_LARGE = "the body is larger than the API takes"

DIGITS_MAX = 4_000
"""Of a number; Python's own limit is that of a process, and its error speaks of Python."""

_JSON = ("application/json", "text/json")


class StrictRequest(Request[Any, Any, Any]):
    """A request whose JSON comes in time, can be read in one way only, and has the types that are documented."""

    async def body(self) -> bytes:
        """The body as it was sent.

        Raises:
            Problem: it is too large, too late, or ends before it is whole.
        """
        if self._body is Empty:  # Litestar asks more than once
            most = self.route_handler.resolve_request_max_body_size() or BODY_BYTES_MAX
            loop = asyncio.get_running_loop()
            self._body = await read_body(loop, self.receive, self.headers.get("content-length"), most)
        return self._body

    async def json(self) -> Any:
        """The body, as what its handler takes it for.

        Raises:
            Problem: it is too large, too late, of another media type, not such JSON, or none of the handler's.
        """
        check_media_type(self.headers.get("content-type"), self.headers.get("content-encoding"))
        kind = self.scope["route_handler"].parsed_fn_signature.parameters["data"].annotation
        return taken(await self.body(), kind)


async def read_body(
    loop: asyncio.AbstractEventLoop, receive: Receive, length: str | None, bytes_max: int
) -> bytes:
    """The body of a request as it was sent.

    Args:
        loop: that runs; to ask for it is a system call in Python 3.11.
        receive: of ASGI.
        length: that its head says, if it does; the server has checked that it is a number.
        bytes_max: how large it may be.

    Raises:
        Problem: it is too large, too late, or ends before it is whole.
    """
    if length is not None and int(length) > bytes_max:
        raise Problem("too-large", TOO_LARGE)
    task, is_late = asyncio.current_task(loop), False

    def give_up() -> None:
        nonlocal is_late
        is_late = True
        task.cancel()  # type: ignore[union-attr]  # it runs in one

    body, more = b"", True
    limit = loop.call_later(BODY_S_MAX, give_up)  # asyncio.timeout asks the system who we are, thrice
    try:
        while more:
            message: Any = await receive()
            if message["type"] != "http.request":
                raise Problem("malformed", "the body ended before it was whole")
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > bytes_max:
                raise Problem("too-large", TOO_LARGE)
    except asyncio.CancelledError:
        if not is_late or task.uncancel():  # type: ignore[union-attr]
            raise
        raise Problem("too-slow", f"the body did not arrive within {BODY_S_MAX:g} s") from None
    finally:
        limit.cancel()
    return body


def check_media_type(content_type: str | None, encoding: str | None) -> None:
    """Refuse what says to be no plain JSON.

    Raises:
        Problem: it does.
    """
    if (content_type or "").partition(";")[0].strip().lower() not in _JSON:
        raise Problem("unsupported-media-type", "Content-Type has to be application/json")
    if (encoding or "identity").lower() != "identity":
        raise Problem("unsupported-media-type", "a body is taken as it is, without a Content-Encoding")


def taken(body: bytes, kind: Any) -> Any:
    """A body as the type that a handler takes.

    Raises:
        Problem: it is not such JSON, or not of this type.
    """
    try:
        found = _DECODER.decode(body.decode())
    except RecursionError:
        raise Problem("malformed", "the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise Problem("malformed", "the body is not UTF-8") from None
    except ValueError as error:
        raise Problem("malformed", f"the body is not JSON: {error}") from None
    return _converted(found, kind)


def _converted(found: Any, kind: Any) -> Any:
    """A body as the type that a handler takes, here as Litestar would take "1" for 1."""
    try:
        return msgspec.convert(found, kind, strict=True)
    except msgspec.ValidationError as error:
        said = str(error)
    place = _PLACE.search(said)
    raise Problem("invalid", f"{place[1]}: {said[: place.start()]}" if place else said)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        raise ValueError(f"a number has more than {DIGITS_MAX} digits")
    return int(digits)


# Made once: that takes longer than to decode a body of ours.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_whole)
_PLACE = re.compile(r" - at `\$\.?(\S+)`$")
