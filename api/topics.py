"""Topics over HTTP: which there are, and how large each is."""

from typing import Any

import msgspec
from litestar import get

from api import access
from api.bodies import StrictRequest
from api.guard import PERMISSION
from api.problems import problems
from operations.topics import TopicState, topic_states


class Topics(msgspec.Struct, frozen=True):
    """Every topic of the system, whether it exists or not."""

    topics: list[TopicState]


@get(
    "/v1/topics",
    summary="See the topics",
    operation_id="listTopics",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems(),
)
async def list_topics(request: StrictRequest) -> Topics:
    """Which Kafka has, with how many partitions and copies; one without partitions does not exist."""
    operators = request.app.state.front.operators
    return Topics(await operators.run(topic_states, operators.bootstrap))


ROUTES: list[Any] = [list_topics]
