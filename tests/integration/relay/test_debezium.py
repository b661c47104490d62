"""The relay with an imported connector, and the real Debezium with it: a consumer sees no difference."""

import re
import signal
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest

from outbox_relay.debezium import imported, written
from outbox_relay.settings import RelaySettings
from tests.conftest import SECURE
from tests.integration.relay.connect import Connect
from tests.integration.relay.outbox import Outbox, running, wait_until

pytestmark = pytest.mark.skipif(SECURE, reason="the worker of Kafka Connect has no identity on a secured stack")

STRING = "org.apache.kafka.connect.storage.StringConverter"
JSON = "org.apache.kafka.connect.json.JsonConverter"
BINARY = "io.debezium.converters.BinaryDataConverter"
UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

OURS, THEIRS = "ours", "theirs"
FOR_EVER = {"retention.ms": "-1"}
"""Of a topic whose records have times of years ago, which Kafka would take for expired."""

OF_DEBEZIUM = """
    CREATE TABLE outbox (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype varchar(255) NOT NULL,
        aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb);
    INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES
        ('order', 'k 1', 'Placed', '{"a": 1, "n": null, "text": "\\u00e9 \\" \\t", "d": {"e": 1.5}, "l": [1, 2]}'),
        ('order', 'é', 'Placed', '[1, {"x": 1}]'), ('order', '', '', '{}'), ('order', 'k 1', 'Gone', NULL);
"""
WITH_NULLS = """
    CREATE TABLE "Shop".events (
        "eventId" uuid PRIMARY KEY DEFAULT gen_random_uuid(), topic text NOT NULL, "key" bigint, kind text,
        body json DEFAULT '{}', at timestamp NOT NULL DEFAULT '2020-01-02 03:04:05.678901');
    INSERT INTO "Shop".events (topic, "key", kind, body) VALUES
        ('a.b', 7, 'x', '{"z" : 1}'), ('a.b', NULL, NULL, NULL), ('a.b', -1, '', '"text"');
"""
OF_BYTES = """
    CREATE TABLE outbox (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid uuid NOT NULL,
        payload bytea, part int, content_type text NOT NULL DEFAULT 'application/avro', seen boolean,
        at timestamptz);
    INSERT INTO outbox (aggregatetype, aggregateid, payload, part, seen, at) VALUES
        ('order', gen_random_uuid(), '\\x00ff0a', 3, true, '2020-01-02 03:04:05.5Z'),
        ('order', gen_random_uuid(), '', 0, false, '2020-01-02 03:04:05+02'),
        ('order', gen_random_uuid(), NULL, NULL, NULL, NULL);
"""
OF_ALL_TYPES = """
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN label AS text;
    CREATE TABLE outbox (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text,
        type text NOT NULL DEFAULT 'T', payload jsonb, version int NOT NULL DEFAULT 3,
        i2 smallint, i4 int DEFAULT 5, i8 bigint NOT NULL DEFAULT 7, b boolean, b2 boolean DEFAULT true,
        tz timestamptz, tz3 timestamptz(3), tz0 timestamptz(0), tzd timestamptz NOT NULL DEFAULT now(),
        ts timestamp, ts3 timestamp(3), tsd timestamp DEFAULT '2020-01-02 03:04:05', d date,
        n numeric(10, 2), n0 numeric(10), nd numeric(6, 2) DEFAULT 1.5, c char(5), m mood,
        md mood NOT NULL DEFAULT 'ok', l label, t text DEFAULT 'it',
        td text NOT NULL DEFAULT upper('x'), f8 float8, f4 real, j json, y bytea);
    INSERT INTO outbox (aggregatetype, aggregateid, payload) VALUES
        ('order', NULL, NULL);
    INSERT INTO outbox (
        aggregatetype, aggregateid, payload, i2, i4, b2, tz, tz3, tz0, ts, ts3, d, n, n0, c, m, l, f8, f4, j, y)
    VALUES ('order', 'k', '{"a": [{"x": 1}, {"x": 2}], "b": 1e3}', -1, NULL, NULL, '1969-12-31 23:59:59.999999Z',
        '2020-01-02 03:04:05.12Z', '2020-01-02 03:04:05Z', '1969-12-31 23:59:59.999999', '2020-01-02 03:04:05.12',
        '1970-01-01', -0.01, 0, 'ab', 'sad', 'dom', 12345678.9, 1e-5, '{"x" :  1}', '\\x0102');
"""
OF_MESSAGES = """
    CREATE TABLE outbox (
        id uuid PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text, type text, payload text);
    CREATE TABLE emitted (at pg_lsn);
    INSERT INTO emitted SELECT pg_logical_emit_message(true, 'shop', json_build_object(
        'id', gen_random_uuid(), 'aggregatetype', 'order', 'aggregateid', 'k ' || n, 'type', 'Placed', 'payload',
        '{"n" :  1}')::text) FROM generate_series(1, 3) AS n;
    INSERT INTO emitted SELECT pg_logical_emit_message(true, 'other', 'x') WHERE false;
"""
TYPES = "i2 i4 i8 b b2 tz tz3 tz0 tzd ts ts3 tsd d n n0 nd c m md l t td f8 f4 j y".split()  # noqa: SIM905 legible

SHAPES = {
    "debezium's own table and defaults": (OF_DEBEZIUM, "public.outbox", {"value.converter": STRING}),
    "strings as JSON": (OF_DEBEZIUM, "public.outbox", {"value.converter": JSON}),
    "strings as JSON without schemas": (
        OF_DEBEZIUM,
        "public.outbox",
        {"key.converter": JSON, "key.converter.schemas.enable": "false", "value.converter": JSON}
        | {"value.converter.schemas.enable": "false", "header.converter": JSON}
        | {"transforms.outbox.table.fields.additional.placement": "type:header:eventType"},
    ),
    "other names, tombstones, its own timestamp": (
        WITH_NULLS,
        "Shop.events",
        {
            "value.converter": STRING,
            "header.converter": STRING,
            "transforms.outbox.table.field.event.id": "eventId",
            "transforms.outbox.table.field.event.key": "key",
            "transforms.outbox.table.field.event.payload": "body",
            "transforms.outbox.table.field.event.timestamp": "at",
            "transforms.outbox.table.fields.additional.placement": "kind:header,at:header:written",
            "transforms.outbox.route.by.field": "topic",
            "transforms.outbox.route.topic.regex": "(?<first>[a-z]+)\\.(.*)",
            "transforms.outbox.route.tombstone.on.empty.payload": "true",
        },
    ),
    "bytes, a partition, a column that is not there": (
        OF_BYTES,
        "public.outbox",
        {
            "value.converter": BINARY,
            "transforms.outbox.table.fields.additional.placement": (
                "part:partition,content_type:header:content-type,seen:header,at:header,no_such:header"
            ),
            "transforms.outbox.table.fields.additional.error.on.missing": "false",
        },
    ),
    "bytes as Base64 in JSON": (
        OF_BYTES,
        "public.outbox",
        {"value.converter": JSON, "binary.handling.mode": "base64"}
        | {"transforms.outbox.table.fields.additional.placement": "seen:envelope"},
    ),
    "expanded": (
        OF_ALL_TYPES,
        "public.outbox",
        {
            "value.converter": JSON,
            "value.converter.schemas.enable": "false",
            "transforms.outbox.table.expand.json.payload": "true",
        },
    ),
    "messages of the log instead of rows": (
        OF_MESSAGES,
        "public.outbox",
        {
            "value.converter": STRING,
            "message.prefix.include.list": "shop",
            "transforms": "decode,outbox",
            "transforms.decode.type": (
                "io.debezium.connector.postgresql.transforms.DecodeLogicalDecodingMessageContent"
            ),
            "transforms.outbox.table.fields.additional.placement": "type:header:eventType",
        },
    ),
    "all types in headers": (
        OF_ALL_TYPES,
        "public.outbox",
        {"value.converter": STRING}
        | {"transforms.outbox.table.fields.additional.placement": ",".join(f"{name}:header" for name in TYPES)},
    ),
    "all types in JSON headers with schemas": (
        OF_ALL_TYPES,
        "public.outbox",
        {"key.converter": JSON, "value.converter": STRING, "header.converter": JSON}
        | {
            "transforms.outbox.table.fields.additional.placement": ",".join(
                f"{name}:header:x_{name}" for name in TYPES
            )
        },
    ),
    "all types in an envelope with a schema": (
        OF_ALL_TYPES,
        "public.outbox",
        {
            "key.converter": JSON,
            "value.converter": JSON,
            "transforms.outbox.table.expand.json.payload": "true",
            "transforms.outbox.table.json.payload.null.behavior": "optional_bytes",
            "transforms.outbox.table.fields.additional.placement": ",".join(f"{name}:envelope" for name in TYPES),
        },
    ),
    "an envelope with a version, whose schema Debezium has from the first row": (
        OF_ALL_TYPES,
        "public.outbox",
        {
            "value.converter": JSON,
            "transforms.outbox.table.field.event.schema.version": "version",
            "transforms.outbox.table.fields.additional.placement": "t:envelope:text,i2:header",
        },
    ),
}


@pytest.fixture(scope="module")
def connect(stack, tmp_path_factory):
    worker = Connect(stack, tmp_path_factory.mktemp("connect"))
    yield worker
    worker.close()


def connector(outbox, side, **changes):
    """A connector as its user has it; both sides differ by topic and slot alone."""
    url = urlsplit(outbox.dsn)
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": url.hostname,
        "database.port": str(url.port),
        "database.user": url.username,
        "database.password": url.password,
        "database.dbname": outbox.name,
        "topic.prefix": "shop",
        "plugin.name": "pgoutput",
        "slot.name": f"{outbox.name}_{side}",
        "publication.name": f"{outbox.name}_all",
        "publication.autocreate.mode": "disabled",
        "table.include.list": "public.outbox",
        "snapshot.mode": "no_data",
        "tombstones.on.delete": "false",
        "key.converter": STRING,
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.route.topic.replacement": f"{outbox.name}.{side}",
        **changes,
    }


@contextmanager
def relaying_as(outbox, settings, folder, monkeypatch):
    """A relay in this process that is configured by a connector."""
    monkeypatch.setenv(imported.PASSWORD, settings["database.password"])
    found = imported.imported(settings, {})
    assert not found.changes_records, [str(finding) for finding in found.findings]
    file = folder / f"{settings['slot.name']}.toml"
    file.write_text(written.toml(found))
    with running(RelaySettings(relay_config=file, kafka_bootstrap=outbox.bootstrap)):
        yield


def reads(outbox, slot):
    """Whether somebody reads the slot; whoever makes it has it too, before it is known from where on."""
    query = "SELECT active AND confirmed_flush_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = %s"
    return outbox.one(query, slot)


def topic(outbox, side):
    """The topic of a side, as an outbox whose records can be read."""
    outbox.topic = f"{outbox.name}.{side}"
    return outbox


def as_seen(record, *, with_time):
    """All that a consumer sees of a record, but what the documentation lists as different."""
    headers = [
        (name, value)
        for name, value in record.headers()
        if name != "position" and not name.startswith("__debezium.context.")
    ]
    partition = record.partition() if record.key() is not None else None
    return record.key(), record.value(), headers, partition, record.timestamp() if with_time else None


def id_of(record):
    return UUID.findall(dict(record.headers())["id"])[-1]


def rows_of(cursor):
    """How many rows the statements have written."""
    rows = cursor.rowcount
    while cursor.nextset():
        rows += cursor.rowcount
    return rows


@pytest.mark.parametrize("shape", SHAPES)
def test_a_consumer_sees_no_difference(stack, connect, tmp_path, monkeypatch, shape):
    statements, table, changes = SHAPES[shape]
    outbox = Outbox(stack, table=False, topic=False)
    create, inserts = re.split(r"(?=INSERT INTO)", statements, maxsplit=1)
    outbox.connection.execute('CREATE SCHEMA "Shop"')
    outbox.connection.execute(create)
    quoted = ".".join(f'"{part}"' for part in table.split("."))
    outbox.connection.execute(f"CREATE PUBLICATION {outbox.name}_all FOR TABLE {quoted}")
    for side in (OURS, THEIRS):
        topic(outbox, side).create_topic(FOR_EVER)
    changes = {"table.include.list": table, **changes}
    ours, theirs = (connector(outbox, side, **changes) for side in (OURS, THEIRS))
    with relaying_as(outbox, ours, tmp_path, monkeypatch):
        connect.begin(outbox.name, theirs)
        try:
            for side in (OURS, THEIRS):
                wait_until(partial(reads, outbox, f"{outbox.name}_{side}"), f"the slot of {side} is read")
            wanted = rows_of(outbox.connection.execute(inserts))
            with outbox.consumer() as consumer:

                def are_there():
                    return outbox.length(consumer) >= wanted or connect.status(outbox.name)[0] == "FAILED"

                for side in (THEIRS, OURS):
                    topic(outbox, side)
                    wait_until(are_there, f"{wanted} records on {outbox.topic}")
            assert connect.status(outbox.name) == ("RUNNING", "")
        finally:
            connect.end(outbox.name)
    with_time = "transforms.outbox.table.field.event.timestamp" in changes
    seen = {
        side: {id_of(record): as_seen(record, with_time=with_time) for record in topic(outbox, side).records()}
        for side in (OURS, THEIRS)
    }
    assert len(seen[THEIRS]) == wanted
    assert seen[OURS] == seen[THEIRS]


def to_be_shared(stack):
    """An outbox that both read in turn, and the connector for it."""
    outbox = Outbox(stack, topic=False)
    topic(outbox, OURS).create_topic()
    outbox.connection.execute(f"CREATE PUBLICATION {outbox.name}_all FOR TABLE outbox")
    changes = {
        "value.converter": STRING,
        "transforms.outbox.table.fields.additional.placement": "type:header:eventType",
        "heartbeat.interval.ms": "200",
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": "-1",
    }
    return outbox, connector(outbox, OURS, **changes)


def test_relay_and_debezium_take_turns_on_one_slot_and_topic(stack, connect, tmp_path, monkeypatch):
    outbox, settings = to_be_shared(stack)
    slot = settings["slot.name"]
    for turn in ("relay", "debezium", "relay", "debezium", "relay"):
        outbox.insert_many(200, keys=10)  # while nobody reads
        if turn == "relay":
            with relaying_as(outbox, settings, tmp_path, monkeypatch):
                outbox.insert_many(200, keys=10)
                outbox.wait_published(outbox.written())
                outbox.wait_confirmed(slot=slot)  # Debezium repeats what is not
        else:
            connect.begin(outbox.name, settings)
            outbox.insert_many(200, keys=10)
            outbox.wait_published(outbox.written())
            connect.end(outbox.name)
        wait_until(lambda: not reads(outbox, slot), "the slot is free")
    assert outbox.assert_exactly_once_in_order() == 2_000


def test_the_relay_goes_on_after_a_debezium_that_was_killed(stack, tmp_path, monkeypatch):
    outbox, settings = to_be_shared(stack)
    worker = Connect(stack, tmp_path, flush_ms=3_600_000)  # it confirms nothing
    try:
        worker.begin(outbox.name, settings)
        wait_until(partial(reads, outbox, settings["slot.name"]), "Debezium reads")
        for _ in range(10):
            outbox.insert_many(50, keys=10)
        outbox.wait_published(outbox.written())
        outbox.insert_many(50, keys=10)
        worker.child.signal(signal.SIGKILL)
    finally:
        worker.close()
    wait_until(lambda: not reads(outbox, settings["slot.name"]), "the slot is free")
    outbox.insert_many(50, keys=10)
    with relaying_as(outbox, settings, tmp_path, monkeypatch):
        outbox.wait_published(outbox.written())
        assert outbox.assert_exactly_once_in_order() == 600
