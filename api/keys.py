"""API keys over HTTP: created, listed and revoked by who may manage them."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import get, post

from api import access
from api.bodies import StrictRequest
from api.credentials import ApiKey, create_key, list_keys, revoke_key
from api.guard import PERMISSION, caller_of
from api.journal import Reason, written_down
from api.operators import Operators
from api.problems import OF_A_BODY, Problem, problems
from api.stuck import Why
from contracts.services import API

PATH = "/v1/api-keys"
EXPIRES_S_MAX = 10 * 366 * 86_400.0


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made.

    Attributes:
        caller: whose it is: a service, a team.
        scopes: permissions to which it is limited; none: all of the role.
        expires_s: how long it is valid, seconds; without it, until it is revoked.
    """

    caller: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
    role: str
    reason: Reason
    scopes: list[str] = []
    expires_s: Annotated[float, msgspec.Meta(gt=0, le=EXPIRES_S_MAX)] | None = None


class NewKey(msgspec.Struct, frozen=True):
    """A key that was made. ``key`` is shown this once: only its hash is stored."""

    request_id: UUID
    key_id: str
    key: str


class Keys(msgspec.Struct, frozen=True):
    """Every key, the oldest first, without their secrets."""

    keys: list[ApiKey]


class Revoked(msgspec.Struct, frozen=True):
    """A key that is refused from some seconds on."""

    request_id: UUID
    key_id: str


@get(
    PATH,
    summary="List API keys",
    operation_id="listKeys",
    tags=["keys"],
    opt={PERMISSION: access.KEYS},
    responses=problems(),
)
async def get_keys(request: StrictRequest) -> Keys:
    """Who has one, and what it may do."""
    return await listed(request.app.state.front.managing)


async def listed(operators: Operators) -> Keys:
    """Every key.

    Raises:
        Problem: the database does not answer.
    """
    return Keys(await operators.run(list_keys, operators.dsns[API]))


@post(
    PATH,
    status_code=201,
    summary="Create an API key",
    operation_id="createKey",
    tags=["keys"],
    opt={PERMISSION: access.KEYS},
    responses=problems(*OF_A_BODY),
)
async def post_key(request: StrictRequest, data: KeyRequest) -> NewKey:
    """The answer has the key, this once."""
    operators = request.app.state.front.managing
    if (wrong := access.complaint(data.caller, data.role, data.scopes)) is not None:
        raise Problem("invalid", wrong)
    # Nobody gives away what it lacks: a key that is limited to the management of keys would be limited to nothing.
    giver = caller_of(request)
    if lacking := sorted(access.permissions(data.role, data.scopes) - giver.permissions):
        raise Problem(
            "forbidden", f"{giver.role} {giver.name} lacks the permission {lacking[0]}, and gives it to nobody"
        )
    subject = {"caller": data.caller, "role": data.role, "scopes": data.scopes, "expires_s": data.expires_s}
    async with written_down(request, "create key", subject, data.reason) as action:
        key = await operators.run(
            create_key, operators.dsns[API], data.caller, data.role, data.scopes, data.expires_s
        )
        key_id = key.split("_")[1]
        action.result = {"key_id": key_id}
    return NewKey(action.request_id, key_id, key)


@post(
    f"{PATH}/{{key_id:str}}/revoke",
    status_code=200,
    summary="Revoke an API key",
    operation_id="revokeKey",
    tags=["keys"],
    opt={PERMISSION: access.KEYS},
    responses=problems(*OF_A_BODY, "not-found"),
)
async def post_revocation(request: StrictRequest, key_id: str, data: Why) -> Revoked:
    """Within some seconds every instance refuses it."""
    operators = request.app.state.front.managing
    async with written_down(request, "revoke key", key_id, data.reason) as action:
        if not await operators.run(revoke_key, operators.dsns[API], key_id):
            raise Problem("not-found", f"there is no valid key {key_id}")
        action.result = result = Revoked(action.request_id, key_id)
    return result


ROUTES: list[Any] = [get_keys, post_key, post_revocation]
