"""Audits over HTTP: started, and their results."""

import asyncio
from threading import Thread
from typing import Annotated, Any
from uuid import UUID

import msgspec
import psycopg
import structlog
from litestar import Response, get, post
from litestar.datastructures import ResponseHeader
from litestar.params import Parameter

from api import access
from api.bodies import StrictRequest
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.journal import Reason, written_down
from api.operators import Operators
from api.problems import OF_A_BODY, RETRY_S, Problem, problems
from contracts.services import API
from operations.audit import history
from operations.audit.history import AuditRun, AuditRunningError
from operations.audit.run import Audit, run
from processors.runtime.database import is_refusal, unavailable

PATH = "/v1/audits"
WAIT_S_MAX = 600.0
PAGE_SIZE, PAGE_MAX = 20, 100

log = structlog.get_logger()


class AuditRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An audit to be started, and why.

    Attributes:
        wait_s: how long withdrawals under way may take to end, seconds.
    """

    reason: Reason
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=WAIT_S_MAX)] = 10.0


class Started(msgspec.Struct, frozen=True):
    """An audit that runs; its result will be there."""

    audit_id: UUID
    request_id: UUID


class Audits(msgspec.Struct, frozen=True):
    """A page, the newest first; there are more as long as there is a cursor."""

    audits: list[AuditRun]
    cursor: UUID | None


@post(
    PATH,
    status_code=202,
    summary="Start an audit",
    operation_id="startAudit",
    tags=["operations"],
    opt={PERMISSION: access.OPERATE},
    response_headers=[
        ResponseHeader(name="Location", description="Where it is to be seen.", documentation_only=True)
    ],
    responses=problems(*OF_A_BODY, "audit-running"),
)
async def start_audit(request: StrictRequest, data: AuditRequest) -> Response[Started]:
    """Prove from all databases that no money is lost or doubled. It takes a while; one runs at a time."""
    operators, caller = request.app.state.front.operators, caller_of(request).name
    async with written_down(request, "audit", {"wait_s": data.wait_s}, data.reason) as action:
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[UUID] = loop.create_future()
        # It ends with the process, which does not wait for it: then it is known as interrupted.
        Thread(target=_audit, args=(operators, caller, data.wait_s, begun), name="audit", daemon=True).start()
        audit_id = await begun
        action.result = started = Started(audit_id, action.request_id)
    return Response(started, headers={"Location": f"{PATH}/{audit_id}"})


def _audit(operators: Operators, caller: str, wait_s: float, begun: "asyncio.Future[UUID]") -> None:
    """Run an audit to its end; ``begun`` is its ID once it has begun, or why it cannot."""

    def tell(answer: UUID | Problem) -> None:
        if not begun.done():
            begun.set_exception(answer) if isinstance(answer, Problem) else begun.set_result(answer)

    loop = begun.get_loop()
    try:
        with history.begun(operators.dsns[API], caller) as (audit_id, end):
            loop.call_soon_threadsafe(tell, audit_id)
            try:
                found: Audit | Exception = run(operators.all_dsns, operators.bootstrap, wait_s)
            except Exception as error:
                log.warning("an audit fails", audit=str(audit_id), reason=" ".join(str(error).split()))
                found = error
            end(found)
    except AuditRunningError as error:
        loop.call_soon_threadsafe(tell, Problem("audit-running", str(error)))
    except Exception as error:
        # Also what is not foreseen: who asked waits for an answer, or once it has begun, for a result.
        log.error("an audit cannot be recorded", caller=caller, reason=" ".join(str(error).split()))
        loop.call_soon_threadsafe(tell, _problem(error))


def _problem(error: Exception) -> Problem:
    """Why an audit cannot begin."""
    if is_refusal(error):
        return Problem("unavailable", "the database is read-only, or lacks a migration or a right", RETRY_S)
    if isinstance(error, psycopg.OperationalError):
        return Problem("unavailable", f"the database {unavailable(error)}", RETRY_S)
    return Problem("internal", "the audit did not begin; the log says why")


@get(
    PATH,
    summary="List audits",
    operation_id="listAudits",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems(),
)
async def list_audits(
    request: StrictRequest,
    limit: Annotated[int, Parameter(ge=1, le=PAGE_MAX, description="How many at the most.")] = PAGE_SIZE,
    cursor: Annotated[UUID | None, Parameter(description="As the page before gave it.")] = None,
) -> Audits:
    """The newest first, with their results."""
    return await listed(request.app.state.front, limit, cursor)


async def listed(front: Front, limit: int, cursor: UUID | None) -> Audits:
    """A page of the audits.

    Raises:
        Problem: the database does not answer.
    """
    found = await front.readers.run(API, history.history, limit + 1, cursor)
    shown = found[:limit]
    return Audits(shown, shown[-1].audit_id if len(found) > limit else None)


@get(
    f"{PATH}/{{audit_id:uuid}}",
    summary="See an audit",
    operation_id="getAudit",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems("not-found"),
)
async def get_audit(request: StrictRequest, audit_id: UUID) -> AuditRun:
    """Whether it still runs, and what it found."""
    return await one(request.app.state.front, audit_id)


async def one(front: Front, audit_id: UUID) -> AuditRun:
    """An audit.

    Raises:
        Problem: there is none, or the database does not answer.
    """
    found = await front.readers.run(API, history.find, audit_id)
    if found is None:
        raise Problem("not-found", f"there is no audit {audit_id}")
    return found


ROUTES: list[Any] = [start_audit, list_audits, get_audit]
