"""A withdrawal from the request to its end, through every service, on real Kafka and real PostgreSQL."""

import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import psutil
import pytest
from typer.testing import CliRunner
from uuid_utils.compat import uuid7

from cli.main import app
from contracts.events import WithdrawalRequested, encode
from processors.account.accounts import in_other_currency
from tests.conftest import OPENING_MINOR, WAIT_S, Settle, wait_until

REQUESTED = "WithdrawalRequested"
COMPLETED = [
    REQUESTED,
    "BalanceChecked",
    "MoneyDeducted",
    "PaymentProcessed",
    "NotificationSent",
    "WithdrawalCompleted",
]


def request(account_id, amount_minor=10_000, currency="USD", payment_id=None):
    return WithdrawalRequested(
        payment_id=payment_id or uuid7(),
        account_id=account_id,
        amount_minor=amount_minor,
        currency=currency,
        occurred_at=datetime.now(UTC),
    )


def run(settle: Settle, command):
    """What a command of `settle` prints."""
    done = CliRunner().invoke(app, command.split(), env=settle.stack.environment())
    assert done.exit_code == 0, done.output
    return done.stdout


def stored(settle: Settle, payment_id):
    rows = settle.query("saga", "SELECT type FROM event_store WHERE payment_id = %s ORDER BY sequence", payment_id)
    return [row[0] for row in rows]


def test_a_withdrawal_is_deducted_paid_told_and_completed(settle: Settle):
    account = settle.open_account()
    receipt = settle.client.request(account, "100.00")
    status = settle.finished(receipt.payment_id)
    assert [step.event for step in status.steps] == COMPLETED
    assert sorted(stored(settle, receipt.payment_id)) == sorted(COMPLETED)
    assert (status.state, status.finished_by, status.waiting_for) == ("completed", "WithdrawalCompleted", None)
    assert status.trace_id == receipt.trace_id
    assert [step.at for step in status.steps] == sorted(step.at for step in status.steps)
    assert settle.balance(account) == OPENING_MINOR - 10_000
    ((charged,),) = settle.query(
        "provider", "SELECT amount_minor FROM charges WHERE payment_id = %s", receipt.payment_id
    )
    assert charged == 10_000
    mail = settle.stack.data / "mail" / f"{receipt.payment_id}.withdrawal_paid.eml"
    assert "100.00 USD" in mail.read_text()


@pytest.mark.parametrize(
    ("currency", "balance", "typed", "amount_minor", "written", "left"),
    [
        ("JPY", "50000", "12345", 12_345, "12,345", "37,655"),
        ("JPY", "100000000", "100000000.00", 100_000_000, "100,000,000", "0"),
        ("KWD", "50.5", "1.234", 1_234, "1.234", "49.266"),
        ("KWD", "1000000", "1000000.000", 1_000_000_000, "1,000,000.000", "0.000"),
    ],
)
def test_an_amount_is_read_and_written_with_the_decimals_of_its_currency(
    settle: Settle, currency, balance, typed, amount_minor, written, left
):
    account = f"acc-{uuid7()}"
    opened = run(settle, f"accounts open {account} --balance {balance} --currency {currency.lower()}")
    assert opened.startswith("1 account opened with ")
    assert in_other_currency(settle.dsns["account"], [account, "acc-none"], "USD", 9) == {account: currency}
    assert in_other_currency(settle.dsns["account"], [account], currency, 9) == {}
    ask = f"request --account {account} --amount {typed} --currency {currency}"
    asked = json.loads(run(settle, f"{ask} --wait --timeout {WAIT_S:g} --json"))
    assert (asked["state"], asked["finished_by"]) == ("completed", "WithdrawalCompleted")
    payment_id = asked["payment_id"]
    charges = settle.query("provider", "SELECT amount_minor FROM charges WHERE payment_id = %s", payment_id)
    assert charges == [(amount_minor,)]
    mail = (settle.stack.data / "mail" / f"{payment_id}.withdrawal_paid.eml").read_text()
    assert f"Subject: Your withdrawal of {written} {currency}\n" in mail
    assert f"\n{written} {currency} left account {account}" in mail
    assert f"{payment_id}  {written} {currency} from" in run(settle, f"status {payment_id}")
    told = json.loads(run(settle, f"status {payment_id} --json"))
    assert (told["amount_minor"], told["currency"]) == (amount_minor, currency)
    assert run(settle, f"accounts show {account}").split()[-1] == left
    settle.audit()


@pytest.mark.parametrize(("currency", "typed", "written"), [("JPY", "2005", "2,005"), ("KWD", "2.005", "2.005")])
def test_what_is_declined_is_given_back_in_every_currency(settle: Settle, currency, typed, written):
    account = settle.open_account(currency=currency)
    receipt = settle.client.request(account, typed, currency=currency)
    assert settle.finished(receipt.payment_id).state == "compensated"
    assert settle.balance(account) == OPENING_MINOR
    mail = settle.mail(receipt.payment_id, "withdrawal_refunded")
    assert f"{written} {currency} could not be paid out" in mail


@pytest.mark.parametrize(("cents", "reason"), [(5, "declined"), (7, "account_closed")])
def test_a_refused_payment_gives_the_money_back(settle: Settle, cents, reason):
    account = settle.open_account()
    receipt = settle.client.request(account, amount_minor=10_000 + cents)
    status = settle.finished(receipt.payment_id)
    assert (status.state, status.finished_by, status.reason) == ("compensated", "WithdrawalCompensated", reason)
    assert set(COMPLETED[:3]) | {"PaymentFailed", "MoneyRefunded"} < set(settle.events(receipt.payment_id))
    assert settle.balance(account) == OPENING_MINOR
    ledger = settle.query(
        "account", "SELECT kind, amount_minor FROM ledger WHERE payment_id = %s ORDER BY kind", receipt.payment_id
    )
    assert ledger == [("deduction", -10_000 - cents), ("refund", 10_000 + cents)]


def test_a_provider_that_is_away_once_is_asked_again(settle: Settle):
    account = settle.open_account()
    receipt = settle.client.request(account, amount_minor=10_013)
    assert settle.finished(receipt.payment_id).state == "completed"
    ((attempts,),) = settle.query(
        "payment", "SELECT attempts FROM payments WHERE payment_id = %s", receipt.payment_id
    )
    assert attempts == 2


@pytest.mark.parametrize(
    ("balance_minor", "currency", "reason"),
    [
        (9_999, "USD", "insufficient_funds"),
        (OPENING_MINOR, "EUR", "currency_mismatch"),
        (None, "USD", "unknown_account"),
    ],
)
def test_what_the_account_cannot_give_is_rejected_and_nothing_taken(
    settle: Settle, balance_minor, currency, reason
):
    account = settle.open_account(balance_minor) if balance_minor else f"acc-{uuid4()}"
    receipt = settle.client.request(account, "100.00", currency=currency)
    status = settle.finished(receipt.payment_id)
    assert (status.state, status.finished_by, status.reason) == ("rejected", "WithdrawalRejected", reason)
    assert not settle.query("account", "SELECT FROM ledger WHERE payment_id = %s", receipt.payment_id)
    assert not settle.query("provider", "SELECT FROM charges WHERE payment_id = %s", receipt.payment_id)
    if balance_minor:
        assert settle.balance(account) == balance_minor


def test_the_same_request_three_times_is_one_withdrawal(settle: Settle):
    account = settle.open_account()
    one = request(account)
    for _ in range(3):
        settle.send_request(one)  # each time with another message ID
    assert settle.finished(one.payment_id).state == "completed"
    wait_until(lambda: stored(settle, one.payment_id).count("WithdrawalRequested") == 3, "all three were seen")
    assert settle.balance(account) == OPENING_MINOR - one.amount_minor
    ((charges,),) = settle.query("provider", "SELECT count(*) FROM charges WHERE payment_id = %s", one.payment_id)
    assert charges == 1
    assert len(list((settle.stack.data / "mail").glob(f"{one.payment_id}.*"))) == 1
    settle.audit()


def test_the_client_names_the_same_request_the_same(settle: Settle):
    account, payment_id = settle.open_account(), uuid7()
    for _ in range(3):
        settle.client.request(account, "100.00", payment_id=payment_id)
    settle.finished(payment_id)
    settle.audit()
    assert sorted(stored(settle, payment_id)) == sorted(COMPLETED)


def test_the_same_payment_id_with_other_contents_is_dead_lettered_and_changes_nothing(settle: Settle):
    account, other_account = settle.open_account(), settle.open_account()
    one = request(account)
    settle.send_request(one)
    settle.finished(one.payment_id)
    for conflicting in (
        request(account, 20_000, payment_id=one.payment_id),
        request(other_account, payment_id=one.payment_id),
    ):
        settle.send_request(conflicting)
        letter = settle.find("withdrawal.requests.dlq", lambda m, one=conflicting: m.value() == encode(one))
        headers = dict(letter.headers())
        assert b"conflict" in headers["dlq.reason"]
        assert headers["dlq.service"] == b"account"
    assert settle.balance(account) == OPENING_MINOR - one.amount_minor
    assert settle.balance(other_account) == OPENING_MINOR
    assert settle.status(one.payment_id).amount_minor == one.amount_minor
    settle.audit()


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (b"\x00\xffjunk", {"id": str(uuid4()), "eventType": "WithdrawalRequested"}, b"not JSON"),
        (b'{"payment_id": 5}', {"id": str(uuid4()), "eventType": "WithdrawalRequested"}, b"payment_id"),
        (
            encode(request("acc-1"))[:-1] + b',"nobody reads this":"\xff"}',
            {"id": str(uuid4()), "eventType": "WithdrawalRequested"},
            b"can't decode byte 0xff",
        ),
        (b"{}", {"eventType": "WithdrawalRequested"}, b"header id is missing"),
        (b"{}", {"id": str(uuid4())}, b"header eventType is missing"),
    ],
)
def test_a_poison_message_between_good_ones_goes_aside_with_its_place_and_bytes(settle, value, headers, reason):
    account = settle.open_account()
    before = settle.client.request(account, "1.00")
    value = value + str(uuid4()).encode() if reason == b"not JSON" else value
    partition, offset = settle.send("withdrawal.requests", value, account, **headers)
    after = settle.client.request(account, "2.00")
    assert partition == before.partition == after.partition
    assert settle.finished(before.payment_id).state == settle.finished(after.payment_id).state == "completed"

    def is_it(message):
        found = dict(message.headers() or ())  # of a foreign letter, none of these
        return (found.get("dlq.partition"), found.get("dlq.offset")) == (b"%d" % partition, b"%d" % offset)

    letter = settle.find("withdrawal.requests.dlq", is_it)
    found = dict(letter.headers())
    assert reason in found["dlq.reason"]
    assert found["dlq.topic"] == b"withdrawal.requests"
    assert letter.value() == value
    assert (letter.key(), letter.partition()) == (account.encode(), partition)
    assert {name: text.encode() for name, text in headers.items()}.items() <= found.items()


def said_at(one, at):
    return encode(one).replace(encode(one.occurred_at), b'"%b"' % at)


@pytest.mark.parametrize("at", [b"9999-12-31T23:59:59-01:00", b"0001-01-01T00:00:00+01:00"])
def test_a_time_that_not_everybody_can_read_is_refused_by_all_alike_before_money_moves(settle: Settle, at):
    account = settle.open_account()
    one = request(account)
    place = settle.send("withdrawal.requests", said_at(one, at), account, id=str(uuid7()), eventType=REQUESTED)

    def letter_of(service):
        wanted = {"dlq.service": service, "dlq.partition": b"%d" % place[0], "dlq.offset": b"%d" % place[1]}
        return settle.find("withdrawal.requests.dlq", lambda m: wanted.items() <= dict(m.headers() or ()).items())

    reasons = [dict(letter_of(service).headers())["dlq.reason"] for service in (b"account", b"saga")]
    assert reasons[0] == reasons[1]
    assert b"Expected a time from" in reasons[0]
    assert (settle.balance(account), settle.status(one.payment_id)) == (OPENING_MINOR, None)


@pytest.mark.parametrize("at", [b"2026-01-02T03:04:05+23:59", b"2026-01-01 03:05:05.%bz" % (b"0" * 200)])
def test_a_time_that_only_we_can_read_is_shown_in_utc(settle: Settle, at):
    account = settle.open_account()
    one = request(account)
    settle.send("withdrawal.requests", said_at(one, at), account, id=str(uuid7()), eventType=REQUESTED)
    settle.finished(one.payment_id)
    done = CliRunner().invoke(app, ["status", str(one.payment_id), "--json"], env=settle.stack.environment())
    assert json.loads(done.stdout)["steps"][0] == {"event": REQUESTED, "at": "2026-01-01T03:05:05+00:00"}


def test_a_trace_context_that_is_none_refuses_no_money(settle: Settle):
    account = settle.open_account()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    contexts = [
        {"traceparent": parent, "tracestate": "v=café"},
        {"traceparent": parent, "tracestate": "a=" + "b" * 9_000},
        {"traceparent": parent.upper()},
        {"traceparent": b"\xff\xfe"},
        {"traceparent": "garbage" * 1_000},
    ]
    wishes = [request(account, 100) for _ in contexts]
    for wish, context in zip(wishes, contexts, strict=True):
        settle.send("withdrawal.requests", encode(wish), account, id=str(uuid7()), eventType=REQUESTED, **context)
    found = [settle.finished(wish.payment_id) for wish in wishes]
    assert {one.state for one in found} == {"completed"}
    assert [one.trace_id for one in found] == [parent[3:35], parent[3:35], None, None, None]


def test_an_unknown_event_type_is_skipped_and_counted(settle: Settle):
    def skipped() -> float:
        with urlopen(f"http://127.0.0.1:{settle.stack.state.http['account']}/metrics", timeout=WAIT_S) as page:
            lines = page.read().decode().splitlines()
        return float(next(one for one in lines if one.startswith("settle_messages_skipped_total ")).split()[1])

    account, before = settle.open_account(), skipped()
    settle.send("withdrawal.requests", b"{}", account, id=str(uuid4()), eventType="MoneyPrinted")
    receipt = settle.client.request(account, "1.00")
    assert settle.finished(receipt.payment_id).state == "completed"
    assert skipped() > before  # twice where its batch came twice, which it may


def test_unknown_fields_are_ignored_and_kept_in_the_event_store(settle: Settle):
    account = settle.open_account()
    one = request(account)
    body = encode(one)[:-1] + b',"channel":"mobile"}'
    settle.send("withdrawal.requests", body, account, id=str(uuid7()), eventType="WithdrawalRequested")
    assert settle.finished(one.payment_id).state == "completed"
    ((channel,),) = settle.query(
        "saga",
        "SELECT payload->>'channel' FROM event_store WHERE payment_id = %s AND type = 'WithdrawalRequested'",
        one.payment_id,
    )
    assert channel == "mobile"


def test_a_hot_account_is_never_overdrawn(settle: Settle):
    account = settle.open_account(100 * 10_000)
    receipts = [request(account) for _ in range(150)]
    outcomes = []
    for one in receipts:
        settle.client.send(one, outcomes.append)
    settle.client.flush()
    states = [settle.finished(one.payment_id).state for one in receipts]
    assert states == ["completed"] * 100 + ["rejected"] * 50
    assert settle.balance(account) == 0
    settle.audit()


def test_the_event_store_and_the_ledger_refuse_to_be_rewritten(settle: Settle):
    settle.finished(settle.client.request(settle.open_account(), "1.00").payment_id)
    for database, table in (("saga", "event_store"), ("account", "ledger"), ("provider", "charges")):
        for sql in (f"DELETE FROM {table}", f"UPDATE {table} SET payment_id = payment_id", f"TRUNCATE {table}"):
            with pytest.raises(Exception, match="append-only"):
                settle.query(database, sql)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files a process has mapped")
def test_a_broker_that_is_killed_leaves_nothing_outside_the_data_folder(settle: Settle):
    settle.finished(settle.client.request(settle.open_account(), "10.00").payment_id)
    broker = psutil.Process(settle.stack.pid("kafka"))
    unpacked = [Path(file.path) for file in broker.memory_maps() if "liblz4" in file.path]
    assert unpacked
    assert all(path.is_relative_to(settle.stack.data) for path in unpacked)
    assert not Path(tempfile.gettempdir(), f"hsperfdata_{broker.username()}", str(broker.pid)).exists()
