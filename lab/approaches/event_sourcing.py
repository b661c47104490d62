"""Event sourcing: nothing is ever overwritten. The account is its events; its balance is their sum.

What happens
    An account is a *stream* of events with versions 1, 2, 3, … Fold them and you have its balance. A withdrawal
    appends ``WithdrawalRequested, BalanceChecked, MoneyDeducted``, asks the payment service, and appends
    ``PaymentProcessed, WithdrawalCompleted`` (or ``PaymentFailed, MoneyRefunded, WithdrawalCompensated``). Two
    that append at once both need the same version; the primary key admits one, and the other reads again and
    decides again (*optimistic concurrency*): no lock is held while deciding.

Where it is finished
    When the last event is stored.

What can go wrong
    A crash between the two appends leaves a withdrawal that is deducted and not ended. Its stream says so: a retry
    with the same payment ID, or :meth:`EventSourced.resume`, continues from there. Until then a reader sees money
    deducted and not paid. On a busy account many decisions are lost to conflicts. Streams grow: every
    ``SNAPSHOT_EVERY`` events a snapshot of the balance is stored and folding starts there; and because folding
    cannot list accounts, the tables ``accounts`` and ``withdrawals`` are *projections*: written with each append,
    and rebuilt from the events at any time. Events stay for ever, and so does their format.
"""

from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

from psycopg.errors import OperationalError, UniqueViolation

from contracts import events, failpoints
from contracts.events import Event, WithdrawalRequested, follow
from lab.approaches import tables
from lab.approaches.connections import Connection, connect
from lab.approaches.tables import values
from lab.approaches.withdrawal import (
    ACCEPTED,
    COMPENSATED,
    COMPLETED,
    REJECTED,
    Outcome,
    PaymentIdReusedError,
    RefusedError,
    TryAgainError,
    pay,
)
from processors.runtime.schema import append_only_v1

SCHEMA = (
    """
CREATE TABLE events (
    account_id  text NOT NULL,
    version     bigint NOT NULL,
    payment_id  uuid,
    type        text NOT NULL,
    payload     jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (account_id, version),
    UNIQUE (payment_id, type)  -- a step of a withdrawal happens once, whatever the version
);
CREATE TABLE snapshots (
    account_id    text NOT NULL,
    version       bigint NOT NULL,
    balance_minor bigint NOT NULL,
    PRIMARY KEY (account_id, version)
);
"""
    + append_only_v1("events")
    + tables.ACCOUNTS
    + tables.WITHDRAWALS
)
PAYMENT_SCHEMA = tables.PAYMENTS

SNAPSHOT_EVERY = 100
ATTEMPTS_MAX = 200


_OPENED = "AccountOpened"
_ENDS = {"WithdrawalCompleted": COMPLETED, "WithdrawalCompensated": COMPENSATED, "WithdrawalRejected": REJECTED}


class Account(NamedTuple):
    """A folded stream: the balance (minor units; None before it was opened) and the version it has come to."""

    balance_minor: int | None
    version: int


class EventSourced:
    """Withdrawals on an event store.

    Args:
        dsn: database of the event store and its projections.
        payment_dsn: database of the payment service.
    """

    def __init__(self, dsn: str, payment_dsn: str) -> None:
        self._db = connect(dsn)
        self._payment_dsn = payment_dsn
        self._payment: Connection | None = None
        self.conflicts = 0

    def withdraw(self, request: WithdrawalRequested) -> Outcome:
        """Completed, rejected or compensated when this returns. A known payment ID continues where it stopped."""
        try:
            ended = self._request(request)
            failpoints.hit("event-sourcing.deducted")
            return ended or self._pay(request)
        except OperationalError as error:
            raise TryAgainError(str(error)) from None

    def finished(self, payment_id: UUID) -> Outcome | None:
        """The withdrawal's last event."""
        for kind, payload in self._db.execute(_STORY, (payment_id,)):
            if kind in _ENDS:
                return Outcome(_ENDS[kind], payload.get("reason"))
        return None

    def resume(self) -> int:
        """Finish the withdrawals that a crash left open; returns how many."""
        found = self._db.execute(_UNFINISHED).fetchall()
        for payload, kind in found:
            self.withdraw(events.decode(kind, payload.encode()))  # type: ignore[arg-type]
        return len(found)

    def close(self) -> None:
        """Close the connections."""
        self._db.close()
        if self._payment is not None:
            self._payment.close()

    def _request(self, request: WithdrawalRequested) -> Outcome | None:
        """Decide and append, until there is no conflict. Returns the outcome if this is the end."""
        for _ in range(ATTEMPTS_MAX):
            account = balance(self._db, request.account_id)
            known = self._db.execute(_REQUEST, (request.payment_id,)).fetchone()
            if known is not None:
                if tuple(known) != (request.account_id, request.amount_minor):
                    raise PaymentIdReusedError(f"payment ID {request.payment_id} belongs to another withdrawal")
                return self.finished(request.payment_id)
            new = _decide(account.balance_minor, request)
            if self._append(request, account, new):
                last = new[-1]
                return Outcome(REJECTED, last.reason) if isinstance(last, events.WithdrawalRejected) else None
            self.conflicts += 1
        raise TryAgainError(f"{request.account_id} is too busy: {ATTEMPTS_MAX} times another was faster")

    def _pay(self, request: WithdrawalRequested) -> Outcome:
        """Pay outside any transaction, once per payment ID, and append the result."""
        try:
            reason = self._ask_payment_service(request)
        except OperationalError as error:
            return Outcome(ACCEPTED, f"stored, to be resumed: {error}")
        failpoints.hit("event-sourcing.paid")
        for _ in range(ATTEMPTS_MAX):
            account = balance(self._db, request.account_id)
            if self._append(request, account, _end(account, request, reason)):
                failpoints.hit("event-sourcing.completed")
                return Outcome(COMPENSATED, reason) if reason else Outcome(COMPLETED)
            self.conflicts += 1
            if before := self.finished(request.payment_id):
                return before
        raise TryAgainError(f"{request.account_id} is too busy: {ATTEMPTS_MAX} times another was faster")

    def _ask_payment_service(self, request: WithdrawalRequested) -> str | None:
        """None if it paid, now or before; else why not."""
        if self._payment is None or self._payment.closed:
            self._payment = connect(self._payment_dsn)
        try:
            pay(request)
        except RefusedError as refused:
            return str(refused)
        self._payment.execute(tables.PAY + " ON CONFLICT DO NOTHING", values(request))
        return None

    def _append(self, request: WithdrawalRequested, account: Account, new: Sequence[Event]) -> bool:
        """Append after the version that was read, and update the projections. False on a version conflict."""
        numbered = enumerate(new, account.version + 1)
        after = _fold(
            account, [(version, type(event).__name__, event.amount_minor) for version, event in numbered]
        )
        try:
            with self._db.transaction():
                self._db.execute(
                    _APPEND,
                    {
                        "account": request.account_id,
                        "payment": request.payment_id,
                        "after": account.version,
                        "types": [type(event).__name__ for event in new],
                        "payloads": [events.encode(event).decode() for event in new],
                    },
                )
                for event in new:
                    project(self._db, event)
                if after.version // SNAPSHOT_EVERY > account.version // SNAPSHOT_EVERY:
                    self._db.execute(_SNAPSHOT, (request.account_id, after.version, after.balance_minor))
        except UniqueViolation:
            return False
        return True


def _decide(balance_minor: int | None, request: WithdrawalRequested) -> list[Event]:
    now = datetime.now(UTC)
    if balance_minor is None:
        return [request, follow(events.WithdrawalRejected, request, now, reason="unknown_account")]
    enough = balance_minor >= request.amount_minor
    checked = follow(events.BalanceChecked, request, now, balance_minor=balance_minor, sufficient=enough)
    if not enough:
        return [request, checked, follow(events.WithdrawalRejected, request, now, reason="insufficient_funds")]
    left = balance_minor - request.amount_minor
    return [request, checked, follow(events.MoneyDeducted, request, now, balance_minor=left)]


def _end(account: Account, request: WithdrawalRequested, refused: str | None) -> list[Event]:
    now = datetime.now(UTC)
    if refused is None:
        paid = follow(events.PaymentProcessed, request, now, provider_reference=f"es_{request.payment_id.hex}")
        return [paid, follow(events.WithdrawalCompleted, request, now)]
    back = (account.balance_minor or 0) + request.amount_minor
    return [
        follow(events.PaymentFailed, request, now, reason=refused),
        follow(events.MoneyRefunded, request, now, balance_minor=back, reason=refused),
        follow(events.WithdrawalCompensated, request, now, reason=refused),
    ]


def open_accounts(db: Connection, names: Sequence[str], balance_minor: int) -> None:
    """Begin a stream for each; existing accounts are left as they are."""
    with db.transaction():
        db.execute(_OPEN, {"names": list(names), "balance": balance_minor, "type": _OPENED})
        tables.open_accounts(db, names, balance_minor)


def balance(db: Connection, account_id: str) -> Account:
    """Fold a stream, from its last snapshot on."""
    snapshot = db.execute(_LAST_SNAPSHOT, (account_id,)).fetchone()
    known = Account(*snapshot) if snapshot else Account(None, 0)
    return _fold(known, db.execute(_STREAM, (account_id, known.version)))


def balance_at(db: Connection, account_id: str, at: datetime) -> int | None:
    """The balance as it was at a time; None if there was no account yet. Counts what had been recorded by then."""
    return _fold(Account(None, 0), db.execute(_STREAM_UNTIL, (account_id, at))).balance_minor


def _fold(account: Account, stream: Iterable[tuple[int, str, int]]) -> Account:
    for version, kind, amount_minor in stream:
        before = account.balance_minor
        after = amount_minor if kind == _OPENED else before
        if before is not None:
            after = before + _SIGN.get(kind, 0) * amount_minor
        account = Account(after, version)
    return account


_SIGN = {"MoneyDeducted": -1, "MoneyRefunded": +1}


def project(db: Connection, event: Event) -> None:
    """Apply one event to the projections."""
    match event:
        case events.MoneyDeducted():
            db.execute(tables.DEDUCT, (event.amount_minor, event.account_id))
            db.execute(tables.RECORD, values(event))
        case events.MoneyRefunded():
            db.execute(tables.DEDUCT, (-event.amount_minor, event.account_id))
            db.execute(_COMPENSATED, (event.reason, event.payment_id))
        case events.WithdrawalRejected():
            tables.reject(db, event, event.reason)


def rebuild(dsn: str) -> int:
    """Rebuild the projections from the first event on; returns how many events were applied.

    Readers see the old ones until it is done; appends wait.
    """
    with closing(connect(dsn)) as db, db.transaction():
        db.execute("LOCK TABLE accounts, withdrawals IN EXCLUSIVE MODE")
        db.execute("DELETE FROM withdrawals")
        db.execute("DELETE FROM accounts")
        everything = db.execute(_EVERYTHING).fetchall()
        for account_id, kind, amount_minor, payload in everything:
            if kind == _OPENED:
                tables.open_accounts(db, [account_id], amount_minor)
            else:
                project(db, events.decode(kind, payload.encode()))
        return len(everything)


_APPEND: LiteralString = """
INSERT INTO events (account_id, version, payment_id, type, payload)
SELECT %(account)s, %(after)s + n.place, %(payment)s, n.type, n.payload::jsonb
FROM unnest(%(types)s::text[], %(payloads)s::text[]) WITH ORDINALITY AS n (type, payload, place)
"""
_OPEN: LiteralString = """
INSERT INTO events (account_id, version, type, payload)
SELECT name, 1, %(type)s, jsonb_build_object('amount_minor', %(balance)s::bigint)
FROM unnest(%(names)s::text[]) AS n (name) ON CONFLICT DO NOTHING
"""
_STREAM: LiteralString = """
SELECT version, type, (payload->>'amount_minor')::bigint FROM events
WHERE account_id = %s AND version > %s ORDER BY version
"""
_STREAM_UNTIL: LiteralString = """
SELECT version, type, (payload->>'amount_minor')::bigint FROM events
WHERE account_id = %s AND recorded_at <= %s ORDER BY version
"""
_EVERYTHING: LiteralString = """
SELECT account_id, type, (payload->>'amount_minor')::bigint, payload::text FROM events ORDER BY account_id, version
"""
_SNAPSHOT: LiteralString = "INSERT INTO snapshots (account_id, version, balance_minor) VALUES (%s, %s, %s)"
_LAST_SNAPSHOT: LiteralString = """
SELECT balance_minor, version FROM snapshots WHERE account_id = %s ORDER BY version DESC LIMIT 1
"""
_REQUEST: LiteralString = """
SELECT account_id, (payload->>'amount_minor')::bigint FROM events
WHERE payment_id = %s AND type = 'WithdrawalRequested'
"""
_STORY: LiteralString = "SELECT type, payload FROM events WHERE payment_id = %s"
_UNFINISHED: LiteralString = """
SELECT r.payload::text, r.type FROM events r
WHERE r.type = 'WithdrawalRequested' AND NOT EXISTS (
    SELECT FROM events e WHERE e.payment_id = r.payment_id
        AND e.type IN ('WithdrawalCompleted', 'WithdrawalCompensated', 'WithdrawalRejected'))
"""
_COMPENSATED: LiteralString = "UPDATE withdrawals SET status = 'compensated', reason = %s WHERE payment_id = %s"
