"""Accounts over HTTP: their balances and what they are made of."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import psycopg
from litestar import get, post
from litestar.params import Parameter

from api import access
from api.bodies import LIST_BYTES_MAX, StrictRequest
from api.front import Front
from api.guard import PERMISSION
from api.journal import Reason, written_down
from api.pages import PAGE_SIZE, Cursor, Limit, opened, sealed
from api.problems import OF_A_BODY, Problem, problems
from api.texts import amount_text
from contracts.money import MoneyError, parse_amount, parse_currency
from contracts.production import is_production
from operations.ledger import of_payments, prove
from operations.withdrawals import Wanted, page
from processors.account.accounts import (
    AccountRow,
    account_of,
    accounts_after,
    accounts_by_name,
    in_other_currency,
    open_accounts,
)
from producers.errors import InvalidRequestError
from producers.requests import check_account_id

PATH = "/v1/accounts"
ACCOUNTS_MAX = 1_000
_BY_NAME = ("accounts by name",)
"""Accounts opened by one request."""

_ID = Annotated[str, Parameter(max_length=64, description="The ID of an account.")]


class Account(msgspec.Struct, frozen=True):
    """An account; its balances as decimal text, in major units."""

    account_id: str
    currency: str
    opening_balance: str
    balance: str
    opened_at: datetime
    updated_at: datetime


class Accounts(msgspec.Struct, frozen=True):
    """A page, by account ID; there are more as long as there is a cursor."""

    accounts: list[Account]
    cursor: str | None


class LedgerEntry(msgspec.Struct, frozen=True):
    """A movement of money.

    Attributes:
        kind: ``deduction`` or ``refund``.
        amount: decimal text, in major units; negative for a deduction.
    """

    payment_id: UUID
    kind: str
    amount: str
    booked_at: datetime


class Ledger(msgspec.Struct, frozen=True):
    """A page of an account's ledger, the newest withdrawals first."""

    account_id: str
    currency: str
    entries: list[LedgerEntry]
    cursor: str | None


class BalanceProof(msgspec.Struct, frozen=True):
    """What a balance is made of, all of one moment; amounts as decimal text, in major units.

    Attributes:
        ledger: the sum of all its bookings, negative where more was deducted than refunded.
        bookings: how many there are.
        holds: whether opening balance and ledger make the balance.
    """

    account_id: str
    currency: str
    opening_balance: str
    ledger: str
    bookings: int
    balance: str
    holds: bool


class AccountsToOpen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accounts to be opened, and why; the opening balance of each as decimal text, in major units."""

    account_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=ACCOUNTS_MAX)]
    balance: str
    currency: str
    reason: Reason


class OpenedAccounts(msgspec.Struct, frozen=True):
    """Those that are new, and the currencies of those that were open already with another one."""

    request_id: UUID
    account_ids: list[str]
    other_currencies: dict[str, str]


@get(
    PATH,
    summary="List accounts",
    operation_id="listAccounts",
    tags=["accounts"],
    opt={PERMISSION: access.ACCOUNTS},
    responses=problems(),
)
async def list_accounts(
    request: StrictRequest,
    order: Annotated[
        Literal["id", "name"], Parameter(description="By name, acc-2 is before acc-10; that sorts all accounts.")
    ] = "id",
    prefix: Annotated[str, Parameter(max_length=64, description="Only those whose IDs begin so; by ID.")] = "",
    limit: Limit = PAGE_SIZE,
    cursor: Cursor = None,
) -> Accounts:
    """By account ID, or by name."""
    front: Front = request.app.state.front
    if order == "id":
        return await listed(front, prefix, limit, cursor)
    if prefix:
        raise Problem("invalid", "those with a prefix are listed by ID, not by name")
    after = opened(cursor, *_BY_NAME)
    return _page(await front.readers.run("account", accounts_by_name, after, limit + 1), limit, *_BY_NAME)


async def listed(front: Front, prefix: str, limit: int, cursor: str | None) -> Accounts:
    """A page of the accounts whose IDs begin with a prefix, by ID.

    Raises:
        Problem: the cursor is not one of this list, or the database does not answer.
    """
    if "\0" in prefix:
        return Accounts([], None)
    of = ("accounts by ID", prefix)
    after = opened(cursor, *of) or ""
    return _page(await front.readers.run("account", accounts_after, after, limit + 1, prefix), limit, *of)


@get(
    f"{PATH}/{{account_id:str}}",
    summary="See an account",
    operation_id="getAccount",
    tags=["accounts"],
    opt={PERMISSION: access.ACCOUNTS},
    responses=problems("not-found"),
)
async def get_account(request: StrictRequest, account_id: _ID) -> Account:
    """Its balance, and with what it was opened."""
    return await one(request.app.state.front, account_id)


async def one(front: Front, account_id: str) -> Account:
    """An account.

    Raises:
        Problem: there is none, or the database does not answer.
    """
    return _shown(await front.readers.run("account", _existing, account_id))


@get(
    f"{PATH}/{{account_id:str}}/proof",
    summary="See whether a balance adds up",
    operation_id="getProof",
    tags=["accounts"],
    opt={PERMISSION: access.ACCOUNTS},
    responses=problems("not-found"),
)
async def get_proof(request: StrictRequest, account_id: _ID) -> BalanceProof:
    """Opening balance and the sum of its whole ledger against its balance. It reads the whole ledger."""
    return await proof(request.app.state.front, account_id)


async def proof(front: Front, account_id: str) -> BalanceProof:
    """The proof of an account's balance.

    Raises:
        Problem: there is no such account, or the database does not answer.
    """

    def read(account: psycopg.Connection[Any]) -> BalanceProof:
        _existing(account, account_id)
        found = prove(account, account_id)
        assert found is not None  # no account is ever removed
        amounts = (found.opening_balance_minor, found.ledger_minor, found.balance_minor)
        opening, ledger, balance = (amount_text(minor, found.currency) for minor in amounts)
        return BalanceProof(account_id, found.currency, opening, ledger, found.bookings, balance, found.holds)

    return await front.readers.run("account", read)


@get(
    f"{PATH}/{{account_id:str}}/ledger",
    summary="See what a balance is made of",
    operation_id="getLedger",
    tags=["accounts"],
    opt={PERMISSION: access.ACCOUNTS},
    responses=problems("not-found"),
)
async def get_ledger(
    request: StrictRequest, account_id: _ID, limit: Limit = PAGE_SIZE, cursor: Cursor = None
) -> Ledger:
    """Its bookings. Opening balance and the whole ledger make the balance."""
    return await ledger_of(request.app.state.front, account_id, limit, cursor)


async def ledger_of(front: Front, account_id: str, limit: int, cursor: str | None) -> Ledger:
    """A page of an account's ledger, with the bookings of so many withdrawals.

    Raises:
        Problem: there is no such account, the cursor is none of this list's, or a database does not answer.
    """

    of = ("ledger", account_id)
    place = opened(cursor, *of)

    row = await front.readers.run("account", _existing, account_id)
    found = await front.readers.run("saga", page, Wanted(account_id=account_id), limit, place)
    payment_ids = [one.payment_id for one in found.withdrawals]
    bookings = await front.readers.run("account", of_payments, account_id, payment_ids)
    entries = [
        LedgerEntry(one.payment_id, one.kind, amount_text(one.amount_minor, row.currency), one.booked_at)
        for one in bookings
    ]
    return Ledger(account_id, row.currency, entries, sealed(found.cursor, *of))


@post(
    PATH,
    status_code=200,
    summary="Open accounts",
    operation_id="openAccounts",
    tags=["accounts"],
    opt={PERMISSION: access.OPEN_ACCOUNTS},
    request_max_body_size=LIST_BYTES_MAX,
    responses=problems(*OF_A_BODY),
)
async def open_new_accounts(request: StrictRequest, data: AccountsToOpen) -> OpenedAccounts:
    """Open accounts; existing ones are left as they are. Not in production: it creates money."""
    operators = request.app.state.front.acting
    if is_production():
        raise Problem("forbidden", "opening accounts makes money appear, and SETTLE_ENV is production")
    try:
        code = parse_currency(data.currency)
        balance_minor = parse_amount(data.balance, code)
        for name in data.account_ids:
            check_account_id(name)
    except (MoneyError, InvalidRequestError) as error:
        raise Problem("invalid", str(error)) from None
    names, dsn = data.account_ids, operators.treasurer_dsn
    async with written_down(request, "open accounts", data, data.reason) as action:
        new = await operators.run(open_accounts, dsn, names, balance_minor, code)
        others = {}
        if len(new) < len(names):
            others = await operators.run(in_other_currency, dsn, names, code, len(names))
        action.result = result = OpenedAccounts(action.request_id, new, others)
    return result


def _existing(connection: psycopg.Connection[Any], account_id: str) -> AccountRow:
    row = account_of(connection, account_id) if "\0" not in account_id else None
    if row is None:
        raise Problem("not-found", f"there is no account {account_id}")
    return row


def _page(found: list[AccountRow], limit: int, *of: object) -> Accounts:
    shown = [_shown(row) for row in found[:limit]]
    return Accounts(shown, sealed(shown[-1].account_id, *of) if len(found) > limit else None)


def _shown(row: AccountRow) -> Account:
    return Account(
        row.account_id,
        row.currency,
        amount_text(row.opening_balance_minor, row.currency),
        amount_text(row.balance_minor, row.currency),
        row.opened_at,
        row.updated_at,
    )


ROUTES: list[Any] = [list_accounts, get_account, get_ledger, get_proof, open_new_accounts]
