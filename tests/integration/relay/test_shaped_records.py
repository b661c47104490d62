"""Records of a shape: both readers make the same, repeats are known, and rows that make none block no others."""

import json
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from outbox_relay.dead import dead_rows
from outbox_relay.settings import RelaySettings
from tests.integration.relay.outbox import Outbox, header, running, wait_until
from tests.integration.relay.test_debezium import FOR_EVER, OF_ALL_TYPES, TYPES

COUNTED = """
    CREATE TABLE outbox (
        id bigint PRIMARY KEY, aggregatetype text NOT NULL, aggregateid int, type text, payload jsonb, part int,
        at timestamp)
"""
JSON = {"key": "json", "value": "json-with-schemas", "headers": "json-with-schemas", "schema_prefix": "shop"}


@contextmanager
def relaying_shaped(
    outbox, folder, record, additional=(), *, reader="wal", cleanup=True, initial=None, messages=None, **tables
):
    """A relay in this process whose outbox has records of a shape."""
    lines = ["[[source]]", f"dsn = {json.dumps(outbox.dsn)}", f'reader = "{reader}"', "poll_interval_s = 0.05"]
    lines += [f"cleanup = {json.dumps(cleanup)}", *([f'initial = "{initial}"'] if initial else [])]
    lines += ["[[source.outbox]]", *([f'messages = "{messages}"'] if messages else [])]
    for column, placement in additional:
        lines += ["[[source.outbox.additional]]", f'column = "{column}"', f'placement = "{placement}"']
    for name, table in (({"record": record} if record is not None else {}) | tables).items():
        lines += [f"[source.outbox.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    file = folder / f"{outbox.name}.toml"
    file.touch(0o600)
    file.write_text("\n".join(lines))
    with running(RelaySettings(relay_config=file, kafka_bootstrap=outbox.bootstrap)):
        yield


def wait_for_records(outbox, count):
    with outbox.consumer() as consumer:
        wait_until(lambda: outbox.length(consumer) >= count, f"{count} records are there")


def insert(outbox, number, *, payload='{"a": 1}', part=None, at="2020-01-02 03:04:05", kind="T"):
    outbox.connection.execute(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, part, at)"
        " VALUES (%s, %s, 7, %s, %s, %s, %s)",
        (number, outbox.name, kind, payload, part, at),
    )


@pytest.fixture
def counted(stack):
    outbox = Outbox(stack, table=False, topic_config=FOR_EVER)
    outbox.connection.execute(COUNTED)
    return outbox


def test_both_readers_and_a_new_slot_make_the_same_records(stack, tmp_path):
    seen = {}
    for way in ("table", "log", "polling"):
        outbox = Outbox(stack, table=False)
        create, inserts = OF_ALL_TYPES.split("INSERT", 1)
        outbox.connection.execute(create.replace("DEFAULT now()", "DEFAULT '2020-01-02 03:04:05.6Z'"))
        inserts = f"INSERT{inserts}".replace("'order'", f"'{outbox.name}'")
        additional = [(name, "envelope" if name in ("y", "n", "tz") else "header") for name in TYPES]
        if way == "table":
            outbox.connection.execute(inserts)
        reader = "polling" if way == "polling" else "wal"
        with relaying_shaped(outbox, tmp_path, JSON | {"expand_json": True}, additional, reader=reader):
            if way != "table":
                if way == "log":
                    outbox.wait_confirmed()
                outbox.connection.execute(inserts)
            wait_for_records(outbox, 2)
        seen[way] = sorted(
            (
                (record.key(), record.value().replace(outbox.name.encode(), b"order")),
                [field for field in record.headers() if field[0] not in ("id", "position")],
            )
            for record in outbox.records()
        )
    assert seen["table"] == seen["log"] == seen["polling"]


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_rows_that_are_known_by_their_contents_are_not_published_twice(counted, tmp_path, reader):
    places = [("part", "header"), ("at", "timestamp")]
    for number in range(20):
        insert(counted, number)
    with relaying_shaped(counted, tmp_path, JSON, places, cleanup=False):
        wait_for_records(counted, 20)
        counted.wait_confirmed()  # by then the slot is made
    counted.drop_slot()
    insert(counted, 20)
    with relaying_shaped(counted, tmp_path, JSON, places, cleanup=False, initial="all", reader=reader):
        wait_for_records(counted, 21)
        insert(counted, 21)
        wait_for_records(counted, 22)
    ids = sorted(json.loads(header(record, "id"))["payload"] for record in counted.records())
    assert ids == list(range(22))
    assert {record.timestamp()[1] for record in counted.records()} == {1_577_934_245_000}


def test_a_row_of_which_no_record_can_be_made_does_not_block_the_others(counted, tmp_path):
    places = [("part", "partition"), ("at", "timestamp")]
    with relaying_shaped(counted, tmp_path, {"value": "json", "expand_json": True}, places):
        insert(counted, 1, part=3)
        insert(counted, 2, part=4)
        insert(counted, 3, payload="[1]")
        insert(counted, 4, at="infinity")
        insert(counted, 5, at="2100-01-01")
        insert(counted, 6, at="1950-01-01")
        insert(counted, 7, payload='{"a":' * 600 + "1" + "}" * 600)
        insert(counted, 8, part=2, at=None)
        wait_for_records(counted, 2)
        wait_until(lambda: len(dead_rows(counted.connection)) == 6, "six rows are quarantined")
    assert [(record.partition(), header(record, "id")) for record in counted.records()] == [(2, "8"), (3, "1")]
    assert {dead.id: dead.reason for dead in dead_rows(counted.connection)} == {
        "2": f"part is 4, and {counted.topic} has no such partition",
        "3": "no record can be made of it: Debezium has no form for an array as a whole payload",
        "4": "no record can be made of it: Invalid isoformat string: 'infinity'",
        "5": f"Kafka refused it for {counted.topic}: its time is too far from that of the broker",
        "6": "no record can be made of it: at is 1950-01-01 00:00:00, and no record is as old as that",
        "7": "no record can be made of it: it is nested too deeply",
    }


def test_a_record_is_a_cloud_event_beside_what_it_is_otherwise(outbox, tmp_path):
    with relaying_shaped(outbox, tmp_path, {}, cloudevents={"source": "/shop", "type_prefix": "com.example."}):
        row_id = outbox.insert(payload='{"x" : 1}')
        outbox.wait_published([row_id])
    (record,) = outbox.records()
    assert record.value() == b'{"x" : 1}'
    assert [name for name, _ in record.headers()] == [
        "id",
        "eventType",
        "position",
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_time",
        "content-type",
    ]
    assert header(record, "ce_id") == header(record, "id") == row_id
    assert header(record, "ce_type") == "com.example.MoneyDeducted"
    assert header(record, "content-type") == "application/json"


def test_rows_whose_records_have_times_of_their_own_are_not_published_twice(counted, tmp_path):
    places = [("at", "timestamp")]
    copy = "SELECT pg_copy_logical_replication_slot(%s, %s)"
    with relaying_shaped(counted, tmp_path, JSON, places):
        counted.wait_confirmed()
    counted.one(copy, counted.slot, "before")
    with relaying_shaped(counted, tmp_path, JSON, places):
        for number in range(20):
            insert(counted, number)
        wait_for_records(counted, 20)
        counted.wait_confirmed()
    counted.drop_slot()
    counted.one(copy, "before", counted.slot)  # as after a crash of the server
    counted.drop_slot("before")
    with relaying_shaped(counted, tmp_path, JSON, places):
        insert(counted, 20)
        wait_for_records(counted, 21)
        counted.wait_confirmed()
    ids = [json.loads(header(record, "id"))["payload"] for record in counted.records()]
    assert sorted(ids) == list(range(21))


def test_a_column_that_makes_no_part_of_a_record_is_named_and_waited_for(counted, tmp_path):
    counted.connection.execute("ALTER TABLE outbox ADD place point")
    reason = "column place is of type point, of which no part of a record can be made"
    with capture_logs() as logs, relaying_shaped(counted, tmp_path, {}, [("place", "header")]):
        insert(counted, 1)
        wait_until(lambda: any(reason in str(line) for line in list(logs)), "it is said")
        counted.connection.execute("ALTER TABLE outbox ALTER place TYPE text USING place::text")
        wait_for_records(counted, 1)


def test_a_row_that_is_deleted_in_its_own_transaction_is_published(counted, tmp_path):
    with relaying_shaped(counted, tmp_path, {}):
        counted.wait_confirmed()
        with counted.connection.transaction():
            insert(counted, 1)
            counted.connection.execute("DELETE FROM outbox")
        wait_for_records(counted, 1)
