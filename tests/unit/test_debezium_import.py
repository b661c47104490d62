"""A connector becomes a configuration of the relay, and whatever does not is said, with the weight that it has."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from outbox_relay import config
from outbox_relay.debezium.command import import_debezium
from outbox_relay.debezium.connector import NoConnectorError, read
from outbox_relay.debezium.imported import PASSWORD, imported
from outbox_relay.debezium.options import VERDICTS
from outbox_relay.debezium.written import toml

ROOT = Path(__file__).parents[2]
STRING = "org.apache.kafka.connect.storage.StringConverter"
JSON = "org.apache.kafka.connect.json.JsonConverter"
ROUTER = "io.debezium.transforms.outbox.EventRouter"
PLAIN = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "database.hostname": "db",
    "database.dbname": "shop",
    "database.user": "debezium",
    "database.password": "geheim",
    "topic.prefix": "shop",
    "table.include.list": "public.outbox",
    "plugin.name": "pgoutput",
    "transforms": "outbox",
    "transforms.outbox.type": ROUTER,
    "key.converter": STRING,
    "value.converter": STRING,
}
OPTION = "transforms.outbox."
ADDITIONAL = "table.fields.additional.placement"
OPTIONS = """
    table.field.event.id table.field.event.key table.field.event.type table.field.event.payload
    table.field.event.timestamp table.field.event.schema.version table.fields.additional.placement
    table.fields.additional.error.on.missing table.expand.json.payload table.json.payload.null.behavior
    table.op.invalid.behavior route.by.field route.topic.regex route.topic.replacement
    route.tombstone.on.empty.payload tracing.span.context.field tracing.operation.name
    tracing.with.context.field.only
"""


def outboxes(settings, tmp_path, monkeypatch):
    """The outboxes of the file that is made of a connector."""
    monkeypatch.setenv(PASSWORD, "it's")
    file = tmp_path / "relay.toml"
    file.write_text(toml(imported(settings, {})))
    (source,) = config.read(file).source
    return source.dsn, [one.outbox() for one in source.outbox]


def said(settings, worker=None):
    return {finding.setting: finding.changes for finding in imported(settings, worker or {}).findings}


def test_a_connector_with_nothing_set_is_taken_over_with_debeziums_defaults(tmp_path, monkeypatch):
    dsn, (outbox,) = outboxes(PLAIN, tmp_path, monkeypatch)
    assert dsn == "host=db port=5432 dbname=shop user=debezium password='it\\'s'"
    assert (outbox.schema, outbox.table, outbox.slot) == ("public", "outbox", "debezium")
    assert outbox.publication_name == "dbz_publication"
    assert imported(PLAIN, {}).outbox["cleanup"] is False
    assert outbox.route.name("order") == "outbox.event.order"
    names = outbox.columns
    assert (names.id, names.aggregatetype, names.aggregateid, names.payload) == (
        "id",
        "aggregatetype",
        "aggregateid",
        "payload",
    )
    assert (names.type, names.traceparent, names.tracestate) == (None, None, None)
    assert (outbox.shape.key, outbox.shape.value, outbox.shape.headers) == ("string", "string", "simple")
    assert not any(said(PLAIN).values())


def test_every_option_of_the_router_is_taken_over(tmp_path, monkeypatch):
    settings = PLAIN | {
        "table.include.list": "shop\\.events",
        "binary.handling.mode": "hex",
        "value.converter": JSON,
        "header.converter": JSON,
        "header.converter.schemas.enable": "false",
        OPTION + "table.field.event.id": "event_id",
        OPTION + "table.field.event.key": "key",
        OPTION + "table.field.event.type": "kind",
        OPTION + "table.field.event.payload": "body",
        OPTION + "table.field.event.timestamp": "at",
        OPTION + "table.field.event.schema.version": "version",
        OPTION + "table.fields.additional.placement": "kind:header:eventType, a:header , b:envelope:c,p:partition",
        OPTION + "route.by.field": "topic",
        OPTION + "route.topic.regex": "(?<first>\\w+)\\.(.*)",
        OPTION + "route.topic.replacement": "${first}-$2",
        OPTION + "route.tombstone.on.empty.payload": "true",
        OPTION + "table.expand.json.payload": "true",
        OPTION + "table.json.payload.null.behavior": "optional_bytes",
    }
    _, (outbox,) = outboxes(settings, tmp_path, monkeypatch)
    assert not any(said(settings).values())
    assert (outbox.schema, outbox.table) == ("shop", "events")
    names = outbox.columns
    assert (names.id, names.aggregatetype, names.aggregateid, names.type, names.payload) == (
        "event_id",
        "topic",
        "key",
        "kind",
        "body",
    )
    assert [(one.column, one.placement, one.name) for one in outbox.additional] == [
        ("a", "header", "a"),
        ("b", "envelope", "c"),
        ("p", "partition", "p"),
        ("at", "timestamp", "at"),
        ("version", "schema-version", "version"),
    ]
    assert outbox.route.name("ab.cd") == "ab-cd"
    shape = outbox.shape
    assert (shape.value, shape.headers, shape.binary, shape.schema_prefix) == (
        "json-with-schemas",
        "json",
        "hex",
        "shop",
    )
    assert (shape.expand_json, shape.json_nulls, shape.empty_is_tombstone) == (True, "keep", True)


def test_settles_own_connector_is_taken_over():
    settings = read((ROOT / "deploy" / "debezium" / "settle-account.json").read_text())
    found = imported(settings, {})
    assert not found.changes_records
    assert "password=${SETTLE_RELAY_PASSWORD}" in found.source["dsn"]
    assert found.outbox["slot"] == "settle_outbox_account"


def test_what_libpq_would_take_for_two_words_is_quoted():
    found = imported(PLAIN | {"database.user": "o'brien x"}, {})
    assert "user='o\\'brien x' " in found.source["dsn"]


def test_no_password_is_written():
    found = imported(PLAIN, {})
    assert "geheim" not in toml(found) + "".join(map(str, found.findings))


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"transforms": "outbox,mask", "transforms.mask.type": "X"}, "transforms.mask"),
        ({"value.converter": "io.confluent.connect.avro.AvroConverter"}, "value.converter"),
        # Eight bytes, and not its digits.
        ({"key.converter": "org.apache.kafka.connect.converters.LongConverter"}, "key.converter"),
        ({"table.include.list": "public.outbox_.*"}, "table.include.list"),
        ({"time.precision.mode": "connect"}, "time.precision.mode"),
        ({"column.mask.with.3.chars": "public.outbox.payload"}, "column.mask.with.3.chars"),
        ({"converters": "isbn"}, "converters"),
        ({OPTION + "route.topic.regex": "[a-z&&[^b]]"}, "route.topic.regex"),
        ({OPTION + "no.such.option": "x"}, "the router's no.such.option"),
        ({"no.such.setting": "x"}, "no.such.setting"),
        ({OPTION + "table.fields.additional.placement": "a:header:id"}, ADDITIONAL),
        ({OPTION + "table.fields.additional.placement": "a:footer"}, ADDITIONAL),
        ({"connector.class": "io.debezium.connector.mysql.MySqlConnector"}, "connector.class"),
        ({OPTION + "table.expand.json.payload": "true"}, "table.expand.json.payload"),
        ({OPTION + "predicate": "p", "predicates": "p", "predicates.p.type": "X"}, "transforms.outbox.predicate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_changes_records_is_said_to(changes, setting):
    assert said(PLAIN | changes)[setting] is True


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"heartbeat.interval.ms": "1000"}, "heartbeat.interval.ms"),
        ({"snapshot.mode": "initial"}, "snapshot.mode"),
        ({OPTION + "table.op.invalid.behavior": "fatal"}, "table.op.invalid.behavior"),
        ({"plugin.name": "decoderbufs"}, "plugin.name"),
        ({"internal.key.converter.schemas.enable": "false"}, "internal.key.converter.schemas.enable"),
        ({"table.include.list": "public.a,public.b"}, "slot.name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_leaves_records_as_they_are_is_said_without_alarm(changes, setting):
    assert said(PLAIN | changes)[setting] is False


def test_what_the_relay_does_anyhow_is_not_worth_a_line():
    assert not said(PLAIN | {"time.precision.mode": "adaptive", "lsn.flush.mode": "connector"}).keys() - {
        "database.password"
    }


def test_a_predicate_that_selects_the_outbox_is_not_needed():
    matches = "org.apache.kafka.connect.transforms.predicates.TopicNameMatches"
    settings = PLAIN | {
        OPTION + "predicate": "isOutbox",
        "predicates": "isOutbox",
        "predicates.isOutbox.type": matches,
        "predicates.isOutbox.pattern": "shop\\.public\\.outbox",
    }
    assert not any(said(settings).values())
    assert any(said(settings | {OPTION + "negate": "true"}).values())
    assert any(said(settings | {"predicates.isOutbox.pattern": "other"}).values())


def test_converters_of_the_worker_are_those_of_a_connector_that_names_none():
    settings = {name: value for name, value in PLAIN.items() if not name.endswith("converter")}
    assert said(settings)["value.converter"] is True
    worker = {"key.converter": STRING, "value.converter": JSON, "value.converter.schemas.enable": "false"}
    found = imported(settings, worker | {"bootstrap.servers": "k:9092"})
    assert not found.changes_records
    assert found.outbox["record"] == {"key": "string", "value": "json", "headers": "simple"}
    assert found.kafka == {"bootstrap": "k:9092"}


def test_settings_of_a_converter_are_those_of_whoever_names_it():
    """Kafka Connect takes a converter and its settings from one place: the connector, or else the worker."""
    without = {"value.converter.schemas.enable": "false"}
    worker = {"key.converter": STRING, "value.converter": JSON}
    assert (
        imported(PLAIN | {"value.converter": JSON}, worker | without).outbox["record"]["value"]
        == "json-with-schemas"
    )
    unnamed = {name: value for name, value in PLAIN.items() if not name.endswith("converter")}
    found = imported(unnamed | without, worker)
    assert found.outbox["record"]["value"] == "json-with-schemas"
    assert not found.changes_records


@pytest.mark.parametrize("kind", [STRING, "io.debezium.converters.BinaryDataConverter"])
def test_whether_schemas_are_enabled_says_nothing_to_a_converter_that_has_none(kind):
    settings = PLAIN | {"value.converter": kind, "value.converter.schemas.enable": "false"}
    assert said(settings) == said(PLAIN)


def test_debezium_servers_properties_are_taken_over():
    settings = read("""
        debezium.sink.type=kafka
        debezium.sink.kafka.producer.bootstrap.servers=k:9092
        debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector
        debezium.source.offset.storage.file.filename=data/offsets.dat
        debezium.source.offset.flush.interval.ms=0
        debezium.source.database.hostname=db
        debezium.source.database.password=${DB_PASSWORD}
        debezium.source.plugin.name=pgoutput
        debezium.source.table.include.list=public.outbox
        debezium.source.topic.prefix=shop
        debezium.transforms=outbox
        debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
        debezium.format.value=simplestring
        debezium.format.header.schemas.enable=false
        quarkus.http.port=8080
    """)
    found = imported(settings, {})
    assert not found.changes_records, [str(finding) for finding in found.findings]
    assert found.kafka == {"bootstrap": "k:9092"}
    record = found.outbox["record"]
    assert (record["key"], record["value"], record["headers"]) == ("json-with-schemas", "string", "json")
    assert said(settings | {"debezium.sink.type": "pulsar"})["debezium.sink.type"] is True


def test_messages_of_the_log_are_rows_of_the_outbox(tmp_path, monkeypatch):
    decode = "io.debezium.connector.postgresql.transforms.DecodeLogicalDecodingMessageContent"
    settings = PLAIN | {"transforms": "decode,outbox", "transforms.decode.type": decode}
    assert said(settings)["transforms.decode"] is True
    settings |= {"message.prefix.include.list": "shop"}
    _, (outbox,) = outboxes(settings, tmp_path, monkeypatch)
    assert outbox.messages == "shop"
    assert not any(said(settings).values())
    assert any(said(settings | {"message.prefix.include.list": "shop.*"}).values())
    assert any(said(PLAIN | {"message.prefix.include.list": "shop"}).values())


def test_several_tables_are_several_outboxes(tmp_path, monkeypatch):
    _, found = outboxes(PLAIN | {"table.include.list": "public.a, shop.b"}, tmp_path, monkeypatch)
    assert [(one.schema, one.table, one.slot) for one in found] == [("public", "a", None), ("shop", "b", None)]


@pytest.mark.parametrize(
    ("password", "variable"),
    [
        ("${env:DB_PASSWORD}", "DB_PASSWORD"),
        ("${file:/run/secrets/db.properties:pass-word}", "PASS_WORD"),
        ("${DB_PASSWORD:x}", "DB_PASSWORD"),
        # Not PASSWORD, and never USER: a shell has such variables of its own.
        ("${file:/run/secrets/db.properties:password}", "OUTBOX_PASSWORD"),
        ("${secrets:ns/db:user}", "OUTBOX_USER"),
    ],
)
def test_a_reference_to_a_secret_becomes_a_variable(password, variable):
    found = imported(PLAIN | {"database.password": password}, {})
    assert f"password=${{{variable}}}" in found.source["dsn"]
    if variable != "DB_PASSWORD":
        assert f"set the variable {variable}" in "".join(map(str, found.findings))


def test_a_connector_is_found_wherever_its_users_have_it():
    strimzi = {name: value for name, value in PLAIN.items() if name != "connector.class"}
    resource = {
        "kind": "KafkaConnector",
        "spec": {"class": PLAIN["connector.class"], "tasksMax": 1, "config": strimzi},
    }
    answer = {"name": "x", "config": PLAIN, "tasks": [], "type": "source"}
    for form in (resource, {"items": [resource]}, answer, {"x": {"info": answer}}, [answer]):
        assert read(json.dumps(form)) == PLAIN
    assert read("\ufeff" + json.dumps(PLAIN)) == PLAIN
    for several in ({"items": [resource, resource]}, [answer, answer]):
        with pytest.raises(NoConnectorError, match="2 connectors: give one"):
            read(json.dumps(several))
    for none in ([], {"items": []}, [1], {}):
        with pytest.raises(NoConnectorError, match="no settings of a connector"):
            read(json.dumps(none))


def test_yaml_is_not_taken_for_properties():
    with pytest.raises(NoConnectorError, match="kubectl get kafkaconnector NAME -o json"):
        read('apiVersion: kafka.strimzi.io/v1beta2\nkind: KafkaConnector\nspec:\n  config:\n    a.b: "c"\n')


def test_names_that_debezium_1_had_are_taken_for_those_of_today(tmp_path, monkeypatch):
    renamed = {"table.include.list": "table.whitelist", "topic.prefix": "database.server.name"}
    old = {
        renamed.get(name, name): value for name, value in (PLAIN | {"table.include.list": "shop.events"}).items()
    }
    _, (outbox,) = outboxes(old, tmp_path, monkeypatch)
    assert outbox.label == "shop.events"
    assert not any(said(old).values())


def run(tmp_path, text, argument=None, *options):
    app = typer.Typer()
    app.command()(import_debezium)
    file = tmp_path / "connector.json"
    file.write_text(text)
    return CliRunner().invoke(app, [argument or str(file), *options], input=text)


def test_the_command_prints_the_file_and_says_on_standard_error_what_is_not_in_it(tmp_path):
    done = run(tmp_path, json.dumps({"name": "x", "config": PLAIN | {"snapshot.mode": "initial"}}))
    assert done.exit_code == 0
    assert tomllib.loads(done.stdout)["source"][0]["outbox"][0]["slot"] == "debezium"
    assert "snapshot.mode: " in done.stderr
    done = run(tmp_path, json.dumps(PLAIN | {"converters": "isbn"}))
    assert done.exit_code == 3
    assert done.stderr.startswith("changes records: converters: ")
    assert tomllib.loads(done.stdout)
    done = run(tmp_path, "{}")
    assert (done.exit_code, done.stdout) == (2, "")
    done = run(tmp_path, json.dumps(PLAIN), "-")
    assert (done.exit_code, tomllib.loads(done.stdout)["source"][0]["outbox"][0]["slot"]) == (0, "debezium")
    assert "cannot be read" in run(tmp_path, "", str(tmp_path / "none")).stderr


@pytest.mark.parametrize("text", ["[" * 2_000, '{"config":' * 1_500 + "1" + "}" * 1_500])
def test_json_that_is_nested_too_deeply_is_one_line(tmp_path, text):
    done = run(tmp_path, text)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.endswith("it is no connector's JSON: it is nested too deeply\n")


def test_a_workers_file_that_is_no_text_is_one_line(tmp_path):
    worker = tmp_path / "worker.properties"
    worker.write_bytes(b"key.converter=\xff")
    done = run(tmp_path, json.dumps(PLAIN), None, "--worker", str(worker))
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert str(worker) in done.stderr


@pytest.mark.parametrize("expression", ["x[a-z&&[^b]]", "(" * 5_000 + ")" * 5_000, "x{99999999999999999999}"])
def test_an_expression_that_python_cannot_say_is_said(expression):
    matches = "org.apache.kafka.connect.transforms.predicates.TopicNameMatches"
    settings = PLAIN | {
        OPTION + "predicate": "p",
        "predicates": "p",
        "predicates.p.type": matches,
        "predicates.p.pattern": expression,
    }
    assert said(settings)["transforms.outbox.predicate"]
    assert said(PLAIN | {OPTION + "route.topic.regex": expression})["route.topic.regex"]


def test_the_documentation_names_every_option_of_the_router_and_every_setting_that_changes_records():
    page = (ROOT / "docs" / "debezium.md").read_text()
    router = OPTIONS.split()
    changing = [name for name, verdict in VERDICTS.items() if verdict.changes]
    named = set(re.findall(r"`([a-z.*]+)`", page))
    assert [
        name for name in (*router, *changing) if name not in named and name.replace(".to.*", ".*") not in named
    ] == []
