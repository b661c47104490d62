"""The page of settings: who reads it and may do what, the API keys for who manages them, and how to get in."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from litestar import Response, get, post
from litestar.response import Redirect

from api import access
from api.access import PERMISSIONS, ROLES
from api.bodies import StrictRequest
from api.console import frame
from api.cookies import session_cookie
from api.credentials import SESSION_S, SIGN_IN_S, ApiKey
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.keys import PATH, Keys, listed
from api.problems import Problem

HOME = f"{frame.HOME}/settings"
SIGN_OUT = f"{frame.HOME}/sign-out"
DAY_S = 86_400

MEANINGS: dict[str, str] = {
    access.REQUEST: "ask for withdrawals",
    access.CANCEL: "ask for a withdrawal to be cancelled",
    access.READ: "see withdrawals",
    access.ACCOUNTS: "see accounts and their ledgers",
    access.OPERATIONS: "see this console and what operators see, with the two above",
    access.OPERATE: "redrive, republish, nudge, audit",
    access.KEYS: "create and revoke API keys",
    access.OPEN_ACCOUNTS: "open accounts, not in production",
}

EXPIRIES = (
    ("in a day", DAY_S),
    ("in 30 days", 30 * DAY_S),
    ("in 90 days", 90 * DAY_S),
    ("in a year", 365 * DAY_S),
)


class Shown(NamedTuple):
    """A key, and whether it is ``valid``, ``revoked`` or ``expired``."""

    key: ApiKey
    state: str


@get(HOME, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def settings_page(request: StrictRequest) -> Response[str]:
    """Who reads it, the keys, and how others get in."""
    front: Front = request.app.state.front
    caller = caller_of(request)
    keys, unasked = await _keys(front) if access.KEYS in caller.permissions else (None, None)
    return await frame.page(
        request,
        "settings.html",
        title="Settings",
        active="settings",
        meanings=MEANINGS,
        permissions=PERMISSIONS,
        roles=ROLES,
        expiries=EXPIRIES,
        keys=[Shown(key, _state(key)) for key in reversed(keys.keys)] if keys is not None else None,
        unasked=unasked,
        is_of_provider=caller.name.startswith(access.OF_PROVIDER),
        settings=front.settings,
        session_ms=SESSION_S * 1_000,
        sign_in_ms=SIGN_IN_S * 1_000,
        sign_out=SIGN_OUT,
        json_path=PATH,
    )


@post(SIGN_OUT, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False, status_code=303)
async def sign_out(request: StrictRequest) -> Redirect:
    """End the session of whoever asks; without one, nothing ends. A form, so it needs no script."""
    front: Front = request.app.state.front
    await front.credentials.sign_out(request.headers.get("cookie"))
    return Redirect(frame.HOME, status_code=303, cookies=[session_cookie(front.credentials, "")])


async def _keys(front: Front) -> tuple[Keys | None, str | None]:
    """The keys, or why they cannot be asked."""
    try:
        return await listed(front.managing), None
    except Problem as problem:
        return None, problem.detail


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= datetime.now(UTC) else "valid"


ROUTES: list[Any] = [settings_page, sign_out]
