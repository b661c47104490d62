"""What the relay's tests share: databases with an outbox each, and relays that read them."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.client import HTTPException
from itertools import count
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from broker.clients import SILENT
from outbox_relay.relay import run_relay
from outbox_relay.settings import RelaySettings
from stack import secured
from tests.conftest import SECURE, kafka

ROOT = Path(__file__).parents[3]
PARTITIONS = 4
DEADLINE_S = 60
NAMES = (f"outbox{number}" for number in count(1))

CREATE_OUTBOX = """
    CREATE TABLE outbox (
        id uuid PRIMARY KEY DEFAULT uuidv7(), aggregatetype text NOT NULL, aggregateid text NOT NULL,
        type text NOT NULL, payload json NOT NULL, traceparent text, tracestate text,
        created_at timestamptz NOT NULL DEFAULT now());
    -- What was ever inserted and committed, as the relay takes published rows out of the outbox.
    CREATE TABLE written (n bigserial, id uuid, key text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN INSERT INTO written (id, key) VALUES (NEW.id, NEW.aggregateid); RETURN NULL; END $$;
    CREATE TRIGGER note AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION note();
"""


# As PostgreSQL has it since 18: IDs in the order of their making.
UUIDV7 = """
    CREATE FUNCTION uuidv7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
        SELECT (lpad(to_hex((us / 1000)::bigint), 12, '0') || '7' || lpad(to_hex(us % 1000 * 4), 3, '0') || '8'
            || substr(md5(random()::text), 1, 15))::uuid
        FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) AS now
    $$
"""
VERSION_18 = 180_000


class Outbox:
    """A database with an outbox, and the topic that its rows belong on."""

    def __init__(self, stack, *, table=True, topic=True, topic_config=None, name=None):
        self.name = name or next(NAMES)
        self.stack = stack
        # Its topics are none of the registry, so its relays are those who may do everything.
        self.bootstrap = stack.admin_bootstrap
        self.dsn = stack.state.dsns["account"].rpartition("/")[0] + f"/{self.name}"
        self.topic = f"{self.name}.events"
        self.slot = f"settle_outbox_{self.name}"
        self._numbers = count(1)
        with psycopg.connect(stack.state.dsns["account"], autocommit=True) as server:
            server.execute(f'CREATE DATABASE "{self.name}"')
        self.connection = psycopg.connect(self.dsn, autocommit=True)
        if self.connection.info.server_version < VERSION_18:
            self.connection.execute(UUIDV7)
        if table:
            self.connection.execute(CREATE_OUTBOX)
        if topic:
            self.create_topic(topic_config)

    def create_topic(self, config=None):
        """Create the topic."""
        self.admin = AdminClient(kafka(self.stack), logger=SILENT)
        new = NewTopic(self.topic, PARTITIONS, config=config or {})
        self.admin.create_topics([new])[self.topic].result(DEADLINE_S)

    def set_topic(self, config):
        """Configure the topic otherwise."""
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()
        ]
        topic = ConfigResource(ResourceType.TOPIC, self.topic, incremental_configs=entries)
        self.admin.incremental_alter_configs([topic])[topic].result(DEADLINE_S)

    def insert(self, key="acc-1", *, connection=None, payload=None, traceparent=None, tracestate=None, to=None):
        """Insert a row; returns its ID as text."""
        payload = payload or json.dumps({"number": next(self._numbers)})
        row = (connection or self.connection).execute(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, traceparent, tracestate)"
            " VALUES (%s, %s, 'MoneyDeducted', %s, %s, %s) RETURNING id::text",
            (to or self.name, key, payload, traceparent, tracestate),
        )
        return row.fetchone()[0]

    def insert_many(self, rows, *, keys=100, connection=None):
        """Insert rows over so many keys in one transaction."""
        (connection or self.connection).execute(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
            " SELECT %s, 'acc-' || n %% %s, 'MoneyDeducted', json_build_object('number', n)"
            " FROM generate_series(1, %s) AS n",
            (self.name, keys, rows),
        )

    def one(self, query, *values):
        """The first column of a query's only row."""
        row = self.connection.execute(query, values or None).fetchone()
        return row[0] if row else None

    def written(self):
        """The IDs of all rows ever committed, in the order of insertion."""
        return [row[0] for row in self.connection.execute("SELECT id::text FROM written ORDER BY n")]

    def lsn(self):
        """Where the log ends now."""
        return self.one("SELECT pg_current_wal_lsn()::text")

    def confirmed_passes(self, lsn, slot=None):
        """Whether the slot's confirmed position is at or past ``lsn``."""
        return bool(
            self.one(
                "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s",
                lsn,
                slot or self.slot,
            )
        )

    def drop_slot(self, name=None):
        """Drop the slot; a walsender takes a moment to notice that its relay is gone.

        A relay that was stopped while it filled has made none: ``wait_confirmed`` before it is stopped.
        """
        there = self.one("SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", name or self.slot)
        assert there, "there is no such slot: its relay was stopped before it was made"
        drop = (
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE slot_name = %s AND NOT active"
        )
        wait_until(lambda: self.one(drop, name or self.slot) is not None, "the slot is dropped")

    @contextmanager
    def server_setting(self, name, value):
        """The whole server is set otherwise meanwhile; sessions take a moment to hear of it."""
        self.connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.connection.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            self.connection.execute(f"ALTER SYSTEM RESET {name}")
            self.connection.execute("SELECT pg_reload_conf()")

    @contextmanager
    def consumer(self, properties=None):
        """Someone who can ask how long the topic is, and read it."""
        consumer = Consumer(
            {
                **kafka(self.stack),
                "group.id": "test",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                **(properties or {}),
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()

    def partitions(self):
        """Those of the topic, from their first record on."""
        return [TopicPartition(self.topic, number, 0) for number in range(PARTITIONS)]

    def length(self, consumer):
        """How many records the topic has."""
        return sum(end - first for first, end in (bounds(consumer, place) for place in self.partitions()))

    def records(self):
        """All records of the topic that are committed, partition by partition in order."""
        with self.consumer({"enable.partition.eof": True}) as consumer:
            found, ended = [], set()
            places = self.partitions()
            for place in places:
                place.offset = bounds(consumer, place)[0]
            consumer.assign(places)
            give_up = time.monotonic() + DEADLINE_S
            while len(ended) < len(places):
                assert time.monotonic() < give_up
                for record in consumer.consume(5_000, timeout=0.05):
                    if record.error() is None:
                        found.append(record)
                    else:
                        assert record.error().code() == KafkaError._PARTITION_EOF, record.error()
                        ended.add(record.partition())
        return sorted(found, key=lambda record: (record.partition(), record.offset()))

    def published(self):
        """The IDs on the topic."""
        return [header(record, "id") for record in self.records()]

    def wait_published(self, ids, deadline_s=DEADLINE_S):
        """Wait until these are on the topic."""
        missing = set(ids)

        def published():
            missing.difference_update(header(record, "id") for record in taken(consumer))
            return not missing

        with self.consumer() as consumer:
            consumer.assign(self.partitions())
            wait_until(published, f"{len(missing)} rows are published", deadline_s)

    def wait_confirmed(self, deadline_s=DEADLINE_S, slot=None):
        """Wait until the slot has confirmed all that is committed now."""
        lsn, what = self.lsn(), "the confirmed position passes the log's end"
        wait_until(lambda: self.confirmed_passes(lsn, slot), what, deadline_s)

    def assert_exactly_once_in_order(self):
        """Topic against table, row by row: none missing, none doubled, those of a key in their order."""
        rows = self.connection.execute("SELECT id::text, key FROM written ORDER BY n").fetchall()
        records = self.records()
        published = [header(record, "id") for record in records]
        assert sorted(published) == sorted(row_id for row_id, _ in rows)
        place = {row_id: number for number, (row_id, _) in enumerate(rows)}
        last = {}
        for record in records:
            number = place[header(record, "id")]
            assert last.get(record.key(), -1) < number, f"{record.key()} is out of order"
            last[record.key()] = number
        return len(rows)


def taken(consumer):
    """The next records, as soon as there are any; none for a moment is no error."""
    records = consumer.consume(5_000, timeout=0) or consumer.consume(1, timeout=0.05)
    assert all(record.error() is None for record in records), [record.error() for record in records]
    return records


def header(record, name):
    value = dict(record.headers()).get(name)
    return value.decode() if value is not None else None


def names(record):
    return [name for name, _ in record.headers()]


def bounds(consumer, partition):
    """The offsets of the partition's first record and after its last; a new topic takes a moment to be known."""
    give_up = time.monotonic() + DEADLINE_S
    while True:
        try:
            return consumer.get_watermark_offsets(partition, timeout=DEADLINE_S)
        except KafkaException:
            assert time.monotonic() < give_up
            time.sleep(0.1)


def wait_until(condition, what, deadline_s=DEADLINE_S):
    give_up = time.monotonic() + deadline_s
    while not (answer := condition()):
        assert time.monotonic() < give_up, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)
    return answer


@contextmanager
def relaying(
    *outboxes, http_port=0, dsns=(), reader="wal", cleanup=True, initial=None, bootstrap=None, fencing=False
):
    """A relay in this process."""
    dsns = [*dsns, *(outbox.dsn for outbox in outboxes)] if dsns else [outbox.dsn for outbox in outboxes]
    settings = RelaySettings(
        relay_sources=" ".join(dsns),
        kafka_bootstrap=bootstrap or outboxes[0].bootstrap,
        http_port=http_port,
        relay_reader=reader,
        relay_poll_interval_s=0.05,
        relay_cleanup=cleanup,
        relay_initial=initial,
        relay_fencing=fencing,
    )
    with running(settings):
        yield


@contextmanager
def running(settings):
    """A relay in this process, as these settings say."""
    stop = threading.Event()
    thread = threading.Thread(target=run_relay, args=(settings, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


@contextmanager
def relay_process(outbox, *, dsn=None, stderr=None, bootstrap=None, **environment):
    """A relay in a process of its own."""
    command = [sys.executable, "-m", "outbox_relay", "--bootstrap", bootstrap or outbox.bootstrap]
    identity = secured.admin_variables(outbox.stack.data) if SECURE else {}
    variables = {**os.environ, **identity, "SETTLE_RELAY_SOURCES": dsn or outbox.dsn, **environment}
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=stderr)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def writing(outbox, rows=20):
    """Someone who commits so many rows over 10 keys at a time, 100 times a second."""
    done = threading.Event()

    def write():
        with psycopg.connect(outbox.dsn, autocommit=True) as connection:
            while not done.wait(0.01):
                outbox.insert_many(rows, keys=10, connection=connection)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def answer(port, path):
    try:
        try:
            response = urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE_S)
        except urllib.error.HTTPError as error:
            response = error  # whose text may be cut off as well
        with response:
            return response.status, response.read().decode()
    except (OSError, HTTPException) as error:
        return 0, str(error)


def metric(port, outbox, name):
    """A number of one source; None while the relay does not answer."""
    prefix = f'settle_relay_{name}{{source="{outbox.name}"}} '
    lines = answer(port, "/metrics")[1].splitlines()
    return next((float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)), None)
