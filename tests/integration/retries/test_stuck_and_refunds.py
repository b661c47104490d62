"""What stands still is seen and mended; a refund happens once, whatever repeats and whoever refuses it."""

import json
from collections import Counter
from datetime import datetime
from urllib.request import urlopen

from confluent_kafka import TopicPartition
from uuid_utils.compat import uuid7

from contracts.events import PaymentFailed, encode, follow
from operations import lost, waits
from operations.audit.run import run as run_audit
from operations.republish import find, republish
from operations.stuck import stuck
from producers.requests import new_request
from tests.conftest import OPENING_MINOR, WAIT_S, wait_until
from tests.integration.retries.stack import Retrying


def test_a_refund_replayed_changes_nothing(retrying: Retrying):
    account = retrying.open_account()
    payment_id = retrying.client.request(account, "100.05").payment_id
    retrying.finished(payment_id)
    failed = retrying.find("payment.events", lambda m: str(payment_id).encode() in m.value())
    retrying.audit()  # what is still on its way, the mail of the refund for one, has arrived
    before = retrying.counts()
    for _ in range(3):
        fields = dict(failed.headers())
        retrying.send("payment.events", failed.value(), account, **fields)
    retrying.audit()
    # The three that were sent, and nothing that came of them.
    assert retrying.counts() == {**before, "payment.events": before["payment.events"] + 3}
    assert retrying.balance(account) == OPENING_MINOR


def test_a_refund_that_the_database_refuses_is_tried_until_it_succeeds(retrying: Retrying):
    account = retrying.open_account()
    retrying.execute(
        "account",
        f"ALTER TABLE ledger ADD CONSTRAINT jammed CHECK (amount_minor < 0 OR account_id <> '{account}')",
    )
    payment_id = retrying.client.request(account, "100.05").payment_id
    tries = "SELECT attempts FROM refunds_due WHERE payment_id = %s"
    try:
        wait_until(lambda: (retrying.query("account", tries, payment_id) or [[0]])[0][0] > 1, "tried twice")
        # Those behind it go on meanwhile.
        assert retrying.finished(retrying.client.request(account, "1.00").payment_id).state == "completed"
        wait_until(lambda: "PaymentFailed" in retrying.events(payment_id), "the saga service knows that it failed")
        shown = retrying.told("nudge", str(payment_id))
        assert "it waits for the account service to refund" in shown.stdout
        assert "CheckViolation" in shown.stdout or "check constraint" in shown.stdout
    finally:
        retrying.execute("account", "ALTER TABLE ledger DROP CONSTRAINT jammed")
    retrying.query("account", "UPDATE refunds_due SET next_attempt_at = now() RETURNING 1")
    assert retrying.finished(payment_id).state == "compensated"
    assert retrying.balance(account) == OPENING_MINOR - 100
    # What was nudged may have been first; then the one that is due finds nothing left to do.
    wait_until(lambda: not retrying.query("account", tries, payment_id), "nothing is due any more")
    retrying.audit()


def test_what_makes_no_progress_is_listed_with_what_it_waits_for(retrying: Retrying):
    with retrying.faults(error_share=1, voids=False):
        payment_id = retrying.ask()
        _, reason, *_ = retrying.waiting(payment_id)
        with urlopen(f"http://127.0.0.1:{retrying.stack.state.http['saga']}/metrics", timeout=WAIT_S) as page:
            assert 'settle_stuck_withdrawals{state="deducted"} 0.0' in page.read().decode()  # not for a minute yet
        shown = retrying.told("stuck", "--older-than", "0")
        assert shown.returncode == 0
        assert str(payment_id) in shown.stdout
        assert "the payment service to pay" in shown.stdout
        assert f"3 attempts, last: {reason}; next at" in shown.stdout
        assert max(map(len, shown.stdout.splitlines())) <= 80
        (listed,) = json.loads(retrying.told("stuck", "--older-than", "0", "--json").stdout)
        assert (listed["payment_id"], listed["state"]) == (str(payment_id), "deducted")
        assert listed["pending"]["attempts"] == 3
        status = retrying.status(payment_id)
        pending = wait_until(  # each database has two seconds to answer
            lambda: waits.look(retrying.dsns, retrying.bootstrap, payment_id, status).pending, "it is in hand"
        )
        assert pending.next_attempt_at == datetime.fromisoformat(listed["pending"]["next_attempt_at"])
        nudged = retrying.told("nudge", str(payment_id))
        assert nudged.returncode == 0
        assert "republished on account.events: MoneyDeducted" in nudged.stdout
        assert "which is in hand: 3 attempts" in nudged.stdout
    retrying.due_now(payment_id)
    assert retrying.finished(payment_id).state == "completed"
    assert retrying.at_provider(payment_id) == ["paid"]
    quiet = retrying.told("stuck")
    assert quiet.stdout.startswith("nothing is stuck")
    again = retrying.settle("nudge", str(payment_id))
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.count("\n") == 1
    assert retrying.settle("nudge", str(uuid7())).returncode == 2


def test_a_database_of_the_api_that_is_away_is_named_though_the_saga_service_knows_of_nothing(retrying: Retrying):
    dsns = {**retrying.dsns, "api": "postgresql://nobody@127.0.0.1:1/api"}
    found, holds = stuck(dsns, retrying.bootstrap, older_than_s=3_600, limit=50)
    assert found == []
    assert "the api database" in holds.unasked


def test_a_nudge_mends_a_story_with_holes_and_is_harmless_when_repeated(retrying: Retrying):
    """As if the saga's offsets had been moved past all that the services said of two withdrawals."""
    account = retrying.open_account()
    retrying.stack.stop_service("saga")
    ids = [retrying.client.request(account, amount).payment_id for amount in ("100.00", "100.05")]
    for payment_id in ids:  # the last thing that is said
        retrying.find("notification.events", lambda m, one=payment_id: str(one).encode() in m.value())
    ends = []
    for topic in ("account.events", "payment.events", "notification.events"):
        with retrying.reader(topic) as consumer:
            places = consumer.assignment()
            ends += [
                TopicPartition(topic, p.partition, consumer.get_watermark_offsets(p, WAIT_S)[1]) for p in places
            ]
    retrying.set_offsets("saga", ends)
    retrying.stack.start_service("saga")
    for payment_id in ids:
        wait_until(lambda one=payment_id: retrying.status(one), "the saga knows of the request")
    # On the topics, with their message IDs: to be found there and not made again.
    said = find(retrying.dsns, retrying.bootstrap, lost.lacking, payment_ids=ids)
    assert not any(one.made_again for one in said)
    for payment_id, state in zip(ids, ("completed", "compensated"), strict=True):
        assert retrying.status(payment_id).state == "requested"
        nudged = retrying.settle("nudge", str(payment_id))
        assert nudged.returncode == 0, nudged.stderr
        for event_type in ("WithdrawalRequested", "BalanceChecked", "MoneyDeducted", "NotificationSent"):
            assert f": {event_type}\n" in nudged.stdout
        assert retrying.finished(payment_id).state == state
    retrying.audit()
    before = retrying.counts()
    republish(retrying.dsns, retrying.bootstrap, said, WAIT_S)
    retrying.audit()
    # What was sent, and nothing that came of it.
    sent = Counter(message.topic for message in said)
    assert retrying.counts() == {name: count + sent[name] for name, count in before.items()}
    assert retrying.balance(account) == OPENING_MINOR - 10_000


def test_a_failure_before_its_deduction_is_known_ends_with_nothing_taken(retrying: Retrying):
    account = retrying.open_account()
    wish = new_request(account, amount_minor=10_000)
    failed = follow(PaymentFailed, wish, wish.occurred_at, reason="declined")
    retrying.send("payment.events", encode(failed), account, id=str(uuid7()), eventType="PaymentFailed")
    wait_until(lambda: "WithdrawalRejected" in retrying.events(wish.payment_id), "the account service has heard")
    early = retrying.status(wish.payment_id)
    assert (early.state, early.finished) == ("incomplete", False)
    assert early.waiting_for == "the request to reach the saga service"
    retrying.send_request(wish)
    status = retrying.finished(wish.payment_id)
    assert (status.state, status.reason) == ("rejected", "declined")
    assert retrying.balance(account) == OPENING_MINOR
    assert retrying.at_provider(wish.payment_id) == []
    # No payment says so: the audit names what was forged, so this is the last test here.
    audit = run_audit(retrying.dsns, retrying.bootstrap, WAIT_S)
    (off,) = [check for check in audit.checks if not check.ok]
    assert f"{wish.payment_id}: PaymentFailed" in off.detail
