"""The page of the flow: whether money moves, in words and as a picture."""

from collections.abc import Collection
from typing import Any

from litestar import Response, get
from litestar.response import Stream

from api import access
from api.bodies import StrictRequest
from api.console import frame, live
from api.console.diagram import BOX_HEIGHT, BOX_TOP, BOX_WIDTH, HEIGHT, WIDTH, diagram
from api.console.rendering import render
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.seen import Flow
from api.watch import Look

_SIZES = {"width": WIDTH, "height": HEIGHT, "box_width": BOX_WIDTH, "box_height": BOX_HEIGHT, "box_top": BOX_TOP}


def parts(flow: Flow | None) -> dict[str, str]:
    """The parts of the page that change."""
    picture = diagram(flow) if flow is not None else None
    return {
        name: render(f"fragments/{name}.html", flow=flow, picture=picture, **_SIZES)
        for name in ("headline", "picture", "figures")
    }


async def _find(front: Front, keys: Collection[None]) -> dict[None, dict[str, str]]:
    return dict.fromkeys(keys, parts((await front.looks.now()).flow))


FLOW = Look("flow", _find), None


@get(frame.HOME, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def flow_page(request: StrictRequest) -> Response[str]:
    """Whether money moves."""
    front: Front = request.app.state.front
    seen = await front.looks.within(frame.LOOK_S)
    return frame.framed(
        front,
        caller_of(request),
        "flow.html",
        title="Flow",
        active="flow",
        stream=f"{frame.HOME}/flow/stream",
        parts=parts(seen.flow if seen is not None else None),
    )


@get(f"{frame.HOME}/flow/stream", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def flow_stream(request: StrictRequest) -> Stream:
    """The same as it changes."""
    return live.stream(request, frame.FRAME, FLOW)


ROUTES: list[Any] = [flow_page, flow_stream]
