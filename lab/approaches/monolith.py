"""The monolith: everything is in one database, and money is withdrawn in one ACID transaction.

What happens
    BEGIN; lock the account; check the balance; deduct; record the withdrawal with its time, the payment and the
    notification; COMMIT.

Where it is finished
    At COMMIT. Before it no reader sees anything, after it every reader sees everything.

What can go wrong
    Almost nothing, and that is the point: a crash before COMMIT leaves nothing behind, as the server rolls back.
    If the *answer* to COMMIT is lost the caller retries with the same payment ID and gets the outcome.
    A refusal is a rollback. What it costs: account, payment and notification are one database, and are deployed,
    scaled and unavailable together. What a bank or a mail server has done cannot be rolled back either: here they
    are rows in a table of ours.
"""

from uuid import UUID

from psycopg.errors import OperationalError, UniqueViolation

from contracts import failpoints
from contracts.events import WithdrawalRequested
from lab.approaches import tables
from lab.approaches.connections import connect
from lab.approaches.tables import values
from lab.approaches.withdrawal import COMPLETED, Outcome, RefusedError, TryAgainError, pay

SCHEMA = tables.ACCOUNTS + tables.WITHDRAWALS + tables.PAYMENTS + tables.NOTIFICATIONS


class Monolith:
    """One database for everything.

    Args:
        dsn: of the database.
    """

    def __init__(self, dsn: str) -> None:
        self._db = connect(dsn)

    def withdraw(self, request: WithdrawalRequested) -> Outcome:
        """One transaction; completed or rejected when this returns."""
        try:
            return self._withdraw(request)
        except RefusedError as refused:
            return tables.reject(self._db, request, str(refused))
        except UniqueViolation:  # the same payment ID, concurrently, on another account
            raise TryAgainError("this payment ID is being decided at this moment") from None
        except OperationalError as error:
            raise TryAgainError(str(error)) from None

    def _withdraw(self, request: WithdrawalRequested) -> Outcome:
        with self._db.transaction():
            # The lock is held until COMMIT, so the balance stays what was checked.
            row = self._db.execute(tables.LOCK_ACCOUNT, (request.account_id,)).fetchone()
            if before := tables.find(self._db, request):
                return before
            if row is None:
                raise RefusedError("unknown_account")
            if row[0] < request.amount_minor:
                raise RefusedError("insufficient_funds")
            failpoints.hit("monolith.checked")

            self._db.execute(tables.DEDUCT, (request.amount_minor, request.account_id))
            failpoints.hit("monolith.deducted")

            self._db.execute(tables.RECORD, values(request))
            pay(request)  # a refusal leaves the block by an exception, which rolls back the deduction
            self._db.execute(tables.PAY, values(request))
            self._db.execute(tables.NOTIFY, (request.payment_id, request.account_id))
            failpoints.hit("monolith.recorded")
        failpoints.hit("monolith.committed")
        return Outcome(COMPLETED)

    def finished(self, payment_id: UUID) -> Outcome | None:
        """A row that can be seen is committed, and what is committed is finished."""
        row = self._db.execute(
            "SELECT status, reason FROM withdrawals WHERE payment_id = %s", (payment_id,)
        ).fetchone()
        return tables.outcome(*row) if row else None

    def close(self) -> None:
        """Close the connection."""
        self._db.close()
