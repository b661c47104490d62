"""The audit names what is wrong: one fault of each kind is planted behind the services' backs, and mended."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from types import SimpleNamespace
from uuid import UUID

import psutil
import psycopg
import pytest
from uuid_utils.compat import uuid7

from operations.audit import again
from operations.audit import run as audit_run
from operations.audit.run import run
from operations.lag import consumer_lag
from tests.conftest import OPENING_MINOR, WAIT_S, Settle, wait_until
from tests.integration.test_withdrawals import request


@pytest.fixture(scope="module")
def completed(settle: Settle) -> tuple[UUID, str]:
    """A completed withdrawal of 100.00 and its account."""
    account = settle.open_account()
    payment_id = settle.client.request(account, "100.00").payment_id
    assert settle.finished(payment_id).state == "completed"
    settle.audit()
    return payment_id, account


@pytest.fixture
def patient(monkeypatch):
    """The time that the relay has for itself is long: how soon it confirms is up to the machine."""
    monkeypatch.setattr("operations.audit.run.CONFIRM_S", WAIT_S)


def off(settle: Settle, wait_s: float) -> dict[str, str]:
    """What the audit says is off, by check."""
    audit = run(settle.dsns, settle.bootstrap, wait_s)
    said = {check.name: check.detail for check in audit.checks if not check.ok}
    assert audit.ok == (not said), said
    return said


def named(settle: Settle, name: object) -> dict[str, str]:
    """What the audit says of a withdrawal or an account, by check."""
    wrong = off(settle, 20.0)
    said = {check: detail for check, detail in wrong.items() if str(name) in detail}
    assert bool(said) == bool(wrong), wrong
    return said


@contextmanager
def planted(settle: Settle, database: str, table: str, plant: str, mend: str) -> Iterator[None]:
    """A change that the table would refuse, with its triggers off."""
    off, on = (f"ALTER TABLE {table} {word} TRIGGER USER" for word in ("DISABLE", "ENABLE"))
    settle.execute(database, off, plant, on)
    try:
        yield
    finally:
        settle.execute(database, off, mend, on)
        settle.audit()


def test_a_changed_balance(settle: Settle, completed):
    _, account = completed
    change = f"UPDATE accounts SET balance_minor = balance_minor {{}} 1 WHERE account_id = '{account}'"
    with planted(settle, "account", "accounts", change.format("+"), change.format("-")):
        assert named(settle, account) == {"balances": f"{account}: off by 1"}


def test_a_double_refund(settle: Settle):
    account = settle.open_account()
    payment_id = settle.client.request(account, "100.05").payment_id
    assert settle.finished(payment_id).state == "compensated"
    settle.execute("account", "ALTER TABLE ledger DROP CONSTRAINT ledger_pkey")
    plant = (
        f"INSERT INTO ledger SELECT payment_id, kind, account_id, amount_minor FROM ledger "
        f"WHERE payment_id = '{payment_id}' AND kind = 'refund'; "
        f"UPDATE accounts SET balance_minor = balance_minor + 10005 WHERE account_id = '{account}'"
    )
    mend = (
        f"DELETE FROM ledger WHERE ctid = (SELECT max(ctid) FROM ledger WHERE payment_id = '{payment_id}'); "
        f"UPDATE accounts SET balance_minor = balance_minor - 10005 WHERE account_id = '{account}'"
    )
    with planted(settle, "account", "ledger", plant, mend):
        assert "1 deductions, 2 refunds" in named(settle, payment_id)["ledger"]
    settle.execute("account", "ALTER TABLE ledger ADD PRIMARY KEY (payment_id, kind)")
    assert settle.balance(account) == OPENING_MINOR


@pytest.mark.parametrize("kind", ["deduction", "refund"])
def test_a_booking_on_another_account(settle: Settle, kind):
    account, other = settle.open_account(), settle.open_account()
    payment_id = settle.client.request(account, "100.05").payment_id
    assert settle.finished(payment_id).state == "compensated"
    move = (
        f"UPDATE ledger SET account_id = '{{to}}' WHERE payment_id = '{payment_id}' AND kind = '{kind}'; "
        "UPDATE accounts SET balance_minor = opening_balance_minor + coalesce("
        "(SELECT sum(amount_minor) FROM ledger l WHERE l.account_id = accounts.account_id), 0) "
        f"WHERE account_id IN ('{account}', '{other}')"
    )
    with planted(settle, "account", "ledger", move.format(to=other), move.format(to=account)):
        said = {"ledger": f"{payment_id}: booked on account {other}, but it is of account {account}"}
        assert named(settle, payment_id) == said


def test_withdrawals_of_another_currency_than_their_account(settle: Settle, completed):
    _, account = completed
    change = f"UPDATE accounts SET currency = '{{}}' WHERE account_id = '{account}'"
    with planted(settle, "account", "accounts", change.format("EUR"), change.format("USD")):
        said = {"balances": f"{account}: an account of EUR, with 1 withdrawals booked in USD"}
        assert named(settle, account) == said


def test_a_refund_of_what_was_paid(settle: Settle, completed):
    payment_id, account = completed
    plant = (
        f"INSERT INTO ledger VALUES ('{payment_id}', 'refund', '{account}', 10000); "
        f"UPDATE accounts SET balance_minor = balance_minor + 10000 WHERE account_id = '{account}'; "
        f"UPDATE saga_log SET status = 'compensated', reason = 'x' WHERE payment_id = '{payment_id}'"
    )
    mend = (
        f"DELETE FROM ledger WHERE payment_id = '{payment_id}' AND kind = 'refund'; "
        f"UPDATE accounts SET balance_minor = balance_minor - 10000 WHERE account_id = '{account}'; "
        f"UPDATE saga_log SET status = 'deducted', reason = NULL WHERE payment_id = '{payment_id}'"
    )
    with planted(settle, "account", "ledger", plant, mend):
        said = named(settle, payment_id)
        assert "paid, but the account says compensated" in said["payments"]
        assert "MoneyRefunded is missing" in said["events"]


def test_an_outbox_row_that_was_lost_before_it_was_published(settle: Settle, patient):
    account = settle.open_account()
    settle.execute(
        "payment",
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER lose BEFORE INSERT ON outbox FOR EACH ROW "
        f"WHEN (NEW.aggregateid = '{account}') EXECUTE FUNCTION lose()",
    )
    payment_id = settle.client.request(account, "100.00").payment_id
    try:
        paid = "SELECT FROM payments WHERE payment_id = %s AND status = 'processed'"
        wait_until(lambda: settle.query("payment", paid, payment_id), "it is paid")
        settle.all_read()
        said = off(settle, 2.0)
        assert set(said) == {"events", "finished"}
        assert f"{payment_id}: PaymentProcessed is missing: the payment service did it" in said["events"]
        assert str(payment_id) in said["finished"]
    finally:
        settle.execute("payment", "DROP TRIGGER lose ON outbox", "DROP FUNCTION lose")
    settle.execute(
        "payment",
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) "
        "SELECT gen_random_uuid(), 'payment', account_id, "
        "'PaymentProcessed', json_build_object('payment_id', payment_id, 'account_id', account_id, "
        "'amount_minor', amount_minor, 'currency', currency, 'occurred_at', updated_at, "
        "'provider_reference', provider_reference) "
        f"FROM payments WHERE payment_id = '{payment_id}'",
    )
    assert settle.finished(payment_id).state == "completed"
    settle.audit()


def test_an_event_that_is_missing_from_the_event_store(settle: Settle, completed):
    payment_id, _ = completed
    settle.execute("saga", "CREATE TABLE aside AS SELECT * FROM event_store WITH NO DATA")
    where = f"WHERE payment_id = '{payment_id}' AND type = 'MoneyDeducted'"
    plant = f"INSERT INTO aside SELECT * FROM event_store {where}; DELETE FROM event_store {where}"
    mend = "INSERT INTO event_store OVERRIDING SYSTEM VALUE SELECT * FROM aside; DROP TABLE aside"
    with planted(settle, "saga", "event_store", plant, mend):
        said = named(settle, payment_id)
        assert f"{payment_id}: MoneyDeducted is missing: the account service did it" in said["events"]
        assert f"{payment_id}: MoneyDeducted is on account.events/" in said["topics"]


def test_an_event_that_was_never_on_a_topic(settle: Settle, completed):
    payment_id, _ = completed
    event_id = uuid7()
    plant = (
        'INSERT INTO event_store (payment_id, event_id, type, payload, topic, partition, "offset") '
        f"VALUES ('{payment_id}', '{event_id}', 'PaymentProcessed', '{{}}', 'payment.events', 0, 0)"
    )
    mend = f"DELETE FROM event_store WHERE event_id = '{event_id}'"
    with planted(settle, "saga", "event_store", plant, mend):
        said = named(settle, payment_id)
        assert "PaymentProcessed is stored 2 times, the payment service did it 1 times" in said["events"]
        assert "but not on its topic (payment.events/0@0)" in said["topics"]


def test_a_charge_without_a_payment_and_one_that_was_made_twice(settle: Settle, completed):
    payment_id, account = completed
    stranger = uuid7()
    charge = "INSERT INTO charges (payment_id, account_id, amount_minor, currency, status, reference) VALUES "
    plant = f"{charge} ('{stranger}', '{account}', 500, 'USD', 'paid', 'x')"
    with planted(settle, "provider", "charges", plant, f"DELETE FROM charges WHERE payment_id = '{stranger}'"):
        assert named(settle, stranger) == {"provider": f"{stranger}: paid at the provider, unknown to us"}
    settle.execute("provider", "ALTER TABLE charges DROP CONSTRAINT charges_pkey")
    plant = f"{charge} ('{payment_id}', '{account}', 10000, 'USD', 'paid', 'again')"
    with planted(settle, "provider", "charges", plant, "DELETE FROM charges WHERE reference = 'again'"):
        assert named(settle, payment_id) == {"provider": f"{payment_id}: charged 2 times"}
    settle.execute("provider", "ALTER TABLE charges ADD PRIMARY KEY (payment_id)")


def test_an_outbox_row_that_did_not_arrive(settle: Settle, completed):
    """The log did not bring it, and it has no topic to be published to from the table."""
    payment_id, account = completed
    row_id = uuid7()
    # What is published is removed first, or the row would be removed with it: it never was in the relay's log.
    count = "SELECT count(*) FROM outbox"
    wait_until(lambda: settle.query("payment", count)[0][0] == 0, "published rows are removed")
    with planted(
        settle,
        "payment",
        "outbox",
        # What happens outside of the publication stays there.
        "ALTER PUBLICATION settle_outbox SET (publish = 'truncate'); "
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES "
        f"""('{row_id}', 'nowhere', '{account}', 'PaymentProcessed', '{{"payment_id": "{payment_id}"}}'); """
        "ALTER PUBLICATION settle_outbox SET (publish = 'insert')",
        f"DELETE FROM outbox WHERE id = '{row_id}'",
    ):
        said = named(settle, payment_id)
        assert f"{payment_id}: PaymentProcessed is in the outbox of payment, but did not arrive" in said["outbox"]


def test_a_row_that_the_relay_put_aside(settle: Settle, completed):
    payment_id, account = completed
    with planted(
        settle,
        "payment",
        "outbox_dead",
        "INSERT INTO outbox_dead (id, aggregatetype, aggregateid, type, payload, position, reason) VALUES ('x', "
        f"""'payment', '{account}', 'PaymentProcessed', '{{"payment_id": "{payment_id}"}}', '0/1', 'too large')""",
        "DELETE FROM outbox_dead",
    ):
        said = named(settle, payment_id)
        assert said == {"outbox": f"{payment_id}: PaymentProcessed of payment can never be published: too large"}


def test_a_hole_in_a_story(settle: Settle, patient):
    """A request that only the saga service has heard of: money asked for, and nobody decides."""
    one = request(settle.open_account())
    settle.execute(
        "saga",
        "INSERT INTO withdrawals (payment_id, account_id, amount_minor, currency, state, seen) VALUES "
        f"('{one.payment_id}', '{one.account_id}', {one.amount_minor}, 'USD', 'requested', 1)",
    )
    try:
        said = off(settle, 0.0)
        assert f"{one.payment_id}: requested" in said["finished"]
        assert f"{one.payment_id}: WithdrawalRequested is missing" in said["events"]
    finally:
        settle.execute("saga", f"DELETE FROM withdrawals WHERE payment_id = '{one.payment_id}'")
    settle.audit()


def test_a_log_that_the_server_keeps_in_memory(settle: Settle, completed):
    """The relay is sent what is on disk; what no commit follows is not, and is no event."""
    with psycopg.connect(settle.dsns["account"]) as under_way:
        for _ in range(3):
            under_way.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 100))")
            assert off(settle, 0.0) == {}


def test_the_relay_has_time_of_its_own(settle: Settle, patient, monkeypatch):
    """A withdrawal that never ends takes all the time there is: what is written is confirmed nevertheless."""
    relay = psutil.Process(settle.stack.pid("relay"))

    def first_wait(seconds: float) -> None:
        relay.resume()
        time.sleep(seconds)

    monkeypatch.setattr("operations.audit.run.time", SimpleNamespace(monotonic=time.monotonic, sleep=first_wait))
    relay.suspend()
    try:
        settle.open_account()
        assert "published" not in off(settle, 0.0)
    finally:
        relay.resume()


def test_traffic_of_which_something_is_always_unread(settle: Settle, patient):
    """Each record is unread until its reader has confirmed it, which it does twice a second."""
    account, enough = settle.open_account(), Event()

    def steadily() -> None:
        while not enough.wait(0.01):
            settle.send("withdrawal.requests", b"", account, id=str(uuid7()), eventType="SomebodyElses")

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(steadily)
        try:
            wait_until(lambda: consumer_lag(settle.bootstrap), "something is unread")
            consumed, published = audit_run._settled(settle.dsns, settle.bootstrap, time.monotonic() + WAIT_S)
        finally:
            enough.set()
        sending.result()
    assert (consumed.ok, published.ok) == (True, True), (consumed, published)


def test_a_withdrawal_that_comes_while_the_audit_reads(settle: Settle, monkeypatch):
    """All was quiet when it began; then money is taken, and the event is published once it has looked."""
    relay, settled, account = psutil.Process(settle.stack.pid("relay")), audit_run._settled, settle.open_account()

    def quiet_for_a_moment(*about):
        found = settled(*about)
        relay.suspend()
        payment_id = settle.client.request(account, "100.00").payment_id
        taken = "SELECT FROM saga_log WHERE payment_id = %s"
        wait_until(lambda: settle.query("account", taken, payment_id), "the money is taken")
        return found

    def first_wait(seconds: float) -> None:
        relay.resume()
        time.sleep(seconds)

    monkeypatch.setattr(audit_run, "_settled", quiet_for_a_moment)
    monkeypatch.setattr(again, "AGAIN_S", WAIT_S)
    monkeypatch.setattr(again, "time", SimpleNamespace(monotonic=time.monotonic, sleep=first_wait))
    try:
        assert off(settle, WAIT_S) == {}
    finally:
        relay.resume()
