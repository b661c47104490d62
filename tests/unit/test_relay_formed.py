"""Records of a shape: CloudEvents in Kafka's binary mode, where columns go, and rows that make no record."""

import tracemalloc
from types import SimpleNamespace

import pytest

from outbox_relay.debezium.values import Column
from outbox_relay.errors import SetupError, UnpublishableError
from outbox_relay.formed import Former
from outbox_relay.identity import identity
from outbox_relay.outbox import Additional, Outbox
from outbox_relay.row import OutboxRow
from outbox_relay.shape import CloudEvents, Shape
from outbox_relay.table import Table

ID = b"01a20aeb-4358-716a-b291-9134760df1f7"
COMMITTED_US = 1_577_934_245_120_001
TRANSACTION = SimpleNamespace(commit_lsn=7, committed_us=COMMITTED_US, position=("position", b"p"))
COLUMNS = {
    "id": Column("id", "uuid"),
    "aggregatetype": Column("aggregatetype", "text"),
    "aggregateid": Column("aggregateid", "text"),
    "type": Column("type", "text"),
    "payload": Column("payload", "json", nullable=True),
}


def former(payload="json", additional=(), columns=None, **outbox):
    table = COLUMNS | {"payload": Column("payload", payload, nullable=True)} | (columns or {})
    return Former(Outbox(additional=tuple(additional), **outbox), table)


def row(payload=b"{}", *additional, event_type=b"Placed", **values):
    return OutboxRow(ID, b"order", b"k", event_type, payload, additional=additional)._replace(**values)


def made(of, row):
    return of(row, TRANSACTION)


def test_a_record_of_a_shape_that_changes_nothing_is_the_standard_one():
    record = made(former(shape=Shape()), row(traceparent=b"00-a", tracestate=b"v"))
    assert record[:4] == (b"k", b"{}", -1, 0)
    assert record.fields == [
        ("id", ID),
        ("eventType", b"Placed"),
        ("position", b"p"),
        ("traceparent", b"00-a"),
        ("tracestate", b"v"),
    ]


@pytest.mark.parametrize(
    ("payload", "content_type"),
    [("jsonb", "application/json"), ("bytea", "application/octet-stream"), ("text", "text/plain; charset=utf-8")],
)
def test_a_cloud_event_has_the_headers_of_the_binding(payload, content_type):
    events = CloudEvents("/shop/orders", type_prefix="com.example.", subject=True)
    fields = dict(made(former(payload, events=events), row()).fields)
    assert fields["id"] == ID
    assert {name: value for name, value in fields.items() if name.startswith("c")} == {
        "ce_specversion": "1.0",
        "ce_id": ID,
        "ce_source": "/shop/orders",
        "ce_type": b"com.example.Placed",
        "ce_time": "2020-01-02T03:04:05.120001Z",
        "ce_subject": b"k",
        "content-type": content_type,
    }


def test_a_cloud_event_without_data_says_no_content_type_and_one_with_may_say_its_own():
    events = CloudEvents("/shop", content_type="application/avro")
    fields = dict(made(former(events=events), row(None)).fields)
    assert "content-type" not in fields
    assert "ce_subject" not in fields
    assert dict(made(former(events=events), row()).fields)["content-type"] == "application/avro"


@pytest.mark.parametrize("event_type", [None, b""])
def test_a_cloud_event_needs_a_type(event_type):
    with pytest.raises(UnpublishableError, match="a CloudEvent needs a type"):
        made(former(events=CloudEvents("/shop")), row(event_type=event_type))


def test_columns_go_where_they_are_to():
    places = [
        Additional("a", "header", "x"),
        Additional("p", "partition"),
        Additional("at", "timestamp"),
        Additional("none", "header", optional=True),
    ]
    columns = {
        "a": Column("a", "bool", nullable=True),
        "p": Column("p", "int4", nullable=True),
        "at": Column("at", "timestamptz", 3, nullable=True),
    }
    of = former(additional=places, columns=columns, shape=Shape())
    record = made(of, row(b"{}", b"t", b"3", b"2020-01-02 03:04:05.12+00", None))
    assert (record.partition, record.timestamp_ms) == (3, 1_577_934_245_120)
    assert ("x", b"true") in record.fields
    assert "none" not in dict(record.fields)
    record = made(of, row(b"{}", None, None, None, None))
    assert (record.partition, record.timestamp_ms) == (-1, 0)
    assert ("x", None) in record.fields


def test_an_envelope_has_the_payload_first_and_null_is_a_columns_default():
    places = [Additional("n", "envelope", "number"), Additional("v", "schema-version")]
    columns = {"n": Column("n", "int4", -1, True, "5"), "v": Column("v", "int4")}
    shape = Shape(value="json-with-schemas", schema_prefix="shop")
    value = made(former(additional=places, columns=columns, shape=shape), row(b'{"a":1}', None, b"3")).value
    assert value.endswith(b'"payload":{"payload":"{\\"a\\":1}","number":5}}')
    assert b'"optional":false,"name":"shop.public.outbox.order.Value","version":3}' in value


@pytest.mark.parametrize(("payload", "kind"), [(None, "json"), (b"", "text"), (b" \n", "text"), (None, "bytea")])
def test_an_empty_payload_is_a_tombstone_where_that_is_asked_for(payload, kind):
    assert made(former(kind, shape=Shape(value="json", empty_is_tombstone=True)), row(payload)).value is None
    assert made(former(kind, shape=Shape(empty_is_tombstone=True)), row(payload)).value is None
    assert made(former(kind, shape=Shape(value="json")), row(payload)).value is not None


def test_null_is_no_tombstone_where_the_column_has_a_default():
    columns = {"payload": Column("payload", "json", -1, True, "'{}'::json")}
    assert made(former(columns=columns, shape=Shape(empty_is_tombstone=True)), row(None)).value == b"{}"


def test_empty_bytes_are_no_tombstone():
    assert made(former("bytea", shape=Shape(empty_is_tombstone=True)), row(b"")).value == b""


@pytest.mark.parametrize(
    ("kind", "payload", "shape"),
    [
        ("json", b"[1]", Shape(value="json", expand_json=True)),
        ("json", b"{}", Shape(value="bytes")),
        ("text", b"\xff", Shape(value="json")),
    ],
)
def test_a_row_at_which_debezium_ends_is_unpublishable(kind, payload, shape):
    with pytest.raises(UnpublishableError, match="no record can be made of it: "):
        made(former(kind, shape=shape), row(payload))


@pytest.mark.parametrize("value", ["json", "json-with-schemas"])
def test_json_that_is_nested_too_deeply_is_unpublishable(value):
    of = former("text", shape=Shape(value=value, expand_json=True))
    deep = row(b'{"a":' * 600 + b"1" + b"}" * 600)
    for make in (lambda: made(of, deep), lambda: of.contents(deep, "t", 7)):
        with pytest.raises(UnpublishableError, match="no record can be made of it: it is nested too deeply"):
            make()


@pytest.mark.parametrize("inner", ["{{{}}}", '{{"a":{{{}}}}}', '{{"a":[{{{}}}]}}'])
def test_payloads_whose_names_are_data_take_no_memory_for_good(inner):
    of = former("text", shape=Shape(value="json-with-schemas", expand_json=True))

    def write(numbers):
        for number in numbers:
            names = ",".join(f'"user-{number}-{field}":1' for field in range(1_000))
            made(of, row(inner.format(names).encode()))

    write(range(2))
    tracemalloc.start()
    try:
        write(range(2, 22))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_time_that_no_record_can_have_is_unpublishable():
    places, columns = [Additional("at", "timestamp")], {"at": Column("at", "timestamp")}
    with pytest.raises(UnpublishableError):
        made(former(additional=places, columns=columns, shape=Shape()), row(b"{}", b"infinity"))


@pytest.mark.parametrize("placement", ["timestamp", "partition", "schema-version"])
def test_a_column_of_the_wrong_type_is_refused_before_a_row_comes(placement):
    with pytest.raises(SetupError, match=f"and (a|no) {placement}"):
        former(additional=[Additional("t", placement)], columns={"t": Column("t", "text")}, shape=Shape())


def test_a_table_that_is_looked_at_again_is_the_same_until_a_column_is_another():
    outbox = Outbox(shape=Shape())
    table, again = (Table(outbox, {}, COLUMNS, Former(outbox, COLUMNS)) for _ in range(2))
    assert table == again
    changed = COLUMNS | {"type": Column("type", "text", default="'x'::text")}
    assert table != Table(outbox, {}, changed, Former(outbox, changed))


@pytest.mark.parametrize("headers", ["string", "json", "json-with-schemas"])
def test_a_row_is_known_by_its_uuid_however_headers_are_written(headers):
    of = former(shape=Shape(headers=headers, value="json"))
    record = made(of, row())
    assert identity(*of.contents(row(), "t", 7)) == bytes.fromhex(ID.decode().replace("-", ""))
    fields = dict(record.fields)
    assert identity(fields["id"], "t", record.key, fields["eventType"], record.value) == identity(
        *of.contents(row(), "t", 7)
    )
