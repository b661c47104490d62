"""Whoever missed what Kafka deleted says so until a person has seen to it; offsets without records are no loss."""

import asyncio
import json
import subprocess
import sys
from uuid import UUID, uuid4

import psutil
import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from broker.offsets import Offsets
from contracts.events import encode
from contracts.services import TOPICS
from contracts.topics import WITHDRAWAL_REQUESTS
from operations.audit.run import run
from operations.lag import consumer_lag, deleted_unread
from processors.runtime.database import Database
from processors.runtime.gaps import Gap, write
from stack.state import environment
from tests.conftest import WAIT_S, Settle, wait_until
from tests.integration.test_faults import not_ready
from tests.integration.test_metrics import samples
from tests.integration.test_withdrawals import request

REQUESTS = WITHDRAWAL_REQUESTS.name


TAKEN_ALONG_MAX = 5


def delete_all_records(settle: Settle, *topics: str) -> None:
    admin = AdminClient(settle.kafka())
    ends = [TopicPartition(*place, end) for place, end in Offsets(settle.bootstrap).end(topics).items()]
    for future in admin.delete_records(ends).values():
        future.result(WAIT_S)


def send(settle: Settle, account: str, message_id: str, commit: bool = True, **config: object) -> UUID:
    """A request from a foreign producer, in a transaction, which is aborted or committed."""
    one = request(account)
    producer = Producer(
        {
            **settle.kafka(),
            "partitioner": "murmur2_random",
            "transactional.id": f"test-{uuid4()}",
            **config,
        }
    )
    producer.init_transactions()
    producer.begin_transaction()
    headers = [("id", message_id.encode()), ("eventType", b"WithdrawalRequested")]
    producer.produce(REQUESTS, encode(one), account, headers=headers)
    producer.flush(WAIT_S)
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()
    return one.payment_id


def said(settle: Settle, wait_s: float = WAIT_S) -> dict[str, str]:
    """What the audit says is off, by check."""
    audit = run(settle.dsns, settle.bootstrap, wait_s)
    return {check.name: check.detail for check in audit.checks if not check.ok}


def said_of(settle: Settle, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "gaps", *arguments],
        env={**environment(settle.stack.state), "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def gaps(settle: Settle, *arguments: str) -> str:
    result = said_of(settle, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def gauge(settle: Settle, service: str) -> float | None:
    """How many gaps of requests a service says that nobody has acknowledged."""
    found = samples(settle, service).get(("settle_gaps_unacknowledged", REQUESTS))
    return found.value if found is not None else None  # counted every few seconds


@pytest.fixture(scope="module")
def all_is_well(settle: Settle) -> None:
    """Much that looks odd, and nothing that is lost."""
    account = settle.open_account()
    settle.send(REQUESTS, b"junk", account, id=str(uuid4()), eventType="WithdrawalRequested")
    settle.send(REQUESTS, b"", account, id=str(uuid4()), eventType="SomebodyElses")
    tombstone = Producer({**settle.kafka(), "partitioner": "murmur2_random"})
    tombstone.produce(REQUESTS, None, account, headers={"id": str(uuid4()), "eventType": "WithdrawalRequested"})
    tombstone.flush(WAIT_S)
    # Last, so that what ends each partition is the end of a transaction.
    sent = [
        send(settle, account, str(uuid4())),
        send(settle, account, str(uuid4()).upper(), **{"compression.type": "gzip"}),
        send(settle, account, uuid4().hex, **{"compression.type": "zstd"}),
    ]
    never = send(settle, account, str(uuid4()), commit=False)
    for payment_id in sent:
        assert settle.finished(payment_id).state == "completed"
    assert settle.status(never) is None


def test_the_audit_holds_where_all_is_well_and_offsets_are_no_records(settle: Settle, all_is_well):
    wait_until(lambda: not consumer_lag(settle.bootstrap), "the end of a transaction is confirmed, too")
    settle.audit()


def test_the_audit_holds_beside_slots_of_others(settle: Settle, all_is_well):
    with psycopg.connect(settle.dsns["account"], autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('somebody_elses', 'pgoutput')")
        connection.execute("SELECT pg_create_physical_replication_slot('somebody_elses_replica', true)")
        try:
            settle.open_account()
            settle.audit()
        finally:
            connection.execute(
                "SELECT pg_drop_replication_slot(name) "
                "FROM unnest(ARRAY['somebody_elses', 'somebody_elses_replica']) AS name"
            )


def test_a_slot_of_ours_that_nobody_reads_is_no_proof(settle: Settle):
    """It is the one that is behind which counts where there is no other: somebody else's may be at the end."""
    relay = psutil.Process(settle.stack.pid("relay"))
    relay.suspend()
    try:
        settle.open_account()
        with psycopg.connect(settle.dsns["account"], autocommit=True) as connection:
            connection.execute("SELECT pg_create_logical_replication_slot('somebody_elses', 'pgoutput')")
            try:
                off = said(settle, 0.0)
            finally:
                connection.execute("SELECT pg_drop_replication_slot('somebody_elses')")
        assert "account: slot settle_outbox_account is" in off["published"]
        assert "somebody_elses" not in off["published"]
    finally:
        relay.resume()


def test_the_audit_holds_when_retention_has_dropped_what_was_read(settle: Settle, all_is_well):
    settle.audit()
    delete_all_records(settle, *(topic.name for topic in TOPICS))
    settle.audit()
    assert deleted_unread(settle.bootstrap) == []
    settle.stack.kill("account")  # whoever begins again finds its offsets at the beginning of what is there
    payment_id = settle.client.request(settle.open_account(), "1.00").payment_id
    assert settle.finished(payment_id).state == "completed"
    settle.audit()
    assert settle.query("account", "SELECT * FROM gaps") == []


def test_requests_that_were_deleted_unread_are_missed_until_a_person_has_seen_to_it(settle: Settle):
    """One service dies meanwhile, the other one only stands still: it is told by a fetch that is out of range."""
    account = settle.open_account()
    settle.audit()
    dies, stands = (psutil.Process(settle.stack.pid(name)) for name in ("account", "saga"))
    for process in (dies, stands):
        process.suspend()
    # The answer to a fetch that was under way may take some of these along, but none of the requests.
    partition, first = settle.send(REQUESTS, b"", account, id=str(uuid4()), eventType="SomebodyElses")
    for _ in range(TAKEN_ALONG_MAX - 1):
        settle.send(REQUESTS, b"", account, id=str(uuid4()), eventType="SomebodyElses")
    for _ in range(3):
        settle.send_request(request(account))
    delete_all_records(settle, REQUESTS)
    until = first + TAKEN_ALONG_MAX + 3
    assert {(service, gap.first, gap.until) for service, gap in deleted_unread(settle.bootstrap)} == {
        ("account", first, until),
        ("saga", first, until),
    }
    assert (
        f"account: {until - first} offsets from {REQUESTS}/{partition}@{first} on were deleted unread"
        in (said(settle, 0.0)["gaps"])
    )
    dies.kill()
    stands.resume()
    # Also where nothing else comes in on that partition.
    wait_until(lambda: not deleted_unread(settle.bootstrap), "both have noticed")
    payment_id = settle.client.request(account, "1.00").payment_id
    assert settle.finished(payment_id).state == "completed"

    off = said(settle)

    assert set(off) == {"gaps"}
    missed = 'SELECT topic, "partition", first, until FROM gaps'
    assert settle.query("account", missed) == [(REQUESTS, partition, first, until)]
    ((_, _, since, _),) = found = settle.query("saga", missed)
    assert found == [(REQUESTS, partition, since, until)]
    assert first <= since <= first + TAKEN_ALONG_MAX
    assert (
        f"account: {until - first} offsets from {REQUESTS}/{partition}@{first} on were deleted unread"
        in off["gaps"]
    )
    assert f"saga: {until - since} offsets from {REQUESTS}/{partition}@{since} on were deleted" in off["gaps"]
    assert f"{REQUESTS}/{partition}@{first} to {until - 1}" in gaps(settle, "list")
    for service in ("account", "saga"):
        wait_until(lambda service=service: gauge(settle, service) == 1, f"{service} counts it")

    unasked = said_of(settle, "acknowledge", "--note", "of those that are shown")
    assert (unasked.returncode, unasked.stderr) == (
        2,
        "settle: to acknowledge 2 gaps without a terminal to ask at, pass --yes\n",
    )
    assert f"{REQUESTS}/{partition}@{first} to {until - 1}" in unasked.stdout
    assert {noted["acknowledged_at"] for noted in json.loads(gaps(settle, "list", "--json"))} == {None}
    done = gaps(settle, "acknowledge", "--yes", "--note", "asked [bold]the\x1bbank")
    assert done == "2 gaps acknowledged\n"

    settle.audit()
    for service in ("account", "saga"):
        wait_until(lambda service=service: gauge(settle, service) == 0, f"{service} counts none any more")
    assert {noted["note"] for noted in json.loads(gaps(settle, "list", "--json"))} == {"asked [bold]the\x1bbank"}
    assert "asked [bold]the\\x1bbank" in " ".join(gaps(settle, "list").split())
    assert gaps(settle, "acknowledge", "--yes", "--note", "again") == "0 gaps acknowledged\n"


def test_what_cannot_be_noted_is_not_confirmed(settle: Settle):
    """A gap is written down before the offsets behind it are confirmed; until it can be, the service waits."""
    account = settle.open_account()
    settle.audit()
    noted = settle.query("account", "SELECT count(*) FROM gaps")[0][0]
    process = psutil.Process(settle.stack.pid("account"))
    process.suspend()
    settle.execute("account", "ALTER TABLE gaps RENAME TO gaps_aside")
    try:
        for _ in range(3):  # of a fetch that was under way the first may be the answer
            settle.send(REQUESTS, b"", account, id=str(uuid4()), eventType="SomebodyElses")
        delete_all_records(settle, REQUESTS)
        process.resume()
        payment_id = settle.client.request(account, "1.00").payment_id
        log = settle.stack.data / "logs" / "account.log"
        wait_until(lambda: "what was deleted unread is not noted yet" in log.read_text(), "it says so")
        cannot = 'it cannot note what was deleted unread: relation "gaps" does not exist'
        wait_until(lambda: cannot in (not_ready(settle, "account") or ""), "it is not ready")
        assert settle.query("account", "SELECT FROM saga_log WHERE payment_id = %s", payment_id) == []
        # The saga service has read them, or has noted that it could not.
        wait_until(
            lambda: {service for service, _ in deleted_unread(settle.bootstrap)} == {"account"}, "it alone waits"
        )
    finally:
        settle.execute("account", "ALTER TABLE gaps_aside RENAME TO gaps")
    assert settle.finished(payment_id).state == "completed"
    assert settle.query("account", "SELECT count(*) FROM gaps")[0][0] == noted + 1
    wait_until(lambda: not_ready(settle, "account") is None, "it is ready again")
    gaps(settle, "acknowledge", "--yes", "--note", "planted")
    settle.audit()


def test_a_gap_that_has_grown_since_it_was_acknowledged_is_another(settle: Settle):
    """It is noted again where a service dies before it has committed the offsets behind it."""
    first = 1_000_000_000

    def note(count: int) -> None:
        async def in_transaction() -> None:
            database = Database(settle.dsns["account"], "test")
            try:
                async with database.transaction() as connection:
                    await write(connection, [Gap(REQUESTS, 0, first, first + count)])
            finally:
                await database.close()

        asyncio.run(in_transaction())

    note(3)
    assert gaps(settle, "acknowledge", "--yes", "--note", "three are resent") == "1 gap acknowledged\n"
    note(3)
    settle.audit()
    note(5)
    assert f"account: 5 offsets from {REQUESTS}/0@{first} on were deleted unread" in said(settle, 0.0)["gaps"]
    assert gaps(settle, "acknowledge", "--yes", "--note", "all are resent") == "1 gap acknowledged\n"
    note(4)
    settle.audit()
    assert settle.query("account", "SELECT until, note FROM gaps WHERE first = %s", first) == [
        (first + 5, "all are resent")
    ]
