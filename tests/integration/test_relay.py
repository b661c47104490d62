"""Does the relay publish what was committed, in commit order, whatever happens around it?

Each test has a database and a topic of its own, on real PostgreSQL and real Kafka.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from outbox_relay import RelaySettings, run_relay
from stack import ports
from stack.supervisor import Stack

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
DEADLINE_S = 30
NAMES = (f"outbox{number}" for number in count(1))

CREATE_OUTBOX = """
    CREATE TABLE outbox(
        id uuid PRIMARY KEY DEFAULT uuidv7(), aggregatetype text NOT NULL, aggregateid text NOT NULL,
        type text NOT NULL, payload json NOT NULL, traceparent text, tracestate text,
        created_at timestamptz NOT NULL DEFAULT now())
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    # PostgreSQL gives up its rights as root and must still reach its folder.
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    with Stack(folder, services=(), postgres_settings={"fsync": "off", "max_replication_slots": "60"}) as running:
        yield running


class Outbox:
    """A database with an outbox, and the topic that its rows belong on."""

    def __init__(self, stack, *, table=True, topic_config=None):
        self.name = next(NAMES)
        self.stack = stack
        self.bootstrap = stack.state.kafka_bootstrap
        self.dsn = stack.state.dsns["account"].rpartition("/")[0] + f"/{self.name}"
        self.topic = f"{self.name}.events"
        self.slot = f"settle_outbox_{self.name}"
        self._numbers = count(1)
        with psycopg.connect(stack.state.dsns["account"], autocommit=True) as server:
            server.execute(f"CREATE DATABASE {self.name}")
        self.connection = psycopg.connect(self.dsn, autocommit=True)
        if table:
            self.connection.execute(CREATE_OUTBOX)
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.create_topics([NewTopic(self.topic, PARTITIONS, config=topic_config or {})])[self.topic].result(
            DEADLINE_S
        )

    def insert(self, key="acc-1", *, connection=None, payload=None, traceparent=None, tracestate=None):
        """Insert a row; returns its ID as text."""
        payload = payload or json.dumps({"number": next(self._numbers)})
        row = (connection or self.connection).execute(
            "INSERT INTO outbox(aggregatetype, aggregateid, type, payload, traceparent, tracestate)"
            " VALUES (%s, %s, 'MoneyDeducted', %s, %s, %s) RETURNING id::text",
            (self.name, key, payload, traceparent, tracestate),
        )
        return row.fetchone()[0]

    def insert_many(self, rows):
        """Insert rows over 100 keys in one transaction."""
        self.connection.execute(
            "INSERT INTO outbox(aggregatetype, aggregateid, type, payload)"
            " SELECT %s, 'acc-' || n %% 100, 'MoneyDeducted', json_build_object('number', n)"
            " FROM generate_series(1, %s) AS n",
            (self.name, rows),
        )

    def ids(self):
        """The IDs of the rows in the table."""
        return [row[0] for row in self.connection.execute("SELECT id::text FROM outbox ORDER BY id")]

    def lsn(self):
        """Where the log ends now."""
        return self.connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()[0]

    def confirmed_passes(self, lsn):
        """Whether the slot's confirmed position is at or past ``lsn``."""
        found = self.connection.execute(
            "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s",
            (lsn, self.slot),
        ).fetchone()
        return bool(found and found[0])

    def records(self):
        """All records of the topic, partition by partition in order."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "test", "enable.auto.commit": False})
        try:
            partitions = [TopicPartition(self.topic, number, 0) for number in range(PARTITIONS)]
            ends = [end_of(consumer, partition) for partition in partitions]
            consumer.assign(partitions)
            found = [[] for _ in partitions]
            while any(len(records) < end for records, end in zip(found, ends, strict=True)):
                for record in consumer.consume(5_000, timeout=0.05):
                    assert record.error() is None, record.error()
                    found[record.partition()].append(record)
            return [record for records in found for record in records]
        finally:
            consumer.close()

    def published(self):
        """The IDs on the topic."""
        return [header(record, "id") for record in self.records()]


@pytest.fixture
def outbox(stack):
    return Outbox(stack)


def header(record, name):
    value = dict(record.headers()).get(name)
    return value.decode() if value is not None else None


def end_of(consumer, partition):
    """The offset after the partition's last record; a new topic takes a moment until all know it."""
    give_up = time.monotonic() + DEADLINE_S
    while True:
        try:
            return consumer.get_watermark_offsets(partition, timeout=DEADLINE_S)[1]
        except KafkaException:
            assert time.monotonic() < give_up
            time.sleep(0.1)


def wait_until(condition, what, deadline_s=DEADLINE_S):
    give_up = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)


@contextmanager
def relaying(*outboxes, http_port=0, dsns=()):
    """A relay in this process."""
    stop = threading.Event()
    dsns = [*(outbox.dsn for outbox in outboxes), *dsns]
    settings = RelaySettings(
        relay_sources=" ".join(dsns), kafka_bootstrap=outboxes[0].bootstrap, http_port=http_port
    )
    thread = threading.Thread(target=run_relay, args=(settings, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


@contextmanager
def relay_process(outbox):
    """A relay in a process of its own."""
    command = [sys.executable, "-m", "outbox_relay", "--source", outbox.dsn, "--bootstrap", outbox.bootstrap]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_published(outbox, ids, deadline_s=DEADLINE_S):
    lsn = outbox.lsn()
    wait_until(lambda: outbox.confirmed_passes(lsn), "the confirmed position passes the log's end", deadline_s)
    assert set(ids) <= set(outbox.published())


def answer(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


@pytest.mark.parametrize("origin", ["table", "log"])
def test_a_row_becomes_the_record_that_debezium_makes_of_it(outbox, origin):
    traceparent = f"00-{'a' * 32}-{'b' * 16}-00"
    if origin == "log":
        with relaying(outbox):
            wait_published(outbox, [])
    plain = outbox.insert("Zoë", payload='{"x":  "é"}')
    traced = outbox.insert("Zoë", traceparent=traceparent, tracestate="v=1")
    with relaying(outbox):
        wait_published(outbox, [plain, traced])
    first, second = outbox.records()
    assert (first.key(), first.value()) == ("Zoë".encode(), '{"x":  "é"}'.encode())
    assert first.headers() == [("id", plain.encode()), ("eventType", b"MoneyDeducted")]
    assert second.headers() == [
        ("id", traced.encode()),
        ("eventType", b"MoneyDeducted"),
        ("traceparent", traceparent.encode()),
        ("tracestate", b"v=1"),
    ]


def test_rows_committed_before_the_slot_are_published_in_the_order_of_insertion(outbox):
    before = [outbox.insert() for _ in range(50)]
    uncommitted = psycopg.connect(outbox.dsn)
    late = outbox.insert(connection=uncommitted)
    with relaying(outbox):
        time.sleep(0.5)  # long enough that the slot is being made while the transaction is open
        uncommitted.commit()
        after = [outbox.insert() for _ in range(50)]
        wait_published(outbox, [*before, late, *after])
    assert outbox.published() == [*before, late, *after]


def test_a_relay_killed_while_it_makes_the_slot_leaves_none_and_the_next_one_publishes_all(outbox):
    outbox.insert_many(60_000)
    outbox.stack.stop_service("kafka")
    try:
        with relay_process(outbox) as relay:
            slots = "SELECT temporary FROM pg_replication_slots WHERE database = %s"
            wait_until(lambda: outbox.connection.execute(slots, (outbox.name,)).fetchall(), "a slot in the making")
            assert outbox.connection.execute(slots, (outbox.name,)).fetchall() == [(True,)]
            relay.kill()
        wait_until(lambda: not outbox.connection.execute(slots, (outbox.name,)).fetchall(), "no slot is left")
    finally:
        outbox.stack.start_service("kafka")
        outbox.stack.wait_ready("kafka")
    with relaying(outbox):
        wait_published(outbox, outbox.ids())


def test_the_order_of_a_key_is_the_order_of_commits(outbox):
    chance = random.Random(7)
    committed = []
    with relaying(outbox):
        wait_published(outbox, [])
        sessions = {psycopg.connect(outbox.dsn): [] for _ in range(6)}
        for _ in range(300):
            session, pending = chance.choice(list(sessions.items()))
            if pending and chance.random() < 0.4:
                session.commit()
                committed += pending
                pending.clear()
            else:
                pending.append(outbox.insert("acc-1", connection=session))
        for session in sessions:
            session.close()
        wait_published(outbox, committed)
    assert outbox.published() == committed
    assert committed != sorted(committed), "the transactions did not commit out of order"


@contextmanager
def writing(outbox):
    """Someone who commits 20 rows at a time over 10 keys, as fast as it goes."""
    done = threading.Event()

    def write():
        with psycopg.connect(outbox.dsn, autocommit=True) as connection:
            while not done.is_set():
                with connection.transaction():
                    for _ in range(20):
                        outbox.insert(f"acc-{random.randrange(10)}", connection=connection)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def end_in_mid_load(outbox, number):
    """Start a relay, and end it by a signal when it is at work; its exit code."""
    with relay_process(outbox) as relay:
        seen = outbox.lsn()
        wait_until(lambda: outbox.confirmed_passes(seen), "the relay is at work")
        time.sleep(random.random() / 2)
        relay.send_signal(number)
        return relay.wait(DEADLINE_S)


def test_a_relay_killed_under_load_loses_nothing_and_keeps_the_order(outbox):
    with writing(outbox):
        for _ in range(4):
            assert end_in_mid_load(outbox, signal.SIGKILL) == -signal.SIGKILL
    with relaying(outbox):
        wait_published(outbox, [])
    records = outbox.records()
    first_seen = defaultdict(dict)
    for record in records:
        first_seen[record.key()].setdefault(header(record, "id"))
    rows = outbox.ids()
    assert sorted(event_id for ids in first_seen.values() for event_id in ids) == rows
    # One writer: the IDs of a key were committed in their order.
    assert all(list(ids) == sorted(ids) for ids in first_seen.values())
    print(f"{len(rows)} rows, {len(records) - len(rows)} published twice")


def test_a_relay_stopped_under_load_repeats_nothing(outbox):
    with writing(outbox):
        for _ in range(3):
            assert end_in_mid_load(outbox, signal.SIGTERM) == 0
    with relaying(outbox):
        wait_published(outbox, [])
    assert sorted(outbox.published()) == outbox.ids()


def test_the_confirmed_position_waits_for_kafka_and_nothing_is_lost_meanwhile(outbox):
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port):
        before = [outbox.insert() for _ in range(10)]
        wait_published(outbox, before)
        outbox.stack.stop_service("kafka")
        try:
            during = [outbox.insert() for _ in range(200)]
            lsn = outbox.lsn()
            wait_until(lambda: answer(port, "/readyz")[0] == 503, "the relay says that Kafka is away")
            assert "Kafka does not answer" in answer(port, "/readyz")[1]
            time.sleep(1.5)  # more than the interval of confirmations
            assert not outbox.confirmed_passes(lsn)
            assert "settle_relay_unacknowledged" in answer(port, "/metrics")[1]
        finally:
            outbox.stack.start_service("kafka")
            outbox.stack.wait_ready("kafka")
        wait_published(outbox, before + during)
        wait_until(lambda: answer(port, "/readyz") == (200, "ready\n"), "the relay is ready again")
        # It waited; it did not give up and begin again.
        assert f'settle_relay_reconnects_total{{source="{outbox.name}"}} 0.0' in answer(port, "/metrics")[1]
    assert outbox.published() == before + during


def test_a_killed_broker_costs_nothing(outbox):
    with relaying(outbox):
        ids = []
        for number in range(400):
            ids.append(outbox.insert())
            if number == 200:
                outbox.stack.kill("kafka")
        outbox.stack.wait_ready("kafka")
        wait_published(outbox, ids)
    assert list(dict.fromkeys(outbox.published())) == ids


def test_a_restarted_database_costs_nothing(outbox):
    with relaying(outbox):
        before = [outbox.insert() for _ in range(10)]
        wait_published(outbox, before)
        outbox.connection.close()
        outbox.stack.kill("postgres")
        outbox.stack.wait_ready("postgres")
        outbox.connection = psycopg.connect(outbox.dsn, autocommit=True)
        after = [outbox.insert() for _ in range(10)]
        wait_published(outbox, before + after)


def test_at_quiet_the_position_follows_other_tables_within_two_seconds(outbox):
    with relaying(outbox):
        wait_published(outbox, [outbox.insert()])
        outbox.connection.execute("CREATE TABLE other(n int)")
        outbox.connection.execute("INSERT INTO other SELECT generate_series(1, 10000)")
        lsn = outbox.lsn()
        wait_until(lambda: outbox.confirmed_passes(lsn), "the confirmed position passes the log's end", 2.5)


@pytest.mark.parametrize(("limit", "size"), [("1048588", 1_500_000), ("2000", 20_000)], ids=["client", "broker"])
def test_a_record_too_large_for_either_is_not_overtaken(stack, limit, size):
    outbox = Outbox(stack, topic_config={"max.message.bytes": limit})
    port = ports.choose(taken=set())
    with relaying(outbox, http_port=port):
        before = outbox.insert()
        wait_published(outbox, [before])
        outbox.insert(payload=json.dumps(random.randbytes(size // 2).hex()))
        # Enough that later records are under way to Kafka when it refuses the first.
        written_until = time.monotonic() + 1.5
        while time.monotonic() < written_until:
            outbox.insert()
        lsn = outbox.lsn()
        wait_until(lambda: "refused" in answer(port, "/readyz")[1], "the relay says what Kafka refused")
        time.sleep(2)
        assert not outbox.confirmed_passes(lsn)
        assert outbox.published() == [before]


def test_a_standby_takes_over_within_two_seconds(outbox):
    with relay_process(outbox) as active:
        wait_published(outbox, [outbox.insert()])
        port = ports.choose(taken=set())
        with relaying(outbox, http_port=port):
            wait_until(lambda: "standing by" in answer(port, "/readyz")[1], "the second relay stands by")
            active.kill()
            died = time.monotonic()
            lsn, late = (outbox.insert(), outbox.lsn())[::-1]
            wait_until(lambda: outbox.confirmed_passes(lsn), "the second relay publishes")
            took_s = time.monotonic() - died
            wait_published(outbox, [late])
    assert took_s < 2, f"it took {took_s:.2f} s"


def test_a_source_that_is_away_does_not_disturb_the_others(outbox, stack):
    late = Outbox(stack, table=False)
    port = ports.choose(taken=set())
    nowhere = f"postgresql://nobody@127.0.0.1:{ports.choose(taken=set())}/gone"
    with relaying(outbox, late, http_port=port, dsns=[nowhere]):
        wait_published(outbox, [outbox.insert()])
        wait_until(lambda: outbox.name not in answer(port, "/readyz")[1], "one source streams")
        status, reasons = answer(port, "/readyz")
        assert status == 503
        assert "gone: connection failed" in reasons
        assert f"{late.name}: there is no table public.outbox yet" in reasons
        assert answer(port, "/healthz")[0] == 200
        late.connection.execute(CREATE_OUTBOX)
        wait_published(late, [late.insert()])


def test_a_sampled_row_is_published_in_a_span_of_its_trace(outbox, spans):
    sampled, unsampled = f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'c' * 32}-{'d' * 16}-00"
    with relaying(outbox):
        wait_published(outbox, [])
        ids = [
            outbox.insert(traceparent=sampled, tracestate="v=1"),
            outbox.insert(traceparent=unsampled),
            outbox.insert(),
        ]
        wait_published(outbox, ids)
    (span,) = spans()
    first, second, third = outbox.records()
    assert span.name == f"send {outbox.topic}"
    assert span.kind.name == "PRODUCER"
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == ("a" * 32, "b" * 16)
    assert header(first, "traceparent") == f"00-{'a' * 32}-{span.context.span_id:016x}-01"
    assert header(first, "tracestate") == "v=1"
    assert span.attributes["messaging.message.id"] == ids[0]
    assert span.attributes["messaging.kafka.message.key"] == "acc-1"
    assert span.attributes["messaging.destination.partition.id"] == str(first.partition())
    assert span.attributes["messaging.kafka.offset"] == first.offset()
    assert 0 <= span.attributes["settle.outbox.wait_ms"] < 5_000
    assert span.attributes["settle.outbox.lsn"].count("/") == 1
    assert header(second, "traceparent") == unsampled
    assert third.headers() == [("id", ids[2].encode()), ("eventType", b"MoneyDeducted")]


def test_without_a_source_the_command_says_what_to_set():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SETTLE_")}
    ended = subprocess.run(
        [sys.executable, "-m", "outbox_relay"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "SETTLE_RELAY_SOURCES" in ended.stderr
    assert "Traceback" not in ended.stderr
