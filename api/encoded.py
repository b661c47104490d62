"""An answer whose body is encoded already, for the route where each microsecond of a request counts."""

from typing import Any, TypeVar

import msgspec
from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send

T = TypeVar("T")

_ENCODER = msgspec.json.Encoder()


class Encoded(Response[T]):
    """JSON as it is sent. Litestar's own response also merges cookies and encoders: a fifth of a request's time.

    Args:
        content: the body.
        status: of the answer.
        headers: beside its type and length.
    """

    def __init__(self, content: T, status: int, *headers: tuple[bytes, bytes]) -> None:
        body = _ENCODER.encode(content)
        about = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
        self._messages: tuple[Any, ...] = (
            {"type": "http.response.start", "status": status, "headers": about},
            {"type": "http.response.body", "body": body, "more_body": False},
        )

    async def send(self, send: Send) -> None:
        """Send it."""
        for message in self._messages:
            await send(message)

    def to_asgi_response(self, *_args: Any, **_options: Any) -> ASGIApp:  # type: ignore[override]  # it needs none
        """The response as an application."""

        async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
            await self.send(send)

        return answer
