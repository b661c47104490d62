"""The books: where the money is, read from an approach's tables, each database by itself."""

from collections.abc import Iterable, Sequence
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from contracts.postgres import session


class Books(NamedTuple):
    """The databases and queries.

    Attributes:
        account_dsn: of the account service.
        payment_dsn: of the payment service.
        balances: gives what each account was opened with and what it has, of the accounts given.
        paid: gives the payment ID and amount of every payment to the accounts given.
        gone: gives the payment IDs whose money is gone at this moment, from a payment ID on.
        arrived: gives the payment IDs that are paid at this moment, from a payment ID on.
    """

    account_dsn: str
    payment_dsn: str
    balances: LiteralString = "SELECT opening_minor, balance_minor FROM accounts WHERE account_id = ANY(%s)"
    paid: LiteralString = """
        SELECT payment_id, amount_minor FROM payments WHERE account_id = ANY(%s) AND status = 'paid'"""
    gone: LiteralString = "SELECT payment_id FROM withdrawals WHERE payment_id >= %s AND status = 'withdrawn'"
    arrived: LiteralString = "SELECT payment_id FROM payments WHERE payment_id >= %s AND status = 'paid'"


class Verdict(NamedTuple):
    """The totals requested, taken and paid, in minor units.

    Attributes:
        asked_minor: what should have been taken and paid.
        taken_minor: what left the accounts.
        paid_minor: what was paid out.
    """

    asked_minor: int
    taken_minor: int
    paid_minor: int

    @property
    def lost_minor(self) -> int:
        """Taken from customers, and paid to nobody."""
        return max(0, self.taken_minor - self.paid_minor)

    @property
    def unfunded_minor(self) -> int:
        """Paid, and never taken from an account."""
        return max(0, self.paid_minor - self.taken_minor)

    @property
    def doubled_minor(self) -> int:
        """Taken and paid, but more than anybody asked for."""
        return max(0, min(self.taken_minor, self.paid_minor) - self.asked_minor)

    @property
    def right(self) -> bool:
        """Whether every cent is where it belongs."""
        return self.asked_minor == self.taken_minor == self.paid_minor


def balances(books: Books, accounts: Sequence[str]) -> list[tuple[int, int]]:
    """Opening balance and balance of each account, minor units."""
    return [(int(opened), int(left)) for opened, left in _rows(books.account_dsn, books.balances, list(accounts))]


def payments(books: Books, accounts: Sequence[str]) -> list[tuple[UUID, int]]:
    """Every payment to the accounts; a payment ID that was paid twice is there twice."""
    return _rows(books.payment_dsn, books.paid, list(accounts))


def verdict(books: Books, accounts: Sequence[str], asked_minor: int) -> Verdict:
    """Compare what was asked for with what was taken and paid.

    Args:
        books: whose.
        accounts: on which it was asked for, and nothing else was.
        asked_minor: the sum of the withdrawals that should have gone through.
    """
    taken = sum(opened - left for opened, left in balances(books, accounts))
    return Verdict(asked_minor, taken, sum(amount for _, amount in payments(books, accounts)))


def _rows(dsn: str, query: LiteralString, value: Iterable[Any]) -> list[Any]:
    with session(dsn, autocommit=True) as connection:
        return connection.execute(query, (value,)).fetchall()
