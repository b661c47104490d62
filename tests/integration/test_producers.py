"""A withdrawal arrives on the topic as promised, and a producer's word on it is true. On real Kafka."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition

import tracing
from contracts import events, headers
from contracts.topics import WITHDRAWAL_REQUESTS, Topic
from producers.client import Receipt, WithdrawalClient
from producers.errors import NotDeliveredError
from producers.load import run_load
from producers.plan import LoadPlan, plan_load
from producers.publish import Outgoing, publish
from producers.requests import new_request
from tests.conftest import WAIT_S, wait_until

TOPIC = WITHDRAWAL_REQUESTS.name
DEADLINE_S = 2 * WAIT_S
PATIENTLY = f"--wait --timeout {WAIT_S:g}"


@pytest.fixture(autouse=True)
def untraced(monkeypatch):
    """The shared stack traces everything; thousands of these withdrawals need no spans."""
    monkeypatch.setattr(tracing.setup, "_ratio", 0.0)


@pytest.fixture
def bootstrap(settle):
    return settle.bootstrap


@pytest.fixture
def client(bootstrap):
    with WithdrawalClient(bootstrap, delivery_timeout_s=WAIT_S) as client:
        yield client


@pytest.fixture
def command(settle):
    """Runs ``settle`` in a process of its own, which knows nothing but the data folder."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SETTLE_", "OTEL_"))}
    variables |= {"SETTLE_DATA": str(settle.stack.data), "COLUMNS": "80"}

    def start(arguments, run=("-m", "cli"), **changed):
        return subprocess.Popen(
            [sys.executable, *run, *arguments.split()],
            env=variables | changed,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def outcome_of(process):
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    return process.returncode, stdout, stderr


def test_a_new_client_sends_its_first_request_without_a_pause(bootstrap):
    def first():
        with WithdrawalClient(bootstrap) as cold:
            return cold.request("acc-1", "1.00", payment_id=uuid4()).latency_s

    # Left alone, librdkafka asks for its producer ID after half a second, each time.
    assert any(first() < 0.4 for _ in range(30))


def test_topics_are_made_sure_of_without_a_word_on_standard_error(command):
    code, stdout, stderr = outcome_of(command("topics"))

    assert (code, stderr) == (0, "")
    assert f"{TOPIC}: is there" in stdout


def record_at(bootstrap, partition, offset):
    return records_from(bootstrap, {partition: offset}, 1)[0]


def records_from(bootstrap, offsets, count):
    """The next so many records from the offsets, each given by partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": str(uuid4()), "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(TOPIC, partition, offset) for partition, offset in offsets.items()])
        found, deadline = [], time.monotonic() + DEADLINE_S
        while len(found) < count and time.monotonic() < deadline:
            found.extend(record for record in consumer.consume(count - len(found), 0.2) if not record.error())
        return found
    finally:
        consumer.close()


def ends(bootstrap):
    """Where each partition of the topic ends now."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": str(uuid4())})
    try:
        partitions = consumer.list_topics(TOPIC, DEADLINE_S).topics[TOPIC].partitions
        return {
            number: consumer.get_watermark_offsets(TopicPartition(TOPIC, number), DEADLINE_S)[1]
            for number in partitions
        }
    finally:
        consumer.close()


def test_a_receipt_says_where_the_request_stands_and_the_record_is_what_contracts_promise(client, bootstrap):
    payment_id = uuid4()

    receipt = client.request("acc-producer", "12.34", currency="eur", payment_id=payment_id)

    record = record_at(bootstrap, receipt.partition, receipt.offset)
    request = events.decode("WithdrawalRequested", record.value())
    assert record.key() == b"acc-producer"
    assert (request.payment_id, request.account_id) == (payment_id, "acc-producer")
    assert (request.amount_minor, request.currency) == (1234, "EUR")
    assert [name for name, _ in record.headers()] == ["id", "eventType", "traceparent"]
    assert headers.text(record.headers(), "id") == events.request_id(request)
    assert headers.text(record.headers(), "eventType") == "WithdrawalRequested"
    assert headers.text(record.headers(), "traceparent").startswith(f"00-{receipt.trace_id}-")
    assert headers.text(record.headers(), "traceparent").endswith("-00")
    assert receipt.topic == "withdrawal.requests"
    assert receipt.latency_s > 0


def test_a_request_that_is_repeated_is_the_same_message(client, bootstrap):
    payment_id = uuid4()
    receipts = [client.request("acc-producer", "5", payment_id=payment_id) for _ in range(2)]

    records = [record_at(bootstrap, receipt.partition, receipt.offset) for receipt in receipts]

    assert receipts[0].partition == receipts[1].partition
    assert len({headers.text(record.headers(), "id") for record in records}) == 1


def test_a_sampled_request_begins_its_trace_and_the_message_continues_it(settle, client, monkeypatch):
    monkeypatch.setattr(tracing.setup, "_ratio", 1.0)

    receipt = client.request("acc-producer", "5")

    found = settle.collector.trace
    wait_until(
        lambda: {"withdraw-money", "send withdrawal.requests"} <= {span.name for span in found(receipt.trace_id)},
        "both spans are exported",
    )
    spans = {span.name: span for span in found(receipt.trace_id)}
    record = record_at(settle.bootstrap, receipt.partition, receipt.offset)
    root, send = spans["withdraw-money"], spans["send withdrawal.requests"]
    assert (root.service, root.kind, root.parent_id) == ("settle-producer", "INTERNAL", None)
    assert root.attributes["settle.payment_id"] == str(receipt.payment_id)
    assert root.attributes["settle.amount_minor"] == 500
    assert (send.service, send.kind, send.parent_id) == ("settle-producer", "PRODUCER", root.span_id)
    host, _, port = settle.bootstrap.rpartition(":")
    assert send.attributes == {
        "server.address": host,
        "server.port": int(port),
        "messaging.client.id": "settle-producer",
        "messaging.system": "kafka",
        "messaging.operation.type": "send",
        "messaging.operation.name": "send",
        "messaging.destination.name": "withdrawal.requests",
        "messaging.destination.partition.id": str(receipt.partition),
        "messaging.kafka.offset": receipt.offset,
        "messaging.kafka.message.key": "acc-producer",
        "messaging.message.id": headers.text(record.headers(), "id"),
        "settle.payment_id": str(receipt.payment_id),
        "settle.event_type": "WithdrawalRequested",
    }
    assert root.end_ns >= send.end_ns
    version, trace_id, span_id, flags = headers.text(record.headers(), "traceparent").split("-")
    assert (version, trace_id, span_id) == ("00", receipt.trace_id, send.span_id)
    assert int(flags, 16) & 1  # sampled


def test_a_topic_that_is_missing_is_named_as_the_reason_within_seconds(bootstrap, monkeypatch):
    monkeypatch.setattr("producers.client.WITHDRAWAL_REQUESTS", Topic("no.such.topic"))
    told = r"no\.such\.topic: Broker: Unknown topic or partition \(`settle topics` creates"
    began = time.monotonic()
    with (
        WithdrawalClient(bootstrap, delivery_timeout_s=60) as client,
        pytest.raises(NotDeliveredError, match=told),
    ):
        client.request("acc-producer", "5")
    with pytest.raises(NotDeliveredError, match=told):
        publish(bootstrap, [Outgoing("no.such.topic", "key", "None", b"{}", [])], 60)
    assert time.monotonic() - began < 50


def test_requests_of_an_account_keep_their_order(client, bootstrap):
    before, receipts = ends(bootstrap), []
    requests = [new_request(f"acc-order-{number % 7}", amount_minor=1 + number) for number in range(700)]
    for request in requests:
        client.send(request, receipts.append)
    client.flush()

    assert all(isinstance(receipt, Receipt) for receipt in receipts)
    by_account = {}
    for record in records_from(bootstrap, before, 700):
        request = events.decode("WithdrawalRequested", record.value())
        by_account.setdefault(request.account_id, []).append(request.amount_minor)
    assert len(by_account) == 7
    assert all(amounts == sorted(amounts) and len(amounts) == 100 for amounts in by_account.values())


def test_a_load_delivers_every_message_and_counts_them(client, bootstrap):
    before = ends(bootstrap)
    plan = LoadPlan(3_000, accounts=20, duplicates=0.1, declined=0.1)

    report = run_load(client, plan_load(plan))

    assert (report.sent, report.delivered, report.failed, report.repeats) == (3_300, 3_300, 0, 300)
    assert sum(ends(bootstrap).values()) - sum(before.values()) == 3_300
    payments = [json.loads(record.value())["payment_id"] for record in records_from(bootstrap, before, 3_300)]
    assert (len(payments), len(set(payments))) == (3_300, 3_000)
    assert 0 < report.latencies.percentile(0.5) <= report.latencies.percentile(0.99)


def test_a_rate_is_kept(client):
    report = run_load(client, plan_load(LoadPlan(500)), rate=1_000)

    # The 500th message is due 0.499 s after the first; how late it may be is up to the machine.
    assert 0.499 <= report.elapsed_s < 10
    assert report.delivered == 500


def test_a_load_that_is_stopped_sends_no_more_and_awaits_what_was_sent(client):
    stop, told = threading.Event(), []

    def stop_soon(report):
        if report.sent:  # none yet, where it took a moment to begin
            told.append(report.sent)
            stop.set()

    report = run_load(client, plan_load(LoadPlan(100_000)), rate=1_000, stop=stop, on_progress=stop_soon)

    assert 0 < told[0] <= report.sent == report.delivered < 100_000


def test_a_request_from_the_terminal_prints_payment_and_trace(command, bootstrap):
    code, stdout, stderr = outcome_of(command("request --account acc-cli --amount 1.00 --json"))

    assert (code, stderr) == (0, "")
    printed = json.loads(stdout)
    record = record_at(bootstrap, printed["partition"], printed["offset"])
    assert json.loads(record.value())["payment_id"] == printed["payment_id"]
    assert printed["trace_id"] in headers.text(record.headers(), "traceparent")

    code, stdout, stderr = outcome_of(command(f"request --account acc-cli --amount 1 --payment-id {UUID(int=5)}"))

    assert (code, stderr) == (0, "")
    assert stdout.splitlines()[0] == f"payment ID  {UUID(int=5)}"
    assert stdout.splitlines()[1].startswith("trace ID    ")


def test_a_request_that_is_waited_for_is_followed_to_its_end(command):
    code, stdout, stderr = outcome_of(command(f"request --account nobody --amount 1.00 {PATIENTLY}"))

    assert (code, stderr) == (0, "")
    lines = stdout.splitlines()
    assert [line.split()[-1] for line in lines[2:4]] == ["WithdrawalRequested", "WithdrawalRejected"]
    assert lines[-1] == "rejected: unknown_account (by WithdrawalRejected)"


def test_the_end_of_a_withdrawal_is_json_for_programs(command):
    code, stdout, _ = outcome_of(command(f"request --account nobody --amount 1.00 {PATIENTLY} --json"))

    status = json.loads(stdout)
    assert (code, status["state"], status["finished"]) == (0, "rejected", True)
    assert (status["finished_by"], status["reason"]) == ("WithdrawalRejected", "unknown_account")
    assert [step["event"] for step in status["steps"]][:2] == ["WithdrawalRequested", "WithdrawalRejected"]


def test_a_payment_id_that_belongs_to_another_withdrawal_is_an_error(command):
    payment_id = uuid4()
    outcome_of(command(f"request --account nobody --amount 1.00 {PATIENTLY} --payment-id {payment_id}"))

    process = command(f"request --account nobody --amount 2.00 {PATIENTLY} --payment-id {payment_id}")
    code, _, stderr = outcome_of(process)

    earlier = "belongs to another withdrawal: 1.00 USD from nobody"
    assert (code, stderr) == (1, f"settle: payment ID {payment_id} {earlier}\n")


def test_a_request_that_does_not_finish_in_time_says_what_it_waits_for(command, settle):
    quiet = settle.new_database("saga", "saga_that_hears_nothing")
    # What other tests have sent before it counts for nothing.
    run = ("-c", "import operations.hold_ups as h; h.BEHIND_RECORDS = 10**9; from cli import start; start()")

    variables = {**settle.stack.environment(), "SETTLE_SAGA_DSN": quiet}
    process = command("request --account nobody --amount 1.00 --wait --timeout 0.5", run, **variables)
    code, stdout, stderr = outcome_of(process)

    payment_id = stdout.splitlines()[0].split()[-1]
    waits_for = "is not finished after 0.5 s; it waits for the saga service to receive its request"
    assert (code, stderr) == (1, f"settle: withdrawal {payment_id} {waits_for}\n")


def test_a_load_from_the_terminal_ends_with_a_table(command, bootstrap):
    before = ends(bootstrap)
    load = "load --count 200 --accounts 5 --duplicates 0.1 --currency kwd"
    code, stdout, stderr = outcome_of(command(load))

    assert (code, stderr) == (0, "")
    table = dict(line.rsplit("  ", 1) for line in stdout.splitlines() if "  " in line.strip())
    table = {name.strip(): value.strip() for name, value in table.items()}
    assert (table["sent"], table["of these again"]) == ("220", "20")
    assert (table["delivered"], table["failed"]) == ("220", "0")
    assert {json.loads(record.value())["currency"] for record in records_from(bootstrap, before, 220)} == {"KWD"}


def test_ctrl_c_ends_a_load_with_its_table_and_exit_code_130(command):
    process = command("load --count 100000 --rate 200")
    first_line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    code, stdout, stderr = outcome_of(process)

    assert "of 100,000 delivered" in first_line
    assert (code, stderr) == (130, "")
    assert "failed" in stdout
