"""Outboxes over HTTP: where each stands, its dead rows, its slot; and the progress of every step."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from confluent_kafka import KafkaException
from litestar import get, post

from api import access
from api.acts import ON_A_LIST
from api.bodies import StrictRequest
from api.front import Front
from api.guard import PERMISSION
from api.journal import Reason, written_down
from api.problems import OF_A_BODY, Problem, problems
from api.stuck import Why
from broker.provision import existing_topics
from broker.security import KafkaSettingsError
from contracts.services import NAMES
from operations import outboxes
from operations.lag import Progress, Sample, progress, sample
from operations.outboxes import Dead, DeadName, Done, act, all_dead, drop, statuses
from outbox_relay.status import OutboxStatus
from processors.runtime.utc import in_utc

ROWS_MAX = 1_000
"""Dead rows that one request acts on."""

KAFKA_S_MAX = 2.0
"""For the list of topics, without which an outbox's status is shown as well."""


class Outboxes(msgspec.Struct, frozen=True):
    """Where each outbox stands; ``missing_topics`` is null where Kafka could not be asked."""

    outboxes: list[OutboxStatus]


class ShownRow(msgspec.Struct, frozen=True):
    """A row that could not be published.

    Attributes:
        service: whose outbox; with the number it names the row.
        source: its database's name.
        name: as the commands name it.
        position: where it was committed in the log, as PostgreSQL writes it.
    """

    service: str
    source: str
    number: int
    name: str
    id: str | None
    aggregatetype: str | None
    aggregateid: str | None
    type: str | None
    payload_bytes: int | None
    reason: str
    died_at: datetime
    position: str


class ShownRows(msgspec.Struct, frozen=True):
    """The dead rows of every outbox, of each the oldest first."""

    rows: list[ShownRow]


class ChosenRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dead rows that an action is for, and why."""

    rows: Annotated[list[DeadName], msgspec.Meta(min_length=1, max_length=ROWS_MAX)]
    reason: Reason


class RowResults(msgspec.Struct, frozen=True):
    """What came of each, in the order of the rows; ``request_id`` is in the log of what operators do."""

    request_id: UUID
    results: list[Done]


class Dropped(msgspec.Struct, frozen=True):
    """A slot that is gone."""

    request_id: UUID
    slot: str


class Steps(msgspec.Struct, frozen=True):
    """The steps: each service with each topic that it reads.

    Attributes:
        over_s: the time that the rates are taken over, seconds; None the first time that somebody asks.
    """

    steps: list[Progress]
    at: datetime
    over_s: float | None


@get(
    "/v1/outboxes",
    summary="See where the outboxes stand",
    operation_id="listOutboxes",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems(),
)
async def list_outboxes(request: StrictRequest) -> Outboxes:
    """Each outbox: its slot, how far the relay is behind, how large the table is, and what it waits for."""
    operators = request.app.state.front.operators

    def find() -> Outboxes:
        return Outboxes(statuses(operators.dsns, topics_there(operators.bootstrap)))

    found: Outboxes = await operators.run(find)
    return found


def topics_there(bootstrap: str) -> set[str] | None:
    """The topics that Kafka has; None where it does not answer in time."""
    try:
        return existing_topics(bootstrap, KAFKA_S_MAX)
    except (KafkaException, KafkaSettingsError):
        return None


@get(
    "/v1/outboxes/dead-rows",
    summary="List dead rows",
    operation_id="listDeadRows",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems(),
)
async def list_dead_rows(request: StrictRequest) -> ShownRows:
    """Those that Kafka will never accept, and why."""
    operators = request.app.state.front.operators
    found = await operators.run(all_dead, operators.dsns)
    return ShownRows([as_shown(one) for one in found])


def as_shown(one: Dead) -> ShownRow:
    """A dead row as the API shows it."""
    about = {**asdict(one.row), "died_at": in_utc(one.row.died_at)}
    return ShownRow(service=one.service, source=one.source, name=one.row.name, **about)


@post("/v1/outboxes/dead-rows/retry", summary="Retry dead rows", operation_id="retryDeadRows", **ON_A_LIST)
async def retry_dead_rows(request: StrictRequest, data: ChosenRows) -> RowResults:
    """Put exactly these back at the end of their outbox, once the cause is fixed; each has its own result."""
    return await _act(request, outboxes.RETRY, data)


@post("/v1/outboxes/dead-rows/discard", summary="Discard dead rows", operation_id="discardDeadRows", **ON_A_LIST)
async def discard_dead_rows(request: StrictRequest, data: ChosenRows) -> RowResults:
    """Delete exactly these for good: withdrawals that need their events stay unfinished."""
    return await _act(request, outboxes.DISCARD, data)


async def _act(request: StrictRequest, action: outboxes.Action, chosen: ChosenRows) -> RowResults:
    operators = request.app.state.front.acting
    async with written_down(request, f"{action} dead rows", chosen.rows, chosen.reason) as written:
        done = await operators.run(act, operators.dsns, action, chosen.rows)
        written.result = result = RowResults(written.request_id, done)
    return result


@post(
    "/v1/outboxes/{service:str}/drop-slot",
    summary="Drop a slot",
    operation_id="dropSlot",
    status_code=200,
    tags=["operations"],
    opt={PERMISSION: access.OPERATE},
    responses=problems(*OF_A_BODY, "not-found"),
)
async def drop_slot(request: StrictRequest, service: str, data: Why) -> Dropped:
    """Drop a slot that no relay reads any more, so that the server can remove its log."""
    operators = request.app.state.front.acting
    if service not in NAMES:
        raise Problem("not-found", f"there is no outbox {service}")
    async with written_down(request, "drop slot", service, data.reason) as written:
        name, is_dropped = await operators.run(drop, operators.dsns[service])
        if not is_dropped:
            raise Problem("not-found", f"there is no slot {name}")
        written.result = result = Dropped(written.request_id, name)
    return result


@get(
    "/v1/steps",
    summary="See lag and rate of every step",
    operation_id="listSteps",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems(),
)
async def list_steps(request: StrictRequest) -> Steps:
    """How many records each service has yet to read, and how fast records come and are read, since last asked."""
    front: Front = request.app.state.front
    before: Sample | None = front.operators.last_sample
    now = await front.operators.run(sample, front.operators.bootstrap)
    front.operators.last_sample = now
    over_s = (now.at - before.at).total_seconds() if before is not None else None
    return Steps(progress(now, before), now.at, over_s)


ROUTES: list[Any] = [
    list_outboxes,
    list_dead_rows,
    retry_dead_rows,
    discard_dead_rows,
    drop_slot,
    list_steps,
]
