"""Administration of accounts: opening, listing and showing them, for demos, tests and operators."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import psycopg

from contracts.postgres import session
from processors.runtime import utc

_OPEN = """
INSERT INTO accounts (account_id, currency, opening_balance_minor, balance_minor)
SELECT account_id, %(currency)s, %(balance)s, %(balance)s FROM unnest(%(ids)s::text[]) AS n (account_id)
ON CONFLICT DO NOTHING RETURNING account_id
"""

_IN_OTHER_CURRENCY = """
SELECT account_id, currency FROM accounts
WHERE account_id = ANY(%s) AND currency <> %s ORDER BY account_id LIMIT %s
"""

_COLUMNS = "account_id, currency, opening_balance_minor, balance_minor, opened_at, updated_at"

# Natural order: acc-2 before acc-10.
_PLACE = "regexp_replace({0}, '[0-9]+$', ''), length({0}), {0}"
_NATURALLY = f"""
SELECT {_COLUMNS} FROM accounts
WHERE %(after)s::text IS NULL OR ({_PLACE.format("account_id")}) > ({_PLACE.format("%(after)s::text")})
ORDER BY {_PLACE.format("account_id")} LIMIT %(limit)s
"""  # noqa: S608 made of constants

_AFTER = f"""
SELECT {_COLUMNS} FROM accounts
WHERE account_id > %s AND starts_with(account_id, %s) ORDER BY account_id LIMIT %s
"""  # noqa: S608 made of constants

_SHOW = f"SELECT {_COLUMNS} FROM accounts WHERE account_id = %s"  # noqa: S608 made of constants


class AccountRow(msgspec.Struct, frozen=True):
    """An account as stored; balances in minor units."""

    account_id: str
    currency: str
    opening_balance_minor: int
    balance_minor: int
    opened_at: datetime
    updated_at: datetime


def open_accounts(dsn: str, account_ids: Sequence[str], balance_minor: int, currency: str) -> list[str]:
    """Open accounts with an opening balance; existing ones stay as they are.

    Returns:
        The IDs of the new accounts.

    Raises:
        psycopg.OperationalError: the database does not answer.
    """
    with session(dsn) as connection:
        values = {"ids": list(account_ids), "balance": balance_minor, "currency": currency}
        return [row[0] for row in connection.execute(_OPEN, values).fetchall()]


def in_other_currency(dsn: str, account_ids: Sequence[str], currency: str, limit: int) -> dict[str, str]:
    """The currencies of those of some accounts that have another one; no more than ``limit``."""
    with session(dsn) as connection:
        rows = connection.execute(_IN_OTHER_CURRENCY, (list(account_ids), currency, limit)).fetchall()
        return dict(rows)


def list_accounts(dsn: str, limit: int) -> list[AccountRow]:
    """The first accounts by name."""
    with session(dsn) as connection:
        return accounts_by_name(connection, None, limit)


def accounts_by_name(connection: psycopg.Connection[Any], after: str | None, limit: int) -> list[AccountRow]:
    """Accounts by name, acc-2 before acc-10, from the first after another one's on; sorts all of them."""
    return [
        AccountRow(*row) for row in utc.cursor(connection).execute(_NATURALLY, {"after": after, "limit": limit})
    ]


def accounts_after(
    connection: psycopg.Connection[Any], after: str, limit: int, prefix: str = ""
) -> list[AccountRow]:
    """Accounts by ascending ID, from the first after another one's on, which need not exist.

    Args:
        connection: to the account service's database.
        after: an ID; empty: from the first one on.
        limit: how many at the most.
        prefix: with what their IDs begin. An index finds them where the database's collation is ``C``.
    """
    return [AccountRow(*row) for row in utc.cursor(connection).execute(_AFTER, (after, prefix, limit))]


def show_account(dsn: str, account_id: str) -> AccountRow | None:
    """One account, or None."""
    with session(dsn) as connection:
        return account_of(connection, account_id)


def account_of(connection: psycopg.Connection[Any], account_id: str) -> AccountRow | None:
    """The same on an open connection."""
    row = utc.cursor(connection).execute(_SHOW, (account_id,)).fetchone()
    return AccountRow(*row) if row else None
