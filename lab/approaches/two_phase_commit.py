"""Two-phase commit of three databases: a coordinator has each *prepare*, decides, and has each commit.

What happens
    Phase one: each participant (account, payment, notification) does its work and ``PREPARE TRANSACTION``s it.
    That is a vote: it is on disk, it survives a crash, and it can no longer be withdrawn. The decision: one row in
    the coordinator's log. Phase two: ``COMMIT PREPARED`` on each participant. If one votes no, or does not
    answer in time, ``ROLLBACK PREPARED`` on each that has prepared.

Where it is finished
    The outcome stands when the decision is in the log. It is finished when the last participant has committed.

What can go wrong
    A prepared participant is *in doubt*: it must not decide alone, so it keeps its locks until it receives
    the decision, and every other withdrawal on the account waits. If the coordinator dies now, they wait until
    someone recovers (:mod:`lab.approaches.recovery`): it is the single point of failure. One participant that does
    not answer is enough to stop every withdrawal. And commits arrive one after the other: a reader can see the
    deduction before the payment.

    The log holds commits only: what is not in it was aborted (*presumed abort*). Recovery first writes ``abort``
under the transaction's key; if the coordinator is alive after all, its commit conflicts with that row.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from uuid import UUID

from psycopg import sql
from psycopg.errors import ObjectNotInPrerequisiteState, OperationalError, UndefinedObject, UniqueViolation
from uuid_utils.compat import uuid7

from contracts import failpoints
from contracts.events import WithdrawalRequested
from lab.approaches import tables
from lab.approaches.connections import LOCK_TIMEOUT_S, Connection, connect
from lab.approaches.tables import values
from lab.approaches.withdrawal import ACCEPTED, COMPLETED, Outcome, RefusedError, TryAgainError, pay

LOG_SCHEMA = """
CREATE TABLE decisions (
    transaction_id uuid PRIMARY KEY,
    payment_id     uuid,
    decision       text NOT NULL CHECK (decision IN ('commit', 'abort')),
    decided_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at        timestamptz
);
CREATE INDEX ON decisions (payment_id);
"""
SCHEMAS = {
    "coordinator": LOG_SCHEMA,
    "account": tables.ACCOUNTS + tables.WITHDRAWALS,
    "payment": tables.PAYMENTS,
    "notification": tables.NOTIFICATIONS,
}
PARTICIPANTS = ("account", "payment", "notification")

BUSY_S_MAX = 5.0
BUSY_LOOK_S = 0.01
COMMIT, ABORT = "commit", "abort"


class TwoPhaseCommit:
    """A coordinator.

    Args:
        dsns: of the databases ``coordinator``, ``account``, ``payment`` and ``notification``.
        timeout_s: how long a participant may wait for a lock before that counts as a no, seconds.
    """

    def __init__(self, dsns: Mapping[str, str], timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self._dsns = dsns
        self._timeout_s = timeout_s
        self._open: dict[str, Connection] = {}

    def withdraw(self, request: WithdrawalRequested) -> Outcome:
        """Both phases; completed or rejected when this returns, or accepted if one has yet to apply it."""
        transaction_id = uuid7()
        votes: list[str] = []
        try:
            for participant, work in _WORK.items():
                before = self._prepare(participant, transaction_id, request, work)
                if before is not None:
                    return self.finished(request.payment_id) or Outcome(ACCEPTED, before.reason)
                votes.append(participant)
                failpoints.hit(f"two-phase-commit.prepared-{participant}")
        except RefusedError as refused:
            self._apply(ABORT, transaction_id, votes)
            return tables.reject(self._db("account"), request, str(refused))
        except (OperationalError, UniqueViolation) as error:
            self._apply(ABORT, transaction_id, votes)
            raise TryAgainError(f"aborted: {error}") from None

        # Every participant has prepared. The row that this writes is the commit of the whole.
        try:
            decision = decide(self._db("coordinator"), transaction_id, request.payment_id, COMMIT)
        except OperationalError as error:
            # Written or not, only the log knows, so no decision may be applied. Recovery reads it.
            raise TryAgainError(f"in doubt: the decision log does not answer: {error}") from None
        failpoints.hit("two-phase-commit.decided")

        unreached = self._apply(decision, transaction_id, votes)
        if decision == ABORT:
            raise TryAgainError("aborted: somebody recovered this transaction while it was under way")
        if unreached:
            return Outcome(ACCEPTED, f"decided, but in doubt at {' and '.join(unreached)}")
        self._db("coordinator").execute(DONE, (transaction_id,))
        return Outcome(COMPLETED)

    def finished(self, payment_id: UUID) -> Outcome | None:
        """Rejected, by the account service's row; or decided and applied by all, by the log."""
        row = self._db("coordinator").execute(_FINISHED, (payment_id,)).fetchone()
        if row is not None:
            return Outcome(COMPLETED)
        row = self._db("account").execute(_REJECTED, (payment_id,)).fetchone()
        return tables.outcome(*row) if row else None

    def close(self) -> None:
        """Close all connections."""
        for connection in self._open.values():
            connection.close()

    def _prepare(
        self, participant: str, transaction_id: UUID, request: WithdrawalRequested, work: "_Work"
    ) -> Outcome | None:
        """One participant's vote: no exception is a yes. Its work is then on disk, neither done nor undone."""
        db = self._db(participant)
        db.execute("BEGIN")
        try:
            before = work(db, request)
            if before is None:
                db.execute(sql.SQL("PREPARE TRANSACTION {}").format(global_id(transaction_id, participant)))
                return None
        except BaseException:
            if not db.broken and not db.closed:
                db.execute("ROLLBACK")
            raise
        db.execute("ROLLBACK")
        return before

    def _apply(self, decision: str, transaction_id: UUID, participants: list[str]) -> list[str]:
        """Phase two. Returns the participants that were not reached: they stay in doubt until recovery."""
        unreached = []
        for participant in participants:
            try:
                settle(self._db(participant), decision, global_id(transaction_id, participant))
            except OperationalError:
                unreached.append(participant)
            if decision == COMMIT:
                failpoints.hit(f"two-phase-commit.committed-{participant}")
        return unreached

    def _db(self, name: str) -> Connection:
        if name not in self._open or self._open[name].closed:
            self._open[name] = connect(self._dsns[name], lock_timeout_s=self._timeout_s)
        return self._open[name]


def _deduct(db: Connection, request: WithdrawalRequested) -> Outcome | None:
    row = db.execute(tables.LOCK_ACCOUNT, (request.account_id,)).fetchone()
    if before := tables.find(db, request):
        return before
    if row is None:
        raise RefusedError("unknown_account")
    if row[0] < request.amount_minor:
        raise RefusedError("insufficient_funds")
    db.execute(tables.DEDUCT, (request.amount_minor, request.account_id))
    db.execute(tables.RECORD, values(request))
    return None


def _pay(db: Connection, request: WithdrawalRequested) -> None:
    pay(request)
    db.execute(tables.PAY, values(request))


def _notify(db: Connection, request: WithdrawalRequested) -> None:
    db.execute(tables.NOTIFY, (request.payment_id, request.account_id))


_Work = Callable[[Connection, WithdrawalRequested], Outcome | None]
# Every withdrawal prepares in this order, so that two cannot deadlock.
_WORK: dict[str, _Work] = {"account": _deduct, "payment": _pay, "notification": _notify}

DONE = "UPDATE decisions SET done_at = clock_timestamp() WHERE transaction_id = %s"
_DECIDE = "INSERT INTO decisions (transaction_id, payment_id, decision) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
_DECISION = "SELECT decision FROM decisions WHERE transaction_id = %s"
_FINISHED = "SELECT 1 FROM decisions WHERE payment_id = %s AND decision = 'commit' AND done_at IS NOT NULL"
_REJECTED = "SELECT status, reason FROM withdrawals WHERE payment_id = %s AND status = 'rejected'"


def decide(log: Connection, transaction_id: UUID, payment_id: UUID | None, wanted: str) -> str:
    """Write the decision, unless there is one: the first stands, and is returned."""
    if log.execute(_DECIDE, (transaction_id, payment_id, wanted)).rowcount == 1:
        return wanted
    row = log.execute(_DECISION, (transaction_id,)).fetchone()
    assert row is not None
    return str(row[0])


def settle(participant: Connection, decision: str, gid: sql.Literal) -> None:
    """Apply the decision to one participant, unless that is done: coordinator and recovery may run concurrently.

    Raises:
        ObjectNotInPrerequisiteState: another session has held it for :data:`BUSY_S_MAX`.
    """
    statement = sql.SQL("COMMIT PREPARED {}" if decision == COMMIT else "ROLLBACK PREPARED {}").format(gid)
    give_up = time.monotonic() + BUSY_S_MAX
    while True:
        try:
            with suppress(UndefinedObject):
                participant.execute(statement)
            return
        except ObjectNotInPrerequisiteState:  # another session is at it; if it fails, we still have to
            if time.monotonic() > give_up:
                raise
            time.sleep(BUSY_LOOK_S)


def global_id(transaction_id: UUID, participant: str) -> sql.Literal:
    """The name of a participant's prepared transaction: unique on a server, which may hold several of them."""
    return sql.Literal(f"settle:{transaction_id}:{participant}")
