"""``settle accounts open|list|show``: accounts to withdraw from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import settings
from cli.environment import InProductionOption, refuse_production
from cli.errors import BadInputError
from cli.settings import DataOption
from cli.text import say, say_json

if TYPE_CHECKING:
    from processors.account.accounts import AccountRow

app = typer.Typer(help="Open, list and show demo accounts.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

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
    data: DataOption = None,
) -> None:
    """Open accounts; existing ones are left as they are. Not in production: it creates money."""
    from contracts.money import format_amount, parse_amount, parse_currency
    from processors.account.accounts import in_other_currency, open_accounts
    from producers.requests import check_account_id

    wanted = names or [f"acc-{number}" for number in range(1, count + 1)]
    for name in wanted:
        check_account_id(name)
    refuse_production("settle accounts open makes money appear", anyway=in_production)
    balance_minor, code = parse_amount(balance, currency), parse_currency(currency)
    dsn = settings.treasurer_dsn(data)
    new = open_accounts(dsn, wanted, balance_minor, code)
    there = f"; {len(wanted) - len(new)} open already" if len(new) < len(wanted) else ""
    accounts = "account" if len(new) == 1 else "accounts"
    say(f"{len(new)} {accounts} opened with {format_amount(balance_minor, code)} {code}{there}")
    if there and (others := in_other_currency(dsn, wanted, code, limit=SHOWN + 1)):
        shown = ", ".join(f"{name} ({other})" for name, other in list(others.items())[:SHOWN])
        more = ", …" if len(others) > SHOWN else ""
        raise BadInputError(f"open already, but not in {code}: {shown}{more}")


@app.command(name="list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="How many at the most.")] = 20,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """List accounts and their balances."""
    from processors.account.accounts import list_accounts

    _print(list_accounts(settings.dsn("account", data), limit), as_json)


@app.command()
def show(
    account: Annotated[str, typer.Argument(help="Account ID.", show_default=False)],
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Show one account."""
    from processors.account.accounts import show_account
    from producers.requests import check_account_id

    check_account_id(account)
    row = show_account(settings.dsn("account", data), account)
    if row is None:
        raise BadInputError(f"there is no account {account!r}; open it with `settle accounts open {account}`")
    _print([row], as_json)


def _print(rows: list[AccountRow], as_json: bool) -> None:
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
