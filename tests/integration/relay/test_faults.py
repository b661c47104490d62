"""The relay keeps its place, whatever happens to it, to Kafka or to the database."""

import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psycopg
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from broker import lifeline
from broker.clients import idempotent_producer
from broker.provision import existing_topics
from cli.main import app
from outbox_relay import published, publisher
from outbox_relay.slot import lacks_failover
from outbox_relay.status import outbox_status
from stack import ports
from tests.integration.relay.outbox import (
    CREATE_OUTBOX,
    DEADLINE_S,
    ROOT,
    Outbox,
    answer,
    metric,
    relay_process,
    relaying,
    wait_until,
    writing,
)

KILLS = 20
# Of something that is to be done within a time.
TRIES = 5


def end_in_mid_load(outbox, number, **environment):
    """Start a relay, and end it by a signal at some moment of its work; its exit code."""
    with outbox.consumer() as topic, relay_process(outbox, **environment) as relay:
        before = outbox.length(topic)
        wait_until(lambda: outbox.length(topic) > before, "the relay is at work")
        time.sleep(random.random() / 4)
        relay.send_signal(number)
        return relay.wait(DEADLINE_S)


def test_killed_twenty_times_under_load_each_row_is_published_once_and_in_order(outbox):
    with relaying(outbox):
        outbox.wait_confirmed()  # there is a slot, from which each of them reads
    with writing(outbox):
        for _ in range(KILLS):
            assert end_in_mid_load(outbox, signal.SIGKILL) == -signal.SIGKILL
    with relaying(outbox):
        outbox.wait_confirmed()
    assert outbox.assert_exactly_once_in_order() > KILLS * 20


def test_a_polling_relay_killed_under_load_publishes_each_row_once_and_in_order(outbox):
    polling = {"SETTLE_RELAY_READER": "polling", "SETTLE_RELAY_POLL_INTERVAL_S": "0.02"}
    with writing(outbox):
        for _ in range(4):
            assert end_in_mid_load(outbox, signal.SIGKILL, **polling) == -signal.SIGKILL
    with relaying(outbox, reader="polling"):
        outbox.wait_published(outbox.written())
    outbox.assert_exactly_once_in_order()


def test_a_relay_stopped_under_load_repeats_nothing(outbox):
    with writing(outbox):
        for _ in range(3):
            assert end_in_mid_load(outbox, signal.SIGTERM) == 0
    with relaying(outbox):
        outbox.wait_confirmed()
    outbox.assert_exactly_once_in_order()


def test_a_relay_killed_while_it_makes_the_slot_leaves_none_and_the_next_one_publishes_all_once(outbox):
    outbox.insert_many(60_000)
    held = outbox.insert(to=f"missing_{outbox.name}")  # the last one: while its topic is missing, no slot is made
    try:
        with psycopg.connect(outbox.dsn) as transaction, relay_process(outbox) as relay:
            # The slot waits for a transaction that runs; with Kafka away from the start there would be none.
            transaction.execute("SELECT pg_current_xact_id()")
            slots = "SELECT temporary FROM pg_replication_slots WHERE database = %s"
            wait_until(lambda: outbox.connection.execute(slots, (outbox.name,)).fetchall(), "a slot in the making")
            outbox.stack.stop_service("kafka")
            transaction.commit()
            assert (False,) not in outbox.connection.execute(slots, (outbox.name,)).fetchall()
            outbox.stack.start_service("kafka")
            outbox.stack.wait_ready("kafka")
            with outbox.consumer() as topic:
                wait_until(lambda: outbox.length(topic) > 0, "some rows are published")
            relay.kill()
        wait_until(lambda: not outbox.connection.execute(slots, (outbox.name,)).fetchall(), "no slot is left")
    finally:
        outbox.stack.start_service("kafka")
        outbox.stack.wait_ready("kafka")
    for table in ("outbox", "written"):
        outbox.connection.execute(f"DELETE FROM {table} WHERE id = %s", (held,))
    with relaying(outbox):
        outbox.wait_published(outbox.written())
    outbox.assert_exactly_once_in_order()


def test_a_producer_that_is_cut_off_is_replaced_and_each_row_is_published_once(outbox, monkeypatch):
    addresses = [f"127.0.0.1:{ports.choose(taken=set())}"]
    monkeypatch.setattr(lifeline, "ASK_EVERY_S", 0.1)
    monkeypatch.setattr(publisher, "ACKNOWLEDGED_LATE_S", 0.5)
    monkeypatch.setattr(publisher, "KAFKA_PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr(
        publisher,
        "idempotent_producer",
        lambda _, *rest, **named: idempotent_producer(
            addresses.pop() if addresses else outbox.bootstrap, *rest, **named
        ),
    )
    outbox.insert_many(100)
    with relaying(outbox):
        outbox.wait_published(outbox.written())
        outbox.wait_confirmed()
    outbox.assert_exactly_once_in_order()


def test_a_transaction_that_takes_long_is_not_taken_for_kafka_that_acknowledges_nothing(outbox, monkeypatch):
    monkeypatch.setattr(publisher, "ACKNOWLEDGED_LATE_S", 1.0)
    acknowledged = set()  # rows, whenever Kafka was asked; always as many while it does stand still

    def asked(one):
        acknowledged.add(one._handed - one.waiting)

    monkeypatch.setattr(publisher.Publisher, "_probe", asked)
    outbox.insert_many(200_000)  # all of it is one transaction, and acknowledged at its end
    with relaying(outbox):
        wait_until(lambda: outbox.one("SELECT count(*) FROM outbox") == 0, "published rows are removed")
    assert len(acknowledged) < 5


def test_a_relay_whose_log_nobody_reads_publishes_and_ends_on_a_signal(outbox):
    reader, writer = os.pipe()
    os.close(reader)
    with relay_process(outbox, stderr=writer) as relay:
        os.close(writer)
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(DEADLINE_S) == 0


def test_a_lost_slot_is_made_anew_and_each_row_is_published_once(outbox):
    with relaying(outbox):
        outbox.wait_published([outbox.insert() for _ in range(200)])
        outbox.wait_confirmed()
    outbox.insert_many(10_000)
    outbox.drop_slot()
    with relaying(outbox):
        outbox.wait_published(outbox.written())
        outbox.wait_published([outbox.insert()])
    outbox.assert_exactly_once_in_order()


def test_a_slot_that_was_lost_with_rows_on_the_way_repeats_none_of_those_on_the_topic(outbox):
    """Published, but still in the table when the slot is lost: the topic itself tells which."""
    with relaying(outbox, cleanup=False):
        outbox.insert_many(5_000)
        outbox.wait_published(outbox.written())
        outbox.wait_confirmed()
    outbox.insert_many(100)
    outbox.drop_slot()
    with relaying(outbox):
        outbox.wait_published(outbox.written())
    outbox.assert_exactly_once_in_order()


def test_the_clock_of_a_relay_that_is_minutes_behind_the_databases_doubles_nothing(outbox, monkeypatch):
    behind_s = 600
    now_ms = int((time.time() - behind_s) * 1_000)
    monkeypatch.setattr(publisher, "NOW", now_ms)  # the time of its records
    clock = SimpleNamespace(time=lambda: time.time() - behind_s, monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr(published, "time", clock)
    with capture_logs() as said:
        with relaying(outbox, cleanup=False):
            outbox.wait_published([outbox.insert() for _ in range(100)])
            outbox.wait_confirmed()
        assert {record.timestamp()[1] for record in outbox.records()} == {now_ms}
        outbox.drop_slot()
        with relaying(outbox, cleanup=False):
            outbox.wait_published([outbox.insert()])
    outbox.assert_exactly_once_in_order()
    lines = [line["seconds"] for line in said if "behind the database's" in line["event"]]
    assert len(lines) == 2, "once for each relay"
    assert all(behind_s - 30 < seconds < behind_s + 30 for seconds in lines)


def test_a_slot_that_the_server_invalidated_is_made_anew(outbox):
    with relaying(outbox):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    outbox.insert_many(1_000)
    with outbox.server_setting("max_slot_wal_keep_size", "1MB"):
        status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"
        outbox.connection.execute("CREATE TABLE noise (x text)")

        def is_lost():
            outbox.connection.execute("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
            outbox.connection.execute("SELECT pg_switch_wal()")
            outbox.connection.execute("CHECKPOINT")
            return outbox.one(status, outbox.slot) == "lost"

        wait_until(is_lost, "the server invalidates the slot")
        with relaying(outbox):
            outbox.wait_published(outbox.written())
            outbox.wait_published([outbox.insert()])
    outbox.assert_exactly_once_in_order()


def test_while_a_new_slot_waits_for_a_transaction_the_relay_says_so(outbox):
    port = ports.choose(taken=set())
    with psycopg.connect(outbox.dsn) as early:
        first = outbox.insert(connection=early)
        with relaying(outbox, http_port=port):
            try:
                said = "waits for transactions that are running"
                wait_until(lambda: said in answer(port, "/readyz")[1], "it is told")
            finally:
                early.commit()
            outbox.wait_published([first])
            wait_until(lambda: answer(port, "/readyz")[0] == 200, "the relay reads")


FAILOVER = "SELECT failover FROM pg_replication_slots WHERE slot_name = %s"


def test_a_relay_killed_while_its_slot_waits_for_a_transaction_keeps_no_other_from_the_outbox(outbox):
    """Its backend waits for a lock, and is to notice all the same that nobody is there any more."""
    making = """
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'CREATE_REPLICATION_SLOT%' AND wait_event_type = 'Lock'
    """
    with psycopg.connect(outbox.dsn) as early:
        row_id = outbox.insert(connection=early)
        with relay_process(outbox) as relay:
            killed = wait_until(lambda: outbox.one(making), "the slot waits for the transaction")
            relay.kill()
            relay.wait(DEADLINE_S)
        with relaying(outbox):
            wait_until(lambda: outbox.one(making) not in (None, killed), "another relay has the outbox")
            early.commit()
            outbox.wait_published([row_id])
    assert outbox.published() == [row_id]


def test_a_new_slot_is_one_that_fails_over(outbox):
    with relaying(outbox):
        outbox.wait_confirmed()
    assert outbox.one(FAILOVER, outbox.slot)


def test_a_slot_that_somebody_made_becomes_one_that_fails_over_at_its_place(outbox):
    """Debezium's, one made by hand, or one of a relay that died before it had made it one."""
    outbox.connection.execute("CREATE PUBLICATION settle_outbox FOR TABLE outbox WITH (publish = 'insert')")
    outbox.one("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", outbox.slot)
    assert not outbox.one(FAILOVER, outbox.slot)
    assert lacks_failover(outbox.connection, outbox.slot)
    with outbox.connection.transaction():  # which the log alone has
        row_id = outbox.insert()
        outbox.connection.execute("DELETE FROM outbox")
    with relaying(outbox):
        outbox.wait_published([row_id])
    assert outbox.one(FAILOVER, outbox.slot)


def test_the_confirmed_position_waits_for_kafka_and_nothing_is_lost_meanwhile(outbox):
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port):
        before = [outbox.insert() for _ in range(10)]
        outbox.wait_published(before)
        # A record can be read before its acknowledgement has come back.
        wait_until(lambda: metric(port, outbox, "unacknowledged") == 0, "all are acknowledged")
        reconnects = metric(port, outbox, "reconnects_total")  # one, if a broker did not know the new topic yet
        outbox.stack.stop_service("kafka")
        try:
            during = [outbox.insert() for _ in range(200)]
            lsn = outbox.lsn()
            wait_until(lambda: answer(port, "/readyz")[0] == 503, "the relay says that Kafka is away")
            assert "Kafka does not answer" in answer(port, "/readyz")[1]
            looked_at = metric(port, outbox, "lag_seconds")
            wait_until(
                lambda: metric(port, outbox, "lag_seconds") > looked_at + 1, "confirmations would have been made"
            )
            assert not outbox.confirmed_passes(lsn)
            assert outbox.one("SELECT count(*) FROM outbox") >= 200
            # Counted with them, until they are heard, is what librdkafka has to say of connections.
            wait_until(lambda: metric(port, outbox, "unacknowledged") == 200, "all of them are on their way")
        finally:
            outbox.stack.start_service("kafka")
            outbox.stack.wait_ready("kafka")
        outbox.wait_published(before + during)
        wait_until(lambda: answer(port, "/readyz") == (200, "ready\n"), "the relay is ready again")
        # It waited; it did not give up and begin again.
        assert metric(port, outbox, "reconnects_total") == reconnects
    outbox.assert_exactly_once_in_order()


def test_a_killed_broker_costs_nothing(outbox):
    with relaying(outbox):
        for number in range(400):
            outbox.insert()
            if number == 200:
                outbox.stack.kill("kafka")
        outbox.stack.wait_ready("kafka")
        outbox.wait_published(outbox.written())
    outbox.assert_exactly_once_in_order()


def test_a_killed_database_costs_nothing_though_the_slot_forgets(outbox):
    """After a crash the server may know an older position than it was told; the topic knows better."""
    with relaying(outbox):
        outbox.wait_published([outbox.insert() for _ in range(500)])
        outbox.wait_confirmed()
        outbox.connection.close()
        outbox.stack.kill("postgres-account")
        outbox.stack.wait_ready("postgres-account")
        outbox.connection = psycopg.connect(outbox.dsn, autocommit=True)
        outbox.wait_published([outbox.insert() for _ in range(10)])
    outbox.assert_exactly_once_in_order()


def assert_within(limit_s, measure):
    """That something takes less; where a process finds no core for so long, it is measured again."""
    took = [measure()]
    while took[-1] >= limit_s and len(took) < TRIES:
        took.append(measure())
    assert took[-1] < limit_s, f"it took {', '.join(f'{one:.2f}' for one in took)} s"


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_a_standby_takes_over_within_two_seconds(outbox, reader):
    def take_over():
        with relay_process(outbox, SETTLE_RELAY_READER=reader) as active:
            outbox.wait_published([outbox.insert()])
            port = ports.choose(taken=set())
            with outbox.consumer() as topic, relaying(outbox, http_port=port, reader=reader):
                wait_until(lambda: "standing by" in answer(port, "/readyz")[1], "the second relay stands by")
                wait_until(lambda: metric(port, outbox, "standby") == 1, "it is counted as one")
                before = outbox.length(topic)
                active.kill()
                died = time.monotonic()
                late = outbox.insert()
                wait_until(lambda: outbox.length(topic) > before, "the second relay publishes")
                took_s = time.monotonic() - died
                wait_until(lambda: metric(port, outbox, "active") == 1, "the second relay says so")
                outbox.wait_published([late])
        return took_s

    assert_within(2, take_over)
    outbox.assert_exactly_once_in_order()


def test_the_log_that_is_kept_is_measured_also_by_a_relay_that_kafka_has_not_answered_yet(outbox):
    with relaying(outbox):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()
    outbox.insert_many(1_000)
    port, nowhere = ports.choose(taken=set()), f"127.0.0.1:{ports.choose(taken=set())}"
    with relaying(outbox, http_port=port, bootstrap=nowhere):
        for name in ("lag_bytes", "slot_retained_bytes"):
            wait_until(lambda name=name: (metric(port, outbox, name) or 0) > 100_000, f"{name} is measured")
        assert metric(port, outbox, "active") == 0


def test_a_topic_that_is_missing_is_waited_for_by_name(stack, monkeypatch):
    outbox = Outbox(stack, topic=False)
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port):
        row_id = outbox.insert()
        wait_until(lambda: f"topic {outbox.topic}" in answer(port, "/readyz")[1], "the relay says what is missing")
        assert outbox.one("SELECT count(*) FROM outbox") == 1
        monkeypatch.setenv("SETTLE_PAYMENT_DSN", outbox.dsn)
        for service in ("account", "notification", "saga"):
            monkeypatch.setenv(f"SETTLE_{service.upper()}_DSN", stack.state.dsns[service])
        monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", outbox.bootstrap)
        told = f"{outbox.name}: waits for topic {outbox.topic}, which does not exist"
        assert told in CliRunner().invoke(app, ["outbox", "status"]).output
        outbox.create_topic()
        outbox.wait_published([row_id])
        assert outbox_status(outbox.connection, existing_topics(outbox.bootstrap)).missing_topics == ()
    assert outbox.published() == [row_id]


def test_a_topic_that_is_missing_long_after_the_start_is_named_within_seconds(outbox, monkeypatch):
    monkeypatch.setattr(published, "CLOCKS_OFF_US", -1_000_000_000)  # no row may come a second time
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port):
        outbox.wait_published([outbox.insert()])
        monkeypatch.undo()
        outbox.insert(to=f"late_{outbox.name}")
        said = f"{outbox.name}: topic late_{outbox.topic} cannot be written"
        wait_until(lambda: said in answer(port, "/readyz")[1], "which topic is missing is told", 20)


def test_a_source_that_is_away_does_not_disturb_the_others(outbox, stack):
    late = Outbox(stack, table=False)
    port = ports.choose(taken=set())
    nowhere = f"postgresql://nobody@127.0.0.1:{ports.choose(taken=set())}/gone"
    with relaying(outbox, late, http_port=port, dsns=[nowhere]):
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: metric(port, outbox, "active") == 1, "one source reads")
        told = ("gone: connection failed", f"{late.name}: there is no table public.outbox yet")

        def is_told():
            status, reasons = answer(port, "/readyz")
            return status == 503 and f"{outbox.name}:" not in reasons and all(one in reasons for one in told)

        wait_until(is_told, "what the others wait for is told")
        assert answer(port, "/healthz")[0] == 200
        late.connection.execute(CREATE_OUTBOX)
        late.wait_published([late.insert()])


def test_at_quiet_the_position_follows_other_tables_and_other_databases_within_two_seconds(outbox, stack):
    def confirmed():
        began = time.monotonic()
        outbox.wait_confirmed()
        return time.monotonic() - began

    def other_table():
        outbox.connection.execute("INSERT INTO other SELECT generate_series(1, 10000)")
        return confirmed()

    def other_database():
        with psycopg.connect(stack.state.dsns["account"], autocommit=True) as elsewhere:
            elsewhere.execute("CREATE TABLE IF NOT EXISTS traffic AS SELECT generate_series(1, 10000) AS n")
            elsewhere.execute("DROP TABLE traffic")
        return confirmed()

    with relaying(outbox):
        outbox.wait_published([outbox.insert()])
        outbox.wait_confirmed()  # there is a slot
        outbox.connection.execute("CREATE TABLE other (n int)")
        assert_within(2.5, other_table)
        assert_within(2.5, other_database)


def test_without_a_source_the_command_says_what_to_set():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SETTLE_")}
    ended = subprocess.run(
        [sys.executable, "-m", "outbox_relay"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "SETTLE_RELAY_SOURCES" in ended.stderr
    assert "Traceback" not in ended.stderr
