"""One payment, mail or refund that cannot be handled holds none behind it back, and is seen."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from tests.conftest import OPENING_MINOR, wait_until
from tests.integration.retries.stack import BACKOFF_S, Retrying


@contextmanager
def refused(retrying: Retrying, database: str, table: str, condition: str) -> Iterator[None]:
    """The database refuses each new version of a row that does not meet a condition."""
    retrying.execute(database, f"ALTER TABLE {table} ADD CONSTRAINT jammed CHECK ({condition}) NOT VALID")
    try:
        yield
    finally:
        retrying.execute(database, f"ALTER TABLE {table} DROP CONSTRAINT jammed")


@contextmanager
def no_mail_leaves(retrying: Retrying) -> Iterator[Path]:
    """A file is where the folder of mails was."""
    folder = retrying.stack.data / "mail"
    folder.mkdir(exist_ok=True)
    aside = folder.rename(folder.with_name("mail.aside"))
    folder.write_text("in the way")
    try:
        yield folder
    finally:
        folder.unlink()
        aside.rename(folder)


def mail_of(retrying: Retrying, payment_id: UUID):
    """Status, reason, attempts, seconds until due."""
    rows = retrying.query(
        "notification",
        """SELECT status, reason, attempts,
            CASE WHEN isfinite(next_attempt_at) THEN extract(epoch FROM next_attempt_at - updated_at) END
        FROM notifications WHERE payment_id = %s""",
        payment_id,
    )
    return rows[0] if rows else (None, None, 0, None)


def change(retrying: Retrying, database: str, sql: str, *values: object) -> None:
    assert retrying.query(database, f"{sql} RETURNING 1", *values)


def seen_as_stuck(retrying: Retrying, payment_id: UUID) -> str:
    shown = retrying.told("stuck", "--older-than", "0", "--limit", "1000").stdout
    return " ".join(shown.partition(str(payment_id))[2].split())


def test_a_payment_that_cannot_be_handled_holds_no_other_back(retrying: Retrying):
    with retrying.faults(error_share=1):
        unreadable, unclaimable, *others = ids = [retrying.ask() for _ in range(4)]
        for one in ids:
            retrying.waiting(one)
        change(
            retrying, "payment", "UPDATE payments SET deadline_at = 'infinity' WHERE payment_id = %s", unreadable
        )
    with refused(retrying, "payment", "payments", f"payment_id <> '{unclaimable}' OR claim IS NULL"):
        retrying.due_now(*ids)
        for one in others:
            retrying.finished(one)
        wait_until(lambda: "timestamp too large" in retrying.payment(unreadable)[1], "it says why")
        assert "DataError: timestamp too large" in seen_as_stuck(retrying, unreadable)
        assert retrying.payment(unclaimable)[0] == "pending"
        assert "next at" in seen_as_stuck(retrying, unclaimable)
    retrying.stack.kill("payment")  # it leaves the row alone for a minute otherwise
    change(retrying, "payment", "UPDATE payments SET deadline_at = NULL WHERE payment_id = %s", unreadable)
    retrying.due_now(unreadable, unclaimable)
    for one in (unreadable, unclaimable):
        retrying.finished(one)
    retrying.stack.wait_ready("payment")


def test_a_mail_that_cannot_be_handled_holds_no_other_back_and_none_leaves_twice(retrying: Retrying):
    with no_mail_leaves(retrying) as folder:
        unreadable, nonsense, unwritable, *others = ids = [retrying.ask() for _ in range(5)]
        for one in ids:
            wait_until(lambda one=one: mail_of(retrying, one)[2] == len(BACKOFF_S), "a long pause")
    update = "UPDATE notifications SET {} WHERE payment_id = ANY(%s)"
    condition = f"payment_id <> '{unwritable}' OR (status = 'pending' AND reason !~ 'CheckViolation')"
    with refused(retrying, "notification", "notifications", condition):
        change(retrying, "notification", update.format("template = 'nonsense'"), [nonsense])
        change(
            retrying,
            "notification",
            update.format(
                f"next_attempt_at = CASE payment_id WHEN '{unreadable}' THEN '-infinity' ELSE now() END"
            ),
            ids,
        )
        assert {retrying.finished(one).state for one in others} == {"completed"}
        wait_until(lambda: "timestamp too small" in mail_of(retrying, unreadable)[1], "it says why")
        wait_until(lambda: mail_of(retrying, nonsense)[1] == "KeyError: 'nonsense'", "it says why")
        assert "DataError: timestamp too small" in seen_as_stuck(retrying, unreadable)
        assert mail_of(retrying, unwritable)[0] == "pending"
        letter = folder / f"{unwritable}.withdrawal_paid.eml"
        wait_until(letter.exists, "its mail has left")
    letter.unlink()
    retrying.stack.kill("notification")  # it leaves the row alone for a minute otherwise
    change(retrying, "notification", update.format("template = 'withdrawal_paid'"), [nonsense])
    change(retrying, "notification", update.format("next_attempt_at = now()"), [unreadable, nonsense, unwritable])
    assert {retrying.finished(one).state for one in (unreadable, nonsense, unwritable)} == {"completed"}
    retrying.stack.wait_ready("notification")


def test_a_mail_that_cannot_be_sent_waits_longer_and_longer_and_has_failed_once_it_is_too_old(retrying: Retrying):
    update = "UPDATE notifications SET next_attempt_at = now(){} WHERE payment_id = %s"
    attempts = len(BACKOFF_S) + 1
    with no_mail_leaves(retrying):
        payment_id = retrying.ask()
        wait_until(lambda: mail_of(retrying, payment_id)[2] == attempts - 1, "a long pause")
        change(retrying, "notification", update.format(""), payment_id)
        wait_until(lambda: mail_of(retrying, payment_id)[2] == attempts, "another attempt")
        status, reason, _, pause_s = mail_of(retrying, payment_id)
        assert status == "pending"
        assert pause_s > 1.4 * BACKOFF_S[-1]
        assert f"{attempts} attempts, last: {reason}; next at" in seen_as_stuck(retrying, payment_id)
        assert retrying.status(payment_id).state == "paid"
        change(retrying, "notification", update.format(", created_at = now() - interval '121 h'"), payment_id)
        assert retrying.finished(payment_id).state == "completed"
    assert "NotificationFailed" in retrying.events(payment_id)
    retrying.audit()


def test_a_refund_that_cannot_be_handled_holds_no_other_back(retrying: Retrying):
    accounts = [retrying.open_account() for _ in range(3)]
    names = ", ".join(f"'{account}'" for account in accounts)
    due = "SELECT error, attempts FROM refunds_due WHERE payment_id = %s"
    with refused(retrying, "account", "ledger", f"amount_minor < 0 OR account_id NOT IN ({names})"):
        ids = [retrying.client.request(account, "100.05").payment_id for account in accounts]
        for one in ids:
            wait_until(lambda one=one: (retrying.query("account", due, one) or [(0, 0)])[0][1] > 2, "a long pause")
    unreadable, unwritable, other = ids
    bodies = dict(retrying.query("account", "SELECT payment_id, payload::text FROM refunds_due"))
    update = "UPDATE refunds_due SET {} WHERE payment_id = ANY(%s)"
    nothing = update.replace("{}", "payload = '{}', attempts = 50")
    change(retrying, "account", nothing, [unreadable, unwritable])
    with refused(retrying, "account", "refunds_due", f"payment_id <> '{unwritable}' OR attempts = 50"):
        # Those in the way are due for longest.
        change(
            retrying,
            "account",
            update.format("next_attempt_at = now() - interval '1 h'"),
            [unreadable, unwritable],
        )
        change(retrying, "account", update.format("next_attempt_at = now()"), [other])
        assert retrying.finished(other).state == "compensated"
        wait_until(lambda: "ContractError" in retrying.query("account", due, unreadable)[0][0], "it says why")
        assert "ContractError: PaymentFailed" in seen_as_stuck(retrying, unreadable)
    retrying.stack.kill("account")  # it leaves the row alone for a minute otherwise
    for one in (unreadable, unwritable):
        mended = update.format("payload = %s::text::json, next_attempt_at = now()")
        change(retrying, "account", mended, bodies[one], [one])
        assert retrying.finished(one).state == "compensated"
    assert [retrying.balance(account) for account in accounts] == [OPENING_MINOR] * 3
    retrying.stack.wait_ready("account")
    retrying.audit()
