"""The short way of requests for withdrawals: the same steps as Litestar's, without Litestar's.

Its routing, parameters, dependencies and responses take as long as all that is done here. What is answered or
refused is the same: a request that is written in another way (a slash more, a query) goes the long way, and so
does every error.
"""

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from api import access
from api.bodies import BODY_BYTES_MAX, check_media_type, read_body, taken
from api.encoded import Encoded
from api.front import Front
from api.guard import FAILED, allowed, first_headers
from api.withdrawals import PATH, AcceptedWithdrawal, WithdrawalRequest, answered

_RAW_PATH = PATH.encode()


def shortened(app: Litestar) -> ASGIApp:
    """The same application, with the short way."""
    front: Front = app.state.front

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_short(scope):
            await app(scope, receive, send)
            return
        try:
            found = await _answer(front, scope, receive)
        except Exception as error:
            scope["state"][FAILED] = error
            await app(scope, receive, send)
            return
        scope["path_template"] = PATH
        await found.send(send)

    return answer


def _is_short(scope: Scope) -> bool:
    return (
        scope["type"] == ScopeType.HTTP
        and scope["raw_path"] == _RAW_PATH
        and scope["method"] == "POST"
        and not scope["query_string"]
    )


async def _answer(front: Front, scope: Scope, receive: Receive) -> Encoded[AcceptedWithdrawal]:
    headers = first_headers(scope)
    caller = await allowed(front, scope, headers, access.REQUEST)
    check_media_type(headers.get(b"content-type"), headers.get(b"content-encoding"))
    body = await read_body(front.loop, receive, headers.get(b"content-length"), BODY_BYTES_MAX)
    data = taken(body, WithdrawalRequest)
    context = headers.get(b"traceparent"), headers.get(b"tracestate")
    return await answered(front, caller, data, headers.get(b"idempotency-key"), context, scope["scheme"])
