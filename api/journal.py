"""The operator log: who did what, why, in which request, and what came of it; it only grows.

An action is written down before it is begun and again when it has ended, under one request ID. So one whose
process died meanwhile is on record, without a result, and one that cannot be written down is not done.
"""

from collections.abc import AsyncIterator, Sequence
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
from api.front import TURN_S, Front
from api.guard import PERMISSION, caller_of
from api.pages import PAGE_SIZE, Cursor, Limit, opened, sealed
from api.problems import Problem, problems
from contracts.redaction import hide
from contracts.services import API
from processors.runtime import utc

REASON_MAX = 1_000
TEXT_MAX = 200

_WRITE = """
INSERT INTO operator_log (request_id, caller, role, action, subject, reason, result)
VALUES (%s, %s, %s, %s, %s::text::json, %s, %s::text::json)
"""

_COLUMNS = """
SELECT number, at, request_id, caller, role, action, subject::text, reason, result::text FROM operator_log
"""

_READ = f"""{_COLUMNS}
WHERE number < %(before)s
    AND (%(caller)s::text IS NULL OR caller = %(caller)s)
    AND (%(action)s::text IS NULL OR action = %(action)s)
    AND (%(request_id)s::uuid IS NULL OR request_id = %(request_id)s)
    AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
ORDER BY number DESC LIMIT %(limit)s
"""

_OF_REQUESTS = f"{_COLUMNS} WHERE request_id = ANY(%s) ORDER BY number"

NUMBER_MAX = 2**63 - 1

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
    cursor: str | None


class Filter(msgspec.Struct, frozen=True):
    """Which rows somebody wants to see: those of a caller, an action, a request, or a time; None: of all.

    Attributes:
        since: written then or later.
        until: written before.
    """

    caller: str | None = None
    action: str | None = None
    request_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


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
        try:
            yield one
        finally:
            front.looks.acted()
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
    # What came of it is written down, however long that takes.
    turn_s = TURN_S if result is None else None
    # JSON may escape U+0000, which no column of PostgreSQL takes.
    encoded = None if result is None else msgspec.json.encode(result).decode().replace("\\u0000", "\\ufffd")
    async with front.connected(turn_s) as connection:
        await connection.execute(
            _WRITE,
            (request_id, caller.name, caller.role, action, subject, reason, encoded),
        )


def read_log(connection: psycopg.Connection[Any], wanted: Filter, limit: int, before: int) -> list[Entry]:
    """Rows of the log before a number, the newest first.

    Args:
        connection: to the API's database.
        wanted: which ones.
        limit: rows at the most.
        before: the number of a row.
    """
    values = {**msgspec.structs.asdict(wanted), "limit": limit, "before": before}
    return [_entry(*row) for row in utc.cursor(connection).execute(_READ, values)]


def rows_of(connection: psycopg.Connection[Any], request_ids: Sequence[UUID]) -> list[Entry]:
    """The rows of some actions, in the order of writing: two of each that has ended."""
    return [_entry(*row) for row in utc.cursor(connection).execute(_OF_REQUESTS, (list(request_ids),))]


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
    responses=problems(),
)
async def list_log(
    request: StrictRequest,
    caller: Annotated[str | None, Parameter(max_length=TEXT_MAX, description="Only what this caller did.")] = None,
    action: Annotated[str | None, Parameter(max_length=TEXT_MAX, description="Only this action.")] = None,
    request_id: Annotated[UUID | None, Parameter(description="Only the rows of this request.")] = None,
    since: Annotated[datetime | None, Parameter(description="Only what was written then or later.")] = None,
    until: Annotated[datetime | None, Parameter(description="Only what was written before.")] = None,
    limit: Limit = PAGE_SIZE,
    cursor: Cursor = None,
) -> Log:
    """The newest first."""
    wanted = Filter(caller, action, request_id, since, until)
    return await listed(request.app.state.front, wanted, limit, cursor)


async def listed(front: Front, wanted: Filter, limit: int, cursor: str | None) -> Log:
    """A page of the log.

    Raises:
        Problem: the cursor is not one of this list, or the database does not answer.
    """
    before = row_before(cursor, wanted)
    found = await front.readers.run(API, read_log, wanted, limit + 1, NUMBER_MAX if before is None else before)
    shown = found[:limit]
    return Log(shown, sealed(str(shown[-1].number) if len(found) > limit else None, _NAME, wanted))


def row_before(cursor: str | None, wanted: Filter) -> int | None:
    """The number of the row after which a page begins; None for the first page.

    Raises:
        Problem: the cursor is not one of this list.
    """
    place = opened(cursor, _NAME, wanted)
    if place is None:
        return None
    if not (place.isascii() and place.isdigit() and len(place) <= _DIGITS_MAX):
        raise Problem("invalid", f"{cursor!r} is no cursor of this list")
    return int(place)


_NAME = "operator log"
_DIGITS_MAX = 18

ROUTES: list[Any] = [list_log]
