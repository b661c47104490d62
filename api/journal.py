"""The operator log: who did what, why, in which request, and what came of it; it only grows.

An action is written down before it is begun and again when it has ended, under one request ID. So one whose
process died meanwhile is on record, without a result, and one that cannot be written down is not done.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
import psycopg
from litestar import get
from litestar.params import Parameter
from uuid_utils.compat import uuid7

from api import access
from api.access import Caller
from api.bodies import StrictRequest
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.pages import PAGE_SIZE, Limit
from api.problems import Problem, problems
from contracts.redaction import hide
from contracts.services import API
from processors.runtime import utc

REASON_MAX = 1_000

_WRITE = """
INSERT INTO operator_log (request_id, caller, role, action, subject, reason, result)
VALUES (%s, %s, %s, %s, %s::text::json, %s, %s::text::json)
"""

_READ = """
SELECT number, at, request_id, caller, role, action, subject::text, reason, result::text FROM operator_log
WHERE number < %s ORDER BY number DESC LIMIT %s
"""

_NUMBER_MAX = 2**63 - 1

Reason = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=REASON_MAX,
        description="Why, for the log of what operators do.",
        examples=["the bank's certificate was renewed"],
    ),
]


class Entry(msgspec.Struct, frozen=True):
    """A row of the log.

    Attributes:
        number: in the order of writing, with gaps.
        request_id: both rows of an action have it.
        subject: what it was done to.
        result: what came of it; None in the row that was written before.
    """

    number: int
    at: datetime
    request_id: UUID
    caller: str
    role: str
    action: str
    subject: msgspec.Raw
    reason: str
    result: msgspec.Raw | None


class Log(msgspec.Struct, frozen=True):
    """A page, the newest first; there are more as long as there is a cursor."""

    entries: list[Entry]
    cursor: int | None


class Action:
    """An action that is under way.

    Attributes:
        request_id: names it in the log, and for the caller.
        result: what comes of it; what can be encoded as JSON.
    """

    def __init__(self) -> None:
        self.request_id = uuid7()
        self.result: object = None


@asynccontextmanager
async def written_down(request: StrictRequest, action: str, subject: object, reason: str) -> AsyncIterator[Action]:
    """Write an action down, do it in the block, and write down what came of it, also if that is an error.

    Args:
        request: of the caller who acts.
        action: what is done: ``redrive``.
        subject: what it is done to; what can be encoded as JSON.
        reason: why, as the caller says.

    Raises:
        Problem: the log cannot be written, or not with this text; before the block, nothing is done.
    """
    front: Front = request.app.state.front
    caller, one = caller_of(request), Action()
    about = (action, _checked(reason, subject), reason)
    await _write(front, one.request_id, caller, *about, None)
    try:
        yield one
    except Problem as problem:
        await _write(front, one.request_id, caller, *about, {"problem": problem.kind, "detail": problem.detail})
        raise
    except Exception as error:
        await _write(front, one.request_id, caller, *about, {"problem": "internal", "detail": hide(str(error))})
        raise
    await _write(front, one.request_id, caller, *about, one.result)


def _checked(reason: str, subject: object) -> str:
    """The subject as JSON, if it and the reason can be stored."""
    try:
        encoded = msgspec.json.encode(subject).decode()
        reason.encode()
    except UnicodeEncodeError:
        raise Problem("invalid", "the text has half a character (a lone surrogate)") from None
    if "\0" in reason or "\\u0000" in encoded or not reason.strip():
        raise Problem("invalid", "the text is empty, or has the character U+0000")
    return encoded


async def _write(
    front: Front, request_id: UUID, caller: Caller, action: str, subject: str, reason: str, result: object
) -> None:
    # JSON may escape U+0000, which no column of PostgreSQL takes.
    encoded = None if result is None else msgspec.json.encode(result).decode().replace("\\u0000", "\\ufffd")
    async with front.connected() as connection:
        await connection.execute(
            _WRITE,
            (request_id, caller.name, caller.role, action, subject, reason, encoded),
        )


def read_log(connection: psycopg.Connection[Any], limit: int, before: int = _NUMBER_MAX) -> list[Entry]:
    """Rows of the log before a number, the newest first.

    Args:
        connection: to the API's database.
        limit: rows at the most.
        before: the number of a row.
    """
    return [_entry(*row) for row in utc.cursor(connection).execute(_READ, (before, limit))]


def _entry(
    number: int,
    at: datetime,
    request_id: UUID,
    caller: str,
    role: str,
    action: str,
    subject: str,
    reason: str,
    result: str | None,
) -> Entry:
    found = msgspec.Raw(result.encode()) if result is not None else None
    return Entry(number, at, request_id, caller, role, action, msgspec.Raw(subject.encode()), reason, found)


@get(
    "/v1/operator-log",
    summary="See what operators have done",
    operation_id="listOperatorLog",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems("invalid"),
)
async def list_log(
    request: StrictRequest,
    limit: Limit = PAGE_SIZE,
    cursor: Annotated[
        int, Parameter(ge=1, le=_NUMBER_MAX, description="As the page before gave it.")
    ] = _NUMBER_MAX,
) -> Log:
    """The newest first."""
    front: Front = request.app.state.front
    found = await front.readers.run((API,), read_log, limit + 1, cursor)
    shown = found[:limit]
    return Log(shown, shown[-1].number if len(found) > limit else None)


ROUTES: list[Any] = [list_log]
