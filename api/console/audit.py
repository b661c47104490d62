"""The pages of audits: the newest and those before it, and one with what each check found; live while one runs."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from litestar import Response, get
from litestar.params import Parameter
from litestar.response import Stream

from api import access
from api.audits import PAGE_SIZE, PATH, Audits, listed, one
from api.bodies import StrictRequest
from api.console import frame, live
from api.console.rendering import render
from api.front import Front
from api.guard import PERMISSION
from api.watch import Look
from operations.audit.history import AuditRun

HOME = f"{frame.HOME}/audit"
ONE = f"{HOME}/{{audit_id:uuid}}"


@get(HOME, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def audits_page(request: StrictRequest, cursor: Annotated[UUID | None, Parameter()] = None) -> Response[str]:
    """The newest first."""
    front: Front = request.app.state.front
    found = await listed(front, PAGE_SIZE, cursor)
    return await frame.page(
        request,
        "audits.html",
        title="Audit",
        active="audit",
        stream=f"{frame.HOME}/stream" if cursor else f"{HOME}/stream",
        parts=_of_list(found),
        is_first=cursor is None,
        next_query=f"cursor={found.cursor}" if found.cursor else None,
        json_path=PATH,
    )


@get(ONE, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def audit_page(request: StrictRequest, audit_id: UUID) -> Response[str]:
    """One audit."""
    found = await one(request.app.state.front, audit_id)
    return await frame.page(
        request,
        "audit.html",
        title=f"Audit of {found.started_at:%Y-%m-%d %H:%M}",
        active="audit",
        stream=f"{HOME}/{audit_id}/stream",
        run=found,
        parts=_of_one(found),
        json_path=f"{PATH}/{audit_id}",
    )


@get(f"{HOME}/stream", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def audits_stream(request: StrictRequest) -> Stream:
    """The newest ones as they come and end."""
    return live.stream(request, frame.FRAME, (AUDITS, None))


@get(f"{ONE}/stream", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def audit_stream(request: StrictRequest, audit_id: UUID) -> Stream:
    """The same of one."""
    await one(request.app.state.front, audit_id)
    return live.stream(request, frame.FRAME, (AUDITS, audit_id))


async def _find(front: Front, keys: Collection[UUID | None]) -> Mapping[UUID | None, Mapping[str, str]]:
    """What is shown of audits by their IDs, and of the list, whose key is None."""
    found: dict[UUID | None, Mapping[str, str]] = {}
    for key in keys:
        found[key] = (
            _of_list(await listed(front, PAGE_SIZE, None)) if key is None else _of_one(await one(front, key))
        )
    return found


AUDITS = Look("audits", _find)


def _of_list(found: Audits) -> dict[str, str]:
    newest = found.audits[0] if found.audits else None
    took = next((run.finished_at - run.started_at for run in found.audits if run.finished_at is not None), None)
    last_ms = took.total_seconds() * 1_000 if took is not None else None
    return {
        "audit": _shown(newest, last_ms),
        "audits": render("fragments/audits.html", audits=found.audits),
    }


def _of_one(run: AuditRun) -> dict[str, str]:
    return {"audit": _shown(run, None)}


def _shown(run: AuditRun | None, last_ms: float | None) -> str:
    """An audit.

    Args:
        run: the audit; None where there is none yet.
        last_ms: how long one has taken before, milliseconds.
    """
    return render("fragments/audit.html", run=run, last_ms=last_ms, now=datetime.now(UTC).replace(microsecond=0))


ROUTES: list[Any] = [audits_page, audit_page, audits_stream, audit_stream]
