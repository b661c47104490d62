"""The whole system at a moment, over HTTP: whether money moves, and what does not."""

from typing import Any

from litestar import get

from api import access
from api.bodies import StrictRequest
from api.front import Front
from api.guard import PERMISSION
from api.problems import problems
from api.seen import Flow

PATH = "/v1/flow"


@get(
    PATH,
    summary="See whether money moves",
    operation_id="getFlow",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems(),
)
async def get_flow(request: StrictRequest) -> Flow:
    """Rates, lags, outboxes, open withdrawals, endings, the last audit, what is away; not older than a second."""
    front: Front = request.app.state.front
    return (await front.looks.now()).flow


ROUTES: list[Any] = [get_flow]
