"""``settle accounts open|list|show|ledger``: accounts to withdraw from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import settings
from cli.environment import InProductionOption, refuse_production
from cli.errors import BadInputError
from cli.remote import (
    NOT_FOUND,
    PAGE,
    ApiOption,
    RefusedError,
    WhyOption,
    ask,
    entries,
    minor_units,
    portions,
    reason,
)
from cli.settings import DataOption
from cli.text import say, say_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from operations.ledger import Booking
    from processors.account.accounts import AccountRow

app = typer.Typer(help="Open, list and show accounts, and what their balances are made of.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AccountArgument = Annotated[str, typer.Argument(help="Account ID.", show_default=False)]

ACCOUNTS_MAX = 1_000_000

SHOWN = 5
"""Accounts named in an error."""


@app.command(name="open")
def open_(
    names: Annotated[list[str] | None, typer.Argument(help="Account IDs.", show_default=False)] = None,
    count: Annotated[
        int, typer.Option(min=1, max=ACCOUNTS_MAX, help="Without names: how many, acc-1, acc-2, …")
    ] = 100,
    balance: Annotated[str, typer.Option(help="Opening balance of each.")] = "10000.00",
    currency: Annotated[str, typer.Option(help="ISO 4217 code.")] = "USD",
    in_production: InProductionOption = False,
    api: ApiOption = None,
    why: WhyOption = None,
    data: DataOption = None,
) -> None:
    """Open accounts; existing ones are left as they are. Not in production: it creates money."""
    from contracts.money import format_amount, parse_amount, parse_currency
    from producers.requests import check_account_id

    wanted = names or [f"acc-{number}" for number in range(1, count + 1)]
    for name in wanted:
        check_account_id(name)
    balance_minor, code = parse_amount(balance, currency), parse_currency(currency)
    if api is not None:
        new, others = _open_by_api(api, wanted, balance, code, reason(why))
    else:
        refuse_production("settle accounts open makes money appear", anyway=in_production)
        new, others = _open(data, wanted, balance_minor, code)
    there = f"; {len(wanted) - new} open already" if new < len(wanted) else ""
    accounts = "account" if new == 1 else "accounts"
    say(f"{new} {accounts} opened with {format_amount(balance_minor, code)} {code}{there}")
    if others:
        shown = ", ".join(f"{name} ({other})" for name, other in list(others.items())[:SHOWN])
        more = ", …" if len(others) > SHOWN else ""
        raise BadInputError(f"open already, but not in {code}: {shown}{more}")


def _open(data: Path | None, names: list[str], balance_minor: int, code: str) -> tuple[int, dict[str, str]]:
    """How many are new, and the currencies of some that were open already with another one."""
    from processors.account.accounts import in_other_currency, open_accounts

    dsn = settings.treasurer_dsn(data)
    new = len(open_accounts(dsn, names, balance_minor, code))
    return new, in_other_currency(dsn, names, code, limit=SHOWN + 1) if new < len(names) else {}


def _open_by_api(api: str, names: list[str], balance: str, code: str, why: str) -> tuple[int, dict[str, str]]:
    new, others = 0, dict[str, str]()
    for some in portions(names):
        wanted = {"account_ids": some, "balance": balance, "currency": code, "reason": why}
        done = ask(api, "POST", "/v1/accounts", wanted)
        new, others = new + len(done["account_ids"]), others | done["other_currencies"]
    return new, dict(sorted(others.items()))


@app.command(name="list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="How many at the most.")] = 20,
    as_json: JsonOption = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """List accounts and their balances."""
    from processors.account.accounts import list_accounts

    if api is not None:
        found, _ = entries(api, "/v1/accounts", "accounts", limit, order="name")
        rows = [_row(one) for one in found]
    else:
        rows = list_accounts(settings.dsn("account", data), limit)
    _print(rows, as_json)


@app.command()
def show(
    account: AccountArgument,
    as_json: JsonOption = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Show one account."""
    _print([_existing(account, data, api)], as_json)


@app.command()
def ledger(
    account: AccountArgument,
    limit: Annotated[int, typer.Option(min=1, help="Withdrawals at the most, the newest.")] = 20,
    as_json: JsonOption = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Show what moved an account's balance: deductions and refunds, those of the newest withdrawals first."""
    row = _existing(account, data, api)
    _print_ledger(row, _ledger_by_api(api, account, limit) if api else _ledger(data, account, limit), as_json)


def _existing(account: str, data: Path | None, api: str | None) -> AccountRow:
    from processors.account.accounts import show_account
    from producers.requests import check_account_id

    check_account_id(account)
    row = _of_api(api, account) if api is not None else show_account(settings.dsn("account", data), account)
    if row is None:
        raise BadInputError(f"there is no account {account!r}; open it with `settle accounts open {account}`")
    return row


def _of_api(api: str, account: str) -> AccountRow | None:
    try:
        return _row(ask(api, "GET", f"/v1/accounts/{account}"))
    except RefusedError as refused:
        if refused.kind != NOT_FOUND:
            raise
        return None


def _row(answer: dict[str, Any]) -> AccountRow:
    import msgspec

    from processors.account.accounts import AccountRow

    minor = {f"{name}_minor": minor_units(answer[name]) for name in ("opening_balance", "balance")}
    return msgspec.convert(answer | minor, AccountRow)


def _ledger(data: Path | None, account: str, limit: int) -> list[Booking]:
    from contracts.postgres import session
    from operations.ledger import page

    dsns = settings.dsns(("saga", "account"), data)
    with session(dsns["saga"]) as of_saga, session(dsns["account"]) as of_account:
        return page(of_saga, of_account, account, limit).bookings


def _ledger_by_api(api: str, account: str, limit: int) -> list[Booking]:
    import msgspec

    from operations.ledger import Booking

    found: list[Any] = []
    left, cursor = limit, None
    while left > 0:
        page = ask(api, "GET", f"/v1/accounts/{account}/ledger", limit=min(left, PAGE), cursor=cursor)
        found, left, cursor = found + page["entries"], left - PAGE, page["cursor"]
        if cursor is None:
            break
    return msgspec.convert([one | {"amount_minor": minor_units(one["amount"])} for one in found], list[Booking])


def _print(rows: Sequence[AccountRow], as_json: bool) -> None:
    from cli.screen import Grid, Screen
    from contracts.money import format_amount

    if as_json:
        import msgspec

        say_json(msgspec.to_builtins(rows))
        return
    table = Grid()
    table.add_column("account", style="bold")
    table.add_column("currency")
    table.add_column("opened with", justify="right")
    table.add_column("balance", justify="right")
    for row in rows:
        table.add_row(
            row.account_id,
            row.currency,
            format_amount(row.opening_balance_minor, row.currency),
            format_amount(row.balance_minor, row.currency),
        )
    Screen().print(table)


def _print_ledger(account: AccountRow, bookings: Sequence[Booking], as_json: bool) -> None:
    from cli.screen import Grid, Screen
    from contracts.money import format_amount

    if as_json:
        import msgspec

        say_json(msgspec.to_builtins(bookings))
        return
    table = Grid()
    table.add_column("payment ID", style="bold")
    table.add_column("what")
    table.add_column(account.currency, justify="right")
    table.add_column("booked at (UTC)")
    for one in bookings:
        amount = format_amount(one.amount_minor, account.currency)
        table.add_row(str(one.payment_id), one.kind, amount, f"{one.booked_at:%Y-%m-%d %H:%M:%S}")
    Screen().print(table)
