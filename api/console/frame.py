"""The frame of every page: navigation with counts, search, the last audit's verdict, who reads it."""

import asyncio
import re
from collections.abc import Collection
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode
from uuid import UUID

from litestar import Response, get
from litestar.response import Redirect, Stream

from api import access
from api.access import Caller
from api.bodies import StrictRequest
from api.console import live, places
from api.console.places import account_path
from api.console.rendering import html, render
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.problems import Problem
from api.seen import Flow
from api.statuses import standing
from api.watch import Look
from operations.withdrawals import Wanted, of_trace
from operations.withdrawals import page as page_of
from processors.account.accounts import account_of

HOME = places.HOME
WAIT_S = 0.1
"""How long a page waits for what is only its frame; then it shows what was known, and its stream the rest."""

LOOK_S = 5.0
"""How long a page waits that is about a look; what does not answer then is in it."""

SEARCH_MAX = 200


class Link(NamedTuple):
    """A page that the navigation leads to; ``beside`` is the name of the fragment with its count."""

    name: str
    title: str
    path: str
    permission: str
    beside: str | None = None


LINKS = (
    Link("flow", "Flow", HOME, access.OPERATIONS),
    Link("withdrawals", "Withdrawals", f"{HOME}/withdrawals", access.OPERATIONS, "count-open"),
    Link("stuck", "Stuck", f"{HOME}/stuck", access.OPERATIONS, "count-stuck"),
    Link("dead-letters", "Dead letters", f"{HOME}/dead-letters", access.OPERATIONS, "count-dead"),
    Link("outboxes", "Outboxes", f"{HOME}/outboxes", access.OPERATIONS),
    Link("accounts", "Accounts", f"{HOME}/accounts", access.ACCOUNTS),
    Link("audit", "Audit", f"{HOME}/audit", access.OPERATIONS),
    Link("operator-log", "Operator log", f"{HOME}/operator-log", access.OPERATIONS),
    Link("settings", "Settings", f"{HOME}/settings", access.OPERATIONS),
)
"""In their order; a page that somebody may not see is not offered."""


async def page(
    request: StrictRequest,
    template: str,
    *,
    title: str,
    active: str = "",
    stream: str = f"{HOME}/stream",
    status: int = 200,
    **context: Any,
) -> Response[str]:
    """A page in its frame.

    Args:
        request: of its reader.
        template: extends ``layout.html``.
        title: of the tab.
        active: the name of its link.
        stream: the path of its stream.
        status: of the response.
        context: what else the template names.
    """
    front: Front = request.app.state.front
    await front.looks.within(WAIT_S)
    return framed(
        front, caller_of(request), template, title=title, active=active, stream=stream, status=status, **context
    )


def framed(
    front: Front,
    caller: Caller,
    template: str,
    *,
    title: str,
    active: str = "",
    stream: str = f"{HOME}/stream",
    status: int = 200,
    **context: Any,
) -> Response[str]:
    """The same at once, with what is known already."""
    links = [link for link in LINKS if link.permission in caller.permissions]
    text = render(
        template,
        title=title,
        active=active,
        stream=stream,
        links=links,
        caller=caller,
        may=caller.permissions,
        access=access,
        fragments=fragments(front.looks.last),
        **context,
    )
    return html(text, status)


def fragments(flow: Flow | None) -> dict[str, str]:
    """The parts of the frame that change."""
    return {
        "count-open": render("fragments/count.html", count=flow and flow.open_count, tone=""),
        "count-stuck": render("fragments/count.html", count=flow and flow.stuck_count, tone="bad"),
        "count-dead": render("fragments/count.html", count=flow and flow.dead_letters, tone="warn"),
        "verdict": render("fragments/verdict.html", audit=flow and flow.audit),
    }


async def _find(front: Front, keys: Collection[None]) -> dict[None, dict[str, str]]:
    found = fragments((await front.looks.now()).flow)
    return dict.fromkeys(keys, found)


FRAME = Look("frame", _find), None
"""The view that every page has."""


@get(f"{HOME}/stream", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def frame_stream(request: StrictRequest) -> Stream:
    """The stream of a page that has nothing else that is live."""
    return live.stream(request, FRAME)


@get(f"{HOME}/search", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def search(request: StrictRequest, q: str = "") -> Redirect:
    """The page of what somebody looks for: a payment ID, a trace ID, an account, or a dead letter's name.

    An account that does not exist leads to the list of the withdrawals that name it, which were rejected.
    """
    front: Front = request.app.state.front
    text = q.strip()[:SEARCH_MAX]
    if not text:
        return Redirect(f"{HOME}/withdrawals", status_code=303)
    if _LETTER.fullmatch(text):  # as services log it
        return Redirect(f"{HOME}/dead-letters/{quote(text)}", status_code=303)
    if (payment_id := _payment_id(text)) is not None and await _is_known(front, caller_of(request), payment_id):
        return Redirect(f"{HOME}/withdrawals/{payment_id}", status_code=303)
    found = await _of_trace(front, text.lower()) if _TRACE_ID.fullmatch(text) else []
    if len(found) == 1:
        return Redirect(f"{HOME}/withdrawals/{found[0]}", status_code=303)
    if (path := await _of_account(front, caller_of(request), text)) is not None:
        return Redirect(path, status_code=303)
    if found:
        raise Problem("not-found", f"the trace {text} has more than one withdrawal: search one by its payment ID")
    raise Problem("not-found", f"nothing is called {text}: no withdrawal, no trace of one, and no account")


async def _of_trace(front: Front, trace_id: str) -> list[UUID]:
    """The withdrawals of a trace; one search at a time, as it may have to read them all."""
    async with _one_search:
        try:
            return await front.readers.run("saga", of_trace, trace_id)
        except Problem as problem:
            detail = f"the withdrawals could not be looked through for the trace ID: {problem.detail}"
            raise Problem(problem.kind, f"{detail}; search by payment ID or account") from None


async def _of_account(front: Front, caller: Caller, account_id: str) -> str | None:
    """The path of an account's page, or of the list of its withdrawals where there are only those."""
    if "\0" in account_id:
        return None
    may_see = access.ACCOUNTS in caller.permissions
    if may_see and await front.readers.run("account", account_of, account_id) is not None:
        return account_path(account_id)
    if not (await front.readers.run("saga", page_of, Wanted(account_id=account_id), 1)).withdrawals:
        return None
    return f"{HOME}/withdrawals?{urlencode({'account_id': account_id})}"


async def _is_known(front: Front, caller: Caller, payment_id: UUID) -> bool:
    try:
        await standing(front, caller, payment_id)
    except Problem as problem:
        if problem.kind != "not-found":
            raise
        return False
    return True


def _payment_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


_one_search = asyncio.Lock()
_TRACE_ID = re.compile("[0-9a-fA-F]{32}")
_LETTER = re.compile(r"[A-Za-z0-9._-]+/\d+@\d+")

ROUTES: list[Any] = [frame_stream, search]
