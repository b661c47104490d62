"""The pages of accounts: a list by ID, and one with the proof of its balance and its ledger."""

from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from litestar import Response, get
from litestar.params import Parameter

from api import access
from api.accounts import PATH, BalanceProof, Ledger, ledger_of, listed, one, proof
from api.bodies import StrictRequest
from api.console import frame
from api.console.places import account_path
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.pages import PAGE_SIZE
from api.problems import Problem

HOME = f"{frame.HOME}/accounts"

Text = Annotated[str | None, Parameter(max_length=200)]
_Id = Annotated[str | None, Parameter(query="id", max_length=1_000)]


@get(HOME, opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def accounts_page(
    request: StrictRequest, prefix: Text = None, cursor: Text = None, named: _Id = None
) -> Response[str]:
    """By ID; with ``id``, one of them, whose ID may be no segment of a path."""
    if named is not None:
        return await _one(request, named, cursor)
    _check(request)
    front: Front = request.app.state.front
    wanted = (prefix or "").strip()
    found = await listed(front, wanted, PAGE_SIZE, cursor or None)
    here = {"prefix": wanted} if wanted else {}
    return await frame.page(
        request,
        "accounts.html",
        title="Accounts",
        active="accounts",
        prefix=wanted,
        accounts=found.accounts,
        is_first=not cursor,
        here=urlencode(here),
        next_query=urlencode({**here, "cursor": found.cursor}) if found.cursor else None,
        json_path=f"{PATH}?{urlencode(here)}".rstrip("?"),
    )


@get(f"{HOME}/{{account_id:str}}", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def account_page(request: StrictRequest, account_id: str, cursor: Text = None) -> Response[str]:
    """One account."""
    return await _one(request, account_id, cursor)


async def _one(request: StrictRequest, account_id: str, cursor: str | None) -> Response[str]:
    _check(request)
    front: Front = request.app.state.front
    account, proven = await one(front, account_id), await proof(front, account_id)
    ledger, unasked = await _ledger(front, account_id, cursor)
    path = account_path(account_id)
    joint = "&" if "?" in path else "?"
    return await frame.page(
        request,
        "account.html",
        title=f"Account {account_id}",
        active="accounts",
        account=account,
        proof=proven,
        off=_off(proven),
        ledger=ledger,
        unasked=unasked,
        is_first=not cursor,
        path=path,
        next_path=f"{path}{joint}{urlencode({'cursor': ledger.cursor})}" if ledger and ledger.cursor else None,
        json_path=f"{PATH}/{quote(account_id, safe='')}",
    )


async def _ledger(front: Front, account_id: str, cursor: str | None) -> tuple[Ledger | None, str | None]:
    """A page of its ledger, or why that cannot be asked: it is found through the saga service's database."""
    try:
        return await ledger_of(front, account_id, PAGE_SIZE, cursor or None), None
    except Problem as problem:
        if problem.kind != "unavailable":
            raise
        return None, problem.detail


def _off(proven: BalanceProof) -> str:
    """By how much a balance is not what it is made of, decimal text in major units."""
    return str(Decimal(proven.balance) - Decimal(proven.opening_balance) - Decimal(proven.ledger))


def _check(request: StrictRequest) -> None:
    """Refuse who may see operations and no accounts, as the JSON routes do.

    Raises:
        Problem: the caller lacks the permission.
    """
    caller = caller_of(request)
    if access.ACCOUNTS not in caller.permissions:
        raise Problem("forbidden", f"{caller.role} {caller.name} lacks the permission {access.ACCOUNTS}")


ROUTES: list[Any] = [accounts_page, account_page]
