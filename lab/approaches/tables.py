"""The tables that the approaches use: the same four everywhere; only the databases they are in differ.

Where an approach needs one more (a decision log, an event store, an outbox), it is in that approach's module.
"""

from collections.abc import Sequence
from typing import LiteralString

from psycopg import Connection

from contracts.events import Withdrawal
from lab.approaches.withdrawal import COMPLETED, REJECTED, Outcome, PaymentIdReusedError

ACCOUNTS = """
CREATE TABLE accounts (
    account_id    text PRIMARY KEY,
    opening_minor bigint NOT NULL,
    balance_minor bigint NOT NULL CHECK (balance_minor >= 0)
) WITH (fillfactor = 50);
"""

WITHDRAWALS = """
CREATE TABLE withdrawals (
    payment_id   uuid PRIMARY KEY,
    account_id   text NOT NULL,
    amount_minor bigint NOT NULL,
    status       text NOT NULL CHECK (status IN ('withdrawn', 'rejected', 'compensated')),
    reason       text,
    decided_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

PAYMENTS = """
CREATE TABLE payments (
    payment_id   uuid PRIMARY KEY,
    account_id   text NOT NULL,
    amount_minor bigint NOT NULL,
    status       text NOT NULL CHECK (status IN ('paid', 'declined')),
    decided_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

NOTIFICATIONS = """
CREATE TABLE notifications (
    payment_id uuid PRIMARY KEY,
    account_id text NOT NULL,
    told_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

LOCK_ACCOUNT: LiteralString = "SELECT balance_minor FROM accounts WHERE account_id = %s FOR UPDATE"
DEDUCT: LiteralString = "UPDATE accounts SET balance_minor = balance_minor - %s WHERE account_id = %s"
RECORD: LiteralString = """
INSERT INTO withdrawals (payment_id, account_id, amount_minor, status) VALUES (%s, %s, %s, 'withdrawn')
"""
PAY: LiteralString = """
INSERT INTO payments (payment_id, account_id, amount_minor, status) VALUES (%s, %s, %s, 'paid')
"""
NOTIFY: LiteralString = "INSERT INTO notifications (payment_id, account_id) VALUES (%s, %s)"

_OPEN: LiteralString = """
INSERT INTO accounts (account_id, opening_minor, balance_minor)
SELECT name, %(balance)s, %(balance)s FROM unnest(%(names)s::text[]) AS n (name) ON CONFLICT DO NOTHING
"""
_FIND: LiteralString = "SELECT account_id, amount_minor, status, reason FROM withdrawals WHERE payment_id = %s"
_REJECT: LiteralString = """
INSERT INTO withdrawals (payment_id, account_id, amount_minor, status, reason)
VALUES (%s, %s, %s, 'rejected', %s) ON CONFLICT DO NOTHING
"""


def values(request: Withdrawal) -> tuple[object, ...]:
    """Payment ID, account and amount: the values of most statements."""
    return request.payment_id, request.account_id, request.amount_minor


def open_accounts(connection: Connection, names: Sequence[str], balance_minor: int) -> None:
    """Open accounts; existing ones are left as they are."""
    connection.execute(_OPEN, {"names": list(names), "balance": balance_minor})


def find(connection: Connection, request: Withdrawal) -> Outcome | None:
    """The earlier outcome of this payment ID; None if there is none.

    Raises:
        PaymentIdReusedError: it was decided for another account or amount.
    """
    row = connection.execute(_FIND, (request.payment_id,)).fetchone()
    if row is None:
        return None
    account_id, amount_minor, status, reason = row
    if (account_id, amount_minor) != (request.account_id, request.amount_minor):
        raise PaymentIdReusedError(f"payment ID {request.payment_id} belongs to another withdrawal")
    return outcome(status, reason)


def outcome(status: str, reason: str | None) -> Outcome:
    """A row's status as an outcome."""
    return Outcome(COMPLETED if status == "withdrawn" else status, reason)


def reject(connection: Connection, request: Withdrawal, reason: str) -> Outcome:
    """Record that a withdrawal was rejected, so that a repetition is rejected as well."""
    connection.execute(_REJECT, (*values(request), reason))
    return find(connection, request) or Outcome(REJECTED, reason)
