"""What Kafka lost comes back from the services' own tables; and what is said twice changes nothing."""

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import closing
from uuid import UUID

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from typer.testing import CliRunner

from broker.scan import scan
from cli.main import app
from contracts.events import made_again_id
from contracts.services import TOPICS
from contracts.topics import ACCOUNT_EVENTS, NOTIFICATION_EVENTS, PAYMENT_EVENTS, WITHDRAWAL_REQUESTS
from lab.chaos.arming import Arming
from operations import lost
from operations.audit.run import run as run_audit
from operations.dead_letters.letters import read_letters
from operations.dead_letters.warning import UNVERIFIED
from operations.lag import consumer_lag
from operations.republish import find, republish
from producers.client import WithdrawalClient
from stack.supervisor import SERVICES, Stack
from tests.conftest import OPENING_MINOR, WAIT_S, Settle, wait_until

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
UNASKED = "could not be asked for what holds it up"
MONEY = ("balances", "ledger", "payments", "provider", "saga", "events", "finished")
AMOUNTS = {"100.00": "completed", "100.05": "compensated", "1000000.00": "rejected"}
TAKEN = {"WithdrawalRequested", "BalanceChecked", "MoneyDeducted", "NotificationSent"}
EVENTS = {
    "completed": TAKEN | {"PaymentProcessed"},
    "compensated": TAKEN | {"PaymentFailed", "MoneyRefunded"},
    "rejected": {"WithdrawalRequested", "WithdrawalRejected", "NotificationSent"},
}


class Lossy(Settle):
    """A stack of its own, whose topics lose records."""

    def lose(self, *topics) -> None:
        """As a retention does that is shorter than an outage; also what was read is gone."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        known = admin.list_topics(timeout=10).topics
        places = [TopicPartition(t.name, number, -1) for t in topics for number in known[t.name].partitions]
        for future in admin.delete_records(places).values():
            future.result(timeout=30)

    def ask(self, account: str) -> dict:
        """Three withdrawals that end differently, with their ends."""
        return {self.client.request(account, amount).payment_id: end for amount, end in AMOUNTS.items()}

    def known(self, database: str, table: str, payment_ids, condition: str = "true") -> bool:
        query = f"SELECT count(DISTINCT payment_id) FROM {table} WHERE payment_id = ANY(%s) AND {condition}"
        return self.query(database, query, list(payment_ids))[0][0] == len(payment_ids)

    def published(self, topic, payment_ids) -> set[str]:
        """The payment IDs of which a topic holds something."""
        bodies = b"".join(message.value() for message in scan(self.bootstrap, [topic.name]))
        return {str(one) for one in payment_ids if str(one).encode() in bodies}

    def cli(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            env={**os.environ, **self.stack.environment(), "COLUMNS": "100", **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def told(self, *arguments: str, unasked: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """The same, once all but so many have answered it: it leaves out who has not within 2 s."""

        def told():
            done = self.cli(*arguments, **variables)
            return done.stderr.count(UNASKED) == unasked and done

        return wait_until(told, f"settle {arguments[0]} has asked everybody")

    def waits(self, payment_id) -> str:
        """What holds a withdrawal up, as a program is told."""

        def told():
            done = CliRunner().invoke(app, ["status", str(payment_id), "--json"], env=self.stack.environment())
            return UNASKED not in done.stderr and done

        said = wait_until(told, "everybody has been asked")
        found = json.loads(said.stdout)
        assert found["held_up_by"] in (None, found["waiting_for"])
        return found["held_up_by"] or "nothing"

    def lacking(self, payment_ids) -> list[lost.Lost]:
        return find(self.dsns, self.bootstrap, lost.lacking, payment_ids=list(payment_ids))

    def end(self, asked) -> None:
        """All end as they should, and the money is where it should be."""
        for payment_id, state in asked.items():
            assert self.finished(payment_id).state == state
        wait_until(lambda: self.lacking(asked) == [], "nobody lacks anything")
        audit = run_audit(self.dsns, self.bootstrap, WAIT_S)
        assert [check for check in audit.checks if check.name in MONEY and not check.ok] == []


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    data, arming = tmp_path_factory.mktemp("lossy"), Arming()
    with (
        Stack(data, services=SERVICES, command=arming) as stack,
        WithdrawalClient(stack.state.kafka_bootstrap, delivery_timeout_s=WAIT_S) as client,
        closing(Lossy(stack, arming, None, client)) as lossy,
    ):
        yield lossy
        stack.hurry()


def test_what_was_lost_before_anybody_read_it_is_published_from_the_tables(lossy: Lossy):
    account = lossy.open_account()
    for service in ("payment", "notification"):
        lossy.stack.stop_service(service)
    asked = lossy.ask(account)
    for payment_id in asked:
        last = "WithdrawalRejected" if asked[payment_id] == "rejected" else "MoneyDeducted"
        wait_until(lambda one=payment_id, event=last: event in lossy.events(one), "the saga knows so far")
    lossy.lose(ACCOUNT_EVENTS)
    for service in ("payment", "notification"):
        lossy.stack.start_service(service)

    shown = lossy.cli("republish", "--quiet", "0", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines() if line.startswith(" account.events")]
    assert rows == [
        ["account.events", "MoneyDeducted", "2", "0"],
        ["account.events", "WithdrawalRejected", "1", "0"],
    ]
    refused = lossy.cli("republish", "--quiet", "0")
    assert (refused.returncode, refused.stderr) == (
        2,
        "settle: to publish 3 events of 3 withdrawals again without a terminal to ask at, pass --yes\n",
    )
    too_young = lossy.cli("republish", SETTLE_STUCK_S="3600")
    assert too_young.stdout == "no service lacks an event that another one knows of\n"
    originals = lossy.lacking(asked)

    done = lossy.cli("republish", "--quiet", "0", "--yes")
    assert done.returncode == 0, done.stderr
    assert "3 events of 3 withdrawals handed to the relay" in done.stdout
    lossy.end(asked)
    assert lossy.balance(account) == OPENING_MINOR - 10_000
    # As they were: the same message IDs, byte for byte.
    query = "SELECT payment_id, type, event_id, payload::text FROM event_store WHERE payment_id = ANY(%s)"
    stored = lossy.query("saga", query, list(asked))
    assert {(one.payment_id, one.event_type, one.message_id, one.body) for one in originals} <= set(stored)


def test_what_the_saga_never_heard_is_made_again_and_is_the_same_each_time(lossy: Lossy):
    account = lossy.open_account()
    lossy.stack.stop_service("saga")
    asked = lossy.ask(account)
    wait_until(lambda: lossy.known("notification", "notifications", asked, "status = 'sent'"), "all are told")
    wait_until(lambda: len(lossy.published(NOTIFICATION_EVENTS, asked)) == len(asked), "all is published")
    lossy.lose(WITHDRAWAL_REQUESTS, ACCOUNT_EVENTS, PAYMENT_EVENTS, NOTIFICATION_EVENTS)
    for service in ("account", "payment", "notification"):  # as a cleaner does, sooner or later
        lossy.execute(service, "DELETE FROM outbox")
    lossy.stack.start_service("saga")

    found = lossy.lacking(asked)
    assert found == lossy.lacking(asked)
    kinds: dict = {}
    for one in found:
        kinds.setdefault(one.payment_id, []).append(one.event_type)
        assert one.made_again
    assert {payment_id: set(types) for payment_id, types in kinds.items()} == {
        payment_id: EVENTS[end] for payment_id, end in asked.items()
    }
    deducted = [one for one in found if one.event_type == "MoneyDeducted"]
    (deducted,) = [one for one in deducted if asked[one.payment_id] == "completed"]
    assert json.loads(deducted.body)["balance_minor"] == OPENING_MINOR - 10_000
    republish(lossy.dsns, lossy.bootstrap, found, WAIT_S)
    lossy.end(asked)
    before = lossy.query("saga", "SELECT count(*) FROM event_store")
    republish(lossy.dsns, lossy.bootstrap, found, WAIT_S)
    lossy.end(asked)
    assert lossy.query("saga", "SELECT count(*) FROM event_store") == before
    assert lossy.balance(account) == OPENING_MINOR - 10_000


def test_a_request_that_only_the_saga_heard_is_sent_again_as_it_was(lossy: Lossy):
    account = lossy.open_account()
    lossy.stack.stop_service("account")
    asked = lossy.ask(account)
    wait_until(lambda: lossy.known("saga", "withdrawals", asked), "the saga knows the requests")
    lossy.lose(WITHDRAWAL_REQUESTS)
    lossy.stack.start_service("account")
    one = next(iter(asked))
    done = lossy.cli("nudge", str(one))
    assert done.stdout.startswith("republished on withdrawal.requests: WithdrawalRequested\n"), done.stderr
    assert lossy.finished(one).state == asked[one]
    republish(lossy.dsns, lossy.bootstrap, lossy.lacking(asked), WAIT_S)
    lossy.end(asked)
    ids = {dict(message.headers())["id"].decode() for message in scan(lossy.bootstrap, [WITHDRAWAL_REQUESTS.name])}
    stored = lossy.query(
        "saga",
        "SELECT event_id::text FROM event_store WHERE payment_id = ANY(%s) AND type = 'WithdrawalRequested'",
        list(asked),
    )
    assert {row[0] for row in stored} <= ids


def test_topics_that_others_read_are_filled_again_with_every_event(lossy: Lossy):
    account = lossy.open_account()
    asked = lossy.ask(account)
    lossy.end(asked)
    lossy.lose(*TOPICS)
    before = lossy.query("saga", "SELECT count(*) FROM event_store")
    options = [word for payment_id in asked for word in ("--payment", str(payment_id))]
    listed = json.loads(lossy.cli("republish", "--every-event", "--quiet", "0", "--json", *options).stdout)
    assert {event["payment_id"] for event in listed} == {str(payment_id) for payment_id in asked}
    done = lossy.cli("republish", "--every-event", "--quiet", "0", "--yes", *options)
    assert f"{len(listed)} events of 3 withdrawals handed to the relay" in done.stdout, done.stderr

    def there():
        found = list(scan(lossy.bootstrap, [topic.name for topic in TOPICS]))
        return len(found) >= len(listed) and found

    records = wait_until(there, "all are published again")
    fields = ((r.topic(), dict(r.headers())["id"].decode(), r.value().decode(), r.key().decode()) for r in records)
    wanted = ((one["topic"], one["message_id"], one["body"], one["key"]) for one in listed)
    assert Counter(fields) == Counter(wanted)
    lossy.end(asked)
    assert lossy.query("saga", "SELECT count(*) FROM event_store") == before


def limit_records(lossy: Lossy, topic: str, max_bytes: int) -> None:
    admin = AdminClient({"bootstrap.servers": lossy.bootstrap})
    entry = ConfigEntry("max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET)
    change = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([change]).values():
        future.result(timeout=30)


def test_what_the_relay_put_aside_is_put_back_by_a_person_and_made_by_nobody_else(lossy: Lossy):
    """Under another message ID it would be told twice, and the event store forgets nothing."""
    limit_records(lossy, PAYMENT_EVENTS.name, 60)
    try:
        payment_id = lossy.client.request(lossy.open_account(), "100.00").payment_id
        dead = "SELECT id FROM outbox_dead WHERE type = 'PaymentProcessed'"
        ((row_id,),) = wait_until(lambda: lossy.query("payment", dead), "the payment's event is put aside")
        wait_until(lambda: lossy.events(payment_id)[-1:] == ["MoneyDeducted"], "the saga waits")
        shown = json.loads(lossy.told("stuck", "--older-than", "0", "--json").stdout)
        (stuck,) = [one for one in shown if one["payment_id"] == str(payment_id)]
        assert stuck["waiting_for"] == stuck["held_up_by"]
        assert "PaymentProcessed, a dead row of the payment outbox" in stuck["waiting_for"]
        assert lossy.waits(payment_id) == stuck["waiting_for"]
        shown = lossy.told("status", str(payment_id)).stdout.splitlines()[-1]
        assert f"deducted: not finished, waits for {stuck['waiting_for']}; trace" in shown
        known = lossy.told("status", str(payment_id), unasked=1, SETTLE_PAYMENT_DSN=NOWHERE)
        assert (known.returncode, len(known.stderr.splitlines())) == (0, 1)
        assert "the payment database could not be asked" in known.stderr
        assert "waits for the payment service to pay" in known.stdout
        handed = "SELECT id::text FROM outbox WHERE type = 'PaymentProcessed'"
        wait_until(lambda: not lossy.query("payment", handed), "the row is nowhere else")
        for command in (["nudge", str(payment_id)], ["republish", "--quiet", "0", "--yes"]):
            done = lossy.told(*command)
            assert (done.returncode, done.stderr) == (0, "")
            assert "settle outbox dead list" in done.stdout
            # What is put into the outbox is there, or among the dead by now.
            assert lossy.query("payment", f"{dead} UNION ALL {handed}") == [(row_id,)]
    finally:
        limit_records(lossy, PAYMENT_EVENTS.name, 1_048_588)
    put_back = lossy.cli("outbox", "dead", "retry", row_id)
    assert put_back.stdout == "1 row put back\n"
    lossy.end({payment_id: "completed"})
    assert Counter(lossy.events(payment_id))["PaymentProcessed"] == 1


def test_an_event_made_again_beside_its_dead_letter_is_the_one_that_comes_back(lossy: Lossy):
    """The saga service refused it, and its topic has lost it since: a nudge first, its redrive later."""
    lossy.stack.stop_service("payment")
    payment_id = lossy.client.request(lossy.open_account(), "100.00").payment_id
    condition = f"type <> 'PaymentProcessed' OR payment_id <> '{payment_id}'"
    lossy.execute("saga", f"ALTER TABLE event_store ADD CONSTRAINT jammed CHECK ({condition}) NOT VALID")
    lossy.stack.start_service("payment")

    def refused():
        letters = [one for one in read_letters(lossy.bootstrap) if one.payment_id == str(payment_id)]
        return [one for one in letters if one.event_type == "PaymentProcessed"]

    (letter,) = wait_until(refused, "the saga service has refused the payment's event")
    lossy.execute("saga", "ALTER TABLE event_store DROP CONSTRAINT jammed")
    lossy.lose(PAYMENT_EVENTS)
    lossy.execute("payment", "DELETE FROM outbox")
    (rebuilt,) = [one for one in lossy.lacking([payment_id]) if one.event_type == "PaymentProcessed"]
    assert (rebuilt.made_again, str(rebuilt.message_id)) == (True, letter.message_id)
    nudged = lossy.cli("nudge", str(payment_id))
    assert nudged.returncode == 0, nudged.stderr
    assert lossy.finished(payment_id).state == "completed"
    gone = lossy.cli("dead-letters", "redrive", letter.id)
    said = "unverified: its original is gone from payment.events"
    assert (gone.returncode, gone.stderr) == (2, f"settle: dead letter {letter.id}: {said}\n")
    asked = lossy.cli("dead-letters", "redrive", letter.id, "--unverified")
    assert (asked.returncode, "without a terminal" in asked.stderr) == (2, True)
    assert UNVERIFIED in " ".join(asked.stdout.split())
    redriven = lossy.cli("dead-letters", "redrive", letter.id, "--unverified", "--yes")
    assert redriven.returncode == 0, redriven.stderr
    wait_until(lambda: not consumer_lag(lossy.bootstrap), "the redriven letter is read")
    lossy.end({payment_id: "completed"})
    assert Counter(lossy.events(payment_id))["PaymentProcessed"] == 1


def test_an_original_that_comes_back_after_it_was_made_again_is_one_event(lossy: Lossy):
    """As from a backup of its topic: nothing was known of it any more when it was rebuilt."""
    payment_id = lossy.client.request(lossy.open_account(), "100.00").payment_id
    lossy.end({payment_id: "completed"})
    mine = str(payment_id).encode()
    records = [one for one in scan(lossy.bootstrap, [PAYMENT_EVENTS.name]) if mine in one.value()]
    ((original, stored),) = [(one, dict(one.headers())) for one in records]
    again = str(made_again_id(payment_id, "PaymentProcessed"))
    assert again != stored["id"].decode()
    key = original.key().decode()
    lossy.send(PAYMENT_EVENTS.name, original.value(), key, id=again, eventType="PaymentProcessed")
    wait_until(lambda: Counter(lossy.events(payment_id))["PaymentProcessed"] == 2, "both are stored")
    lossy.end({payment_id: "completed"})


def test_what_is_still_in_an_outbox_is_not_put_there_again(lossy: Lossy):
    """The relay is away: what was done waits in the outbox, and a nudge finds it there."""
    lossy.stack.stop_service("relay")
    try:
        payment_id = lossy.client.request(lossy.open_account(), "100.00").payment_id
        mine = f"SELECT count(*) FROM outbox WHERE payload::text LIKE '%{payment_id}%'"
        told = wait_until(lambda: lossy.query("account", mine)[0][0], "the account service has said something")
        wait_until(lambda: lossy.events(payment_id), "the saga knows of it")
        done = lossy.told("nudge", str(payment_id))
        assert (done.returncode, done.stderr) == (0, "")
        assert lossy.query("account", mine)[0][0] == told
        unread = "BalanceChecked in the account outbox: no relay reads it"
        wait_until(
            lambda: lossy.waits(payment_id).startswith(unread), "the server has noticed that the relay is gone"
        )
        account = lossy.open_account()
        request = ("request", "--account", account, "--amount", "100.05")
        other = UUID(lossy.cli(*request).stdout.split()[2])
        theirs = f"SELECT count(*) FROM outbox WHERE payload::text LIKE '%{other}%'"
        wait_until(lambda: lossy.query("account", theirs)[0][0], "the account service has answered that one too")
        wait_until(lambda: lossy.events(other), "the saga knows of it")
        followed = lossy.told(*request, "--payment-id", str(other), "--wait", "--timeout", "1")
        for command in (followed, lossy.told("cancel", str(other), "--timeout", "0")):
            assert command.returncode == 1
            assert f"waits for {unread}" in command.stderr
    finally:
        lossy.stack.start_service("relay")
    lossy.end({payment_id: "completed", other: "compensated"})


def test_a_withdrawal_says_what_holds_it_up_beside_its_outboxes(lossy: Lossy):
    """A service that does not run, and a message that it refused."""
    lossy.stack.stop_service("payment")
    payment_id = lossy.client.request(lossy.open_account(), "100.00").payment_id
    wait_until(lambda: lossy.events(payment_id)[-1:] == ["MoneyDeducted"], "the money is taken")
    idle = "the payment service, which does not run"
    wait_until(lambda: lossy.waits(payment_id).startswith(idle), "its consumer group is empty")
    mine, its_type = str(payment_id).encode(), ("eventType", b"MoneyDeducted")
    event = lossy.find(ACCOUNT_EVENTS.name, lambda one: mine in one.value() and its_type in one.headers())
    lossy.lose(ACCOUNT_EVENTS)
    lossy.send(ACCOUNT_EVENTS.name, event.value(), event.key().decode(), id="none", eventType="MoneyDeducted")
    unknown = UUID(int=7)
    body = event.value().replace(str(payment_id).encode(), str(unknown).encode())
    lossy.send(WITHDRAWAL_REQUESTS.name, body, "acc", id="none", eventType="WithdrawalRequested")
    lossy.stack.start_service("payment")
    refused = "MoneyDeducted, a dead letter: the payment service refused it"
    wait_until(lambda: lossy.waits(payment_id).startswith(refused), "its message is refused")
    refused = "WithdrawalRequested, a dead letter: the account and saga services refused it"
    wait_until(lambda: refused in lossy.cli("status", str(unknown)).stderr, "a request that is refused is found")
    assert refused in lossy.told("cancel", str(unknown)).stderr
    assert refused in lossy.told("nudge", str(unknown)).stderr
    listed = json.loads(lossy.told("stuck", "--older-than", "0", "--json").stdout)
    assert [one["held_up_by"].startswith(refused) for one in listed if one["payment_id"] == str(unknown)] == [True]
    assert "(refused by account 1, payment 1, saga " in lossy.cli("audit", "--wait", "0").stdout
    discarded = lossy.cli("dead-letters", "discard", str(payment_id), str(unknown), "--yes")
    assert discarded.returncode == 0, discarded.stderr
    assert lossy.waits(payment_id) == "nothing"
    assert lossy.told("nudge", str(payment_id)).returncode == 0
    lossy.end({payment_id: "completed"})
