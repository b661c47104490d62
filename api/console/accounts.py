"""The pages of accounts: a live list by ID, and one with the proof of its balance and its ledger."""

from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
from litestar import Response, get
from litestar.params import Parameter
from litestar.response import Stream

from api import access
from api.accounts import PATH, Account, BalanceProof, Ledger, ledger_of, listed, one, proof
from api.bodies import StrictRequest
from api.console import frame, live
from api.console.places import account_path
from api.console.rendering import render
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.pages import PAGE_SIZE
from api.problems import Problem
from api.watch import Look

HOME = f"{frame.HOME}/accounts"

Text = Annotated[str | None, Parameter(max_length=200)]
_Id = Annotated[str | None, Parameter(query="id", max_length=1_000)]


class View(msgspec.Struct, frozen=True):
    """What a tab shows: a page of the list; the newest account on it was opened then, None where it is empty."""

    prefix: str
    cursor: str | None
    newest: datetime | None


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
    newest = max((account.opened_at for account in found.accounts), default=None)
    about = here | ({"cursor": cursor} if cursor else {}) | ({"newest": newest.isoformat()} if newest else {})
    return await frame.page(
        request,
        "accounts.html",
        title="Accounts",
        active="accounts",
        stream=f"{HOME}/stream?{urlencode(about)}",
        prefix=wanted,
        rows=_rows(found.accounts),
        is_first=not cursor,
        here=urlencode(here),
        next_query=urlencode({**here, "cursor": found.cursor}) if found.cursor else None,
        json_path=f"{PATH}?{urlencode(here)}".rstrip("?"),
    )


@get(f"{HOME}/stream", opt={PERMISSION: access.OPERATIONS}, include_in_schema=False)
async def accounts_stream(
    request: StrictRequest, prefix: Text = None, cursor: Text = None, newest: datetime | None = None
) -> Stream:
    """The balances of those that are shown, and how many have been opened since."""
    _check(request)
    view = View((prefix or "").strip(), cursor or None, newest)
    await listed(request.app.state.front, view.prefix, 1, view.cursor)  # a cursor that is none is an error now
    return live.stream(request, frame.FRAME, (ACCOUNTS, view))


async def _find(front: Front, keys: Collection[View]) -> Mapping[View, Mapping[str, str]]:
    pages = {(key.prefix, key.cursor) for key in keys}
    # Those that are shown are among them, also with as many new ones before them.
    found = {(prefix, cursor): await listed(front, prefix, 2 * PAGE_SIZE, cursor) for prefix, cursor in pages}
    return {key: _fragments(key, found[key.prefix, key.cursor].accounts) for key in keys}


def _fragments(key: View, accounts: Collection[Account]) -> dict[str, str]:
    shown = [account for account in accounts if key.newest is not None and account.opened_at <= key.newest]
    new = sum(account not in shown for account in [*accounts][:PAGE_SIZE])
    return _rows(shown) | {"newer": render("fragments/newer_accounts.html", count=new)}


ACCOUNTS = Look("accounts", _find)


def _rows(accounts: Collection[Account]) -> dict[str, str]:
    """The cells of each, by a name: an ID may have characters that a fragment's name has not."""
    return {
        f"account-{sha256(account.account_id.encode()).hexdigest()[:16]}": render(
            "fragments/account_row.html", one=account
        )
        for account in accounts
    }


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


ROUTES: list[Any] = [accounts_page, accounts_stream, account_page]
