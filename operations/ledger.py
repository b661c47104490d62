"""The ledger of an account: its bookings a page at a time, and the proof of its balance.

Bookings are found by the account's withdrawals, in their order: the saga service's database has an index of those
by account, and the ledger one by payment ID. A second index, of the ledger by account, would cost each withdrawal
as much again. So a booking is listed once the saga service has recorded its withdrawal; the proof needs no such
index, and reads the account service's database alone.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from operations.withdrawals import Wanted
from operations.withdrawals import page as withdrawals_page
from processors.runtime import utc

_BOOKINGS = """
SELECT payment_id, kind, amount_minor, booked_at FROM ledger WHERE payment_id = ANY(%s) AND account_id = %s
"""

_OF_PAYMENT = """
SELECT payment_id, kind, amount_minor, booked_at FROM ledger WHERE payment_id = %s ORDER BY booked_at, kind
"""

# One statement, so one snapshot.
_PROOF = """
SELECT account_id, currency, opening_balance_minor, coalesce(l.net, 0)::bigint, l.bookings, balance_minor
FROM accounts, (
    SELECT sum(amount_minor) AS net, count(*) AS bookings FROM ledger WHERE account_id = %(account_id)s) AS l
WHERE account_id = %(account_id)s
"""


class Booking(msgspec.Struct, frozen=True):
    """A movement of money on an account.

    Attributes:
        kind: ``deduction`` or ``refund``.
        amount_minor: minor units, negative for a deduction.
        booked_at: when, UTC.
    """

    payment_id: UUID
    kind: str
    amount_minor: int
    booked_at: datetime


class Bookings(msgspec.Struct, frozen=True):
    """Some bookings, and the cursor of the next page; None where there are no more."""

    bookings: list[Booking]
    cursor: str | None


class Proof(msgspec.Struct, frozen=True):
    """What an account's balance is made of, minor units.

    Attributes:
        ledger_minor: the sum of all its bookings.
        bookings: how many there are.
        holds: whether opening balance and ledger make the balance.
    """

    account_id: str
    currency: str
    opening_balance_minor: int
    ledger_minor: int
    bookings: int
    balance_minor: int

    @property
    def holds(self) -> bool:  # noqa: D102
        return self.opening_balance_minor + self.ledger_minor == self.balance_minor


def page(
    saga: psycopg.Connection[Any],
    account: psycopg.Connection[Any],
    account_id: str,
    limit: int,
    cursor: str | None = None,
) -> Bookings:
    """A page of an account's bookings: those of its newest withdrawals first, of each the deduction first.

    Args:
        saga: to the saga service's database.
        account: to the account service's database.
        account_id: of an account.
        limit: withdrawals at the most, each with a deduction, a refund as well, or (rejected) neither.
        cursor: of the page before.

    Raises:
        CursorError: it is none of this list's.
        psycopg.OperationalError: a database does not answer.
    """
    found = withdrawals_page(saga, Wanted(account_id=account_id), limit, cursor)
    bookings = of_payments(account, account_id, [one.payment_id for one in found.withdrawals])
    return Bookings(bookings, found.cursor)


def of_payments(account: psycopg.Connection[Any], account_id: str, payment_ids: Sequence[UUID]) -> list[Booking]:
    """The bookings of some withdrawals on an account, in the order of these, of each the deduction first.

    Args:
        account: to the account service's database.
        account_id: of the account.
        payment_ids: of the withdrawals.
    """
    places = {payment_id: place for place, payment_id in enumerate(payment_ids)}
    rows = utc.cursor(account).execute(_BOOKINGS, (list(places), account_id))
    return sorted((Booking(*row) for row in rows), key=lambda one: (places[one.payment_id], one.kind))


def of_payment(account: psycopg.Connection[Any], payment_id: UUID) -> list[Booking]:
    """The bookings of one withdrawal, in their order: a deduction, a refund, or (rejected) none.

    Args:
        account: to the account service's database.
        payment_id: of the withdrawal.
    """
    return [Booking(*row) for row in utc.cursor(account).execute(_OF_PAYMENT, (payment_id,))]


def prove(connection: psycopg.Connection[Any], account_id: str) -> Proof | None:
    """The proof of an account's balance; None without such an account.

    Reads the whole ledger: some 50 ms per million bookings.

    Args:
        connection: to the account service's database.
        account_id: of an account.
    """
    row = connection.execute(_PROOF, {"account_id": account_id}).fetchone()
    return Proof(*row) if row is not None else None
