"""Values, converters, expansion and routes are Debezium's; what is compared was written by Debezium 3.4 itself."""

import json
from base64 import b64decode

import pytest

from outbox_relay.debezium import converters, expansion
from outbox_relay.debezium.connector import NoConnectorError, properties, read
from outbox_relay.debezium.regex import RegexError, router
from outbox_relay.debezium.values import Column, typed
from outbox_relay.errors import SetupError

ZONED = '"name":"io.debezium.time.ZonedTimestamp","version":1'


def numeric(precision, scale):
    return (precision << 16 | scale) + 4


@pytest.mark.parametrize(
    ("column", "raw", "text", "written"),
    [
        (("i4", "int4", -1, True, "5"), "7", "7", '{"type":"int32","optional":true,"default":5},"payload":7'),
        (("b", "bool", -1, True), "t", "true", '{"type":"boolean","optional":true},"payload":true'),
        (
            ("tz", "timestamptz", -1, True),
            "2020-01-02 03:04:05.12+00",
            "2020-01-02T03:04:05.120000Z",
            f'{{"type":"string","optional":true,{ZONED}}},"payload":"2020-01-02T03:04:05.120000Z"',
        ),
        (
            ("tz3", "timestamptz", 3, True),
            "2020-01-02 03:04:05.12+00",
            "2020-01-02T03:04:05.120Z",
            f'{{"type":"string","optional":true,{ZONED}}},"payload":"2020-01-02T03:04:05.120Z"',
        ),
        (
            ("tz0", "timestamptz", 0, False, "now()"),
            "2020-01-02 03:04:05+00",
            "2020-01-02T03:04:05Z",
            f'{{"type":"string","optional":false,{ZONED},"default":"1970-01-01T00:00:00Z"}},"payload":"2020-01-02T03:04:05Z"',
        ),
        (
            ("ts", "timestamp", -1, True, "'2020-01-02 03:04:05'::timestamp without time zone"),
            "2020-01-02 03:04:05.12",
            "1577934245120000",
            '{"type":"int64","optional":true,"name":"io.debezium.time.MicroTimestamp","version":1,'
            '"default":1577934245000000},"payload":1577934245120000',
        ),
        (
            ("ts3", "timestamp", 3, True),
            "2020-01-02 03:04:05.12",
            "1577934245120",
            '{"type":"int64","optional":true,"name":"io.debezium.time.Timestamp","version":1},"payload":1577934245120',
        ),
        (
            ("d", "date", -1, True),
            "2020-01-02",
            "18263",
            '{"type":"int32","optional":true,"name":"io.debezium.time.Date","version":1},"payload":18263',
        ),
        (
            ("n", "numeric", numeric(10, 2), True),
            "1.50",
            "1.50",
            '{"type":"bytes","optional":true,"name":"org.apache.kafka.connect.data.Decimal","version":1,'
            '"parameters":{"scale":"2","connect.decimal.precision":"10"}},"payload":"AJY="',
        ),
        (
            ("nd", "numeric", numeric(6, 2), True, "1.5"),
            "-7.00",
            "-7.00",
            '{"type":"bytes","optional":true,"name":"org.apache.kafka.connect.data.Decimal","version":1,'
            '"parameters":{"scale":"2","connect.decimal.precision":"6"},"default":"AJY="},"payload":"/UQ="',
        ),
        (
            ("m", "enum", -1, False, "'ok'::mood", "mood", "sad,ok"),
            "sad",
            "sad",
            '{"type":"string","optional":false,"name":"io.debezium.data.Enum","version":1,'
            '"parameters":{"allowed":"sad,ok"},"default":"ok"},"payload":"sad"',
        ),
        (
            ("u", "uuid", -1, False, "gen_random_uuid()"),
            "1f205a61-b371-405d-89bd-add6b6910cd1",
            "1f205a61-b371-405d-89bd-add6b6910cd1",
            '{"type":"string","optional":false,"name":"io.debezium.data.Uuid","version":1,'
            '"default":"00000000-0000-0000-0000-000000000000"},"payload":"1f205a61-b371-405d-89bd-add6b6910cd1"',
        ),
        (
            ("td", "text", -1, False, "upper('x'::text)"),
            "X",
            "X",
            '{"type":"string","optional":false,"default":""},"payload":"X"',
        ),
        (("f8", "float8", -1, True), "1.5", "1.5", '{"type":"double","optional":true},"payload":1.5'),
        (("f4", "float4", -1, True), "1e+10", "1.0E10", '{"type":"float","optional":true},"payload":1.0E10'),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_column_is_written_as_connect_writes_it(column, raw, text, written):
    schema, parse = typed(Column(*column))
    value = parse(raw.encode())
    assert converters.string(schema, value) == text.encode()
    assert converters.json_with_schemas(schema, value) == f'{{"schema":{written}}}'.encode()
    assert converters.json_without_schemas(schema, value) == written.partition(',"payload":')[2].encode()


@pytest.mark.parametrize(("precision", "scale"), [(78, 0), (38, 10), (1000, 1000), (1000, 500)])
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_decimal_keeps_all_digits_that_its_column_can_hold(precision, scale, sign):
    schema, parse = typed(Column("n", "numeric", numeric(precision, scale)))
    digits = "123456789" * (precision // 9) + "1" * (precision % 9)
    whole = digits[: precision - scale] or "0"
    raw = f"{sign}{whole}.{digits[precision - scale :]}" if scale else f"{sign}{digits}"
    value = parse(raw.encode())
    assert converters.string(schema, value) == raw.encode()
    written = json.loads(converters.json_without_schemas(schema, value))
    assert int.from_bytes(b64decode(written), "big", signed=True) == int(f"{sign}{digits}")


def test_bytes_are_base64_in_json_and_themselves_for_a_converter_of_bytes():
    schema, parse = typed(Column("b", "bytea", -1, True))
    value = parse(rb"\x0102")
    assert converters.json_without_schemas(schema, value) == b'"AQI="'
    assert converters.simple_header(schema, value) == b"AQI="
    assert converters.binary(schema, value) == b"\x01\x02"
    with pytest.raises(ValueError, match="no form for bytes"):
        converters.string(schema, value)


def test_a_text_is_no_bytes():
    schema, parse = typed(Column("t", "text"))
    with pytest.raises(ValueError, match="takes no string"):
        converters.binary(schema, parse(b"x"))


@pytest.mark.parametrize("raw", ["infinity", "-infinity", "0044-03-15 00:00:00 BC"])
def test_a_time_that_connect_does_not_know_makes_no_value(raw):
    _, parse = typed(Column("ts", "timestamp"))
    with pytest.raises(ValueError):
        parse(raw.encode())


def test_a_type_of_which_there_is_no_form_is_refused_by_name():
    with pytest.raises(SetupError, match=r"column p is of type point"):
        typed(Column("p", "point", declared="point"))


def test_strings_are_escaped_as_jackson_does():
    assert converters.text('a\x01\x1f\t"\\\u2028é/') == '"a\\u0001\\u001F\\t\\"\\\\\u2028é/"'


@pytest.mark.parametrize(
    ("number", "java"),
    [
        (0.001, "0.001"),
        (9.9e-4, "9.9E-4"),
        (9999999.0, "9999999.0"),
        (1e7, "1.0E7"),
        (100.0, "100.0"),
        (-0.0, "-0.0"),
    ],
)
def test_doubles_are_written_as_java_does(number, java):
    assert converters.java_double(number) == java


def expand(text, *, keep_nulls=False):
    schema, value = expansion.expanded(text, "payload", keep_nulls=keep_nulls)
    return converters.json_without_schemas(schema, value).decode()


@pytest.mark.parametrize(
    ("payload", "written"),
    [
        ('{"a": 1, "b": [1, 2], "c": null, "d": {"e": 1.5}, "em": []}', '{"a":1,"b":[1,2],"d":{"e":1.5}}'),
        ('{"l": [{"x": 1}, {"x": 2}]}', '{"l":[{"x":1},{"x":2}]}'),
        ('{"l": [{"x": 1}, {"x": 1, "y": "z"}]}', '{"l":[{"x":1,"y":null},{"x":1,"y":"z"}]}'),
        ('{"l": [null, 1]}', '{"l":[null,1]}'),
        ('{"n": 1e2, "m": -0.5, "k": 9007199254740993}', '{"n":100.0,"m":-0.5,"k":9007199254740993}'),
        ("{}", "{}"),
    ],
)
def test_json_is_expanded(payload, written):
    assert expand(payload) == written


def test_objects_that_differ_share_a_schema_that_is_not_optional():
    schema, _ = expansion.expanded('{"l": [{"x": 1}, {"y": "z"}], "k": [{}]}', "payload", keep_nulls=False)
    assert converters.schema_written(dict(schema.fields)["l"]) == (
        '{"type":"array","items":{"type":"struct","fields":[{"type":"int32","optional":true,"field":"x"},'
        '{"type":"string","optional":true,"field":"y"}],"optional":false,"name":"payload.l"},"optional":true}'
    )
    assert dict(schema.fields)["k"].items.optional


def test_nulls_are_kept_where_they_are_to_be():
    assert expand('{"a": null, "b": [null]}', keep_nulls=True) == '{"a":null,"b":[null]}'


@pytest.mark.parametrize(
    "payload",
    [
        '"text"',
        "1",
        "{",
        '{"a": [1, "x"]}',
        '{"a": [1, 2147483648]}',
        '{"a": [1, 1.5]}',
        '{"a": [null]}',
        '{"a": NaN}',
    ],
)
def test_json_without_a_schema_stays_text(payload):
    with pytest.raises(expansion.NoSchemaError):
        expand(payload)


@pytest.mark.parametrize(
    "payload", ["[1]", '{"a": 100000000000000000000}', '{"a": [{"x": 1}, {"x": "y"}]}', '{"a": [[1], ["x"]]}']
)
def test_json_at_which_debezium_ends_is_refused(payload):
    with pytest.raises(ValueError) as caught:
        expand(payload)
    assert not isinstance(caught.value, expansion.NoSchemaError)


@pytest.mark.parametrize(
    ("regex", "replacement", "value", "topic"),
    [
        ("(?<routedByValue>.*)", "outbox.event.${routedByValue}", "order", "outbox.event.order"),
        ("(.*)_(\\d+)", "t.$1-$23", "ab_12", "t.ab-123"),
        ("order", "orders", "invoice", "invoice"),
        ("order", "x", "orders", "orders"),
        ("\\w+", "x", "é", "é"),
        ("a|ab", "x", "ab", "xb"),
        ("(?i)ORDER(s?)", "o$1", "order", "o"),
        ("\\Qa.b\\E", "x", "a.b", "x"),
        ("[\\w]+", "\\$x", "ab", "$x"),
        ("[]a]+", "x", "a]", "x"),
        ("\\p{Alpha}+[\\p{Digit}]", "x", "ab1", "x"),
        ("(?<a>.)\\k<a>", "${a}", "zz", "z"),
        ("(a++)(?>b)", "$1", "aab", "aa"),
    ],
)
def test_topics_are_routed_as_java_does(regex, replacement, value, topic):
    assert router(regex, replacement)(value) == topic


@pytest.mark.parametrize(
    ("regex", "replacement", "why"),
    [
        ("(", "x", "no regular expression"),
        ("[a-z&&[^b]]", "x", "character classes"),
        ("\\p{IsGreek}", "x", "Python"),
        ("(.*)", "$2", "a group that the expression has not"),
        ("(.*)", "${b}", "a group 'b'"),
        ("(.*)", "a$", "single"),
    ],
)
def test_a_route_that_python_cannot_follow_is_refused(regex, replacement, why):
    with pytest.raises(RegexError, match=why):
        router(regex, replacement)


def test_a_connector_is_read_in_each_form_that_its_users_have():
    expected = {"connector.class": "x", "tasks.max": "1", "tombstones.on.delete": "false"}
    for text in (
        '{"name": "n", "config": {"connector.class": "x", "tasks.max": 1, "tombstones.on.delete": false}}',
        '{"connector.class": "x", "tasks.max": 1, "tombstones.on.delete": false}',
        "connector.class=x\n# a comment\ntasks.max : 1\ntombstones.on.delete=fal\\\n   se",
    ):
        assert read(text) == expected


def test_debezium_servers_settings_come_by_connects_names():
    found = read(
        "debezium.sink.type=kafka\ndebezium.sink.kafka.producer.bootstrap.servers=k:9092\n"
        "debezium.source.database.dbname=shop\ndebezium.transforms=outbox\ndebezium.transforms.outbox.type=T\n"
        "debezium.format.value=simplestring\ndebezium.format.key.schemas.enable=false\nquarkus.log.level=INFO\n"
    )
    json_converter = "org.apache.kafka.connect.json.JsonConverter"
    assert found == {
        "debezium.sink.type": "kafka",
        "producer.override.bootstrap.servers": "k:9092",
        "database.dbname": "shop",
        "transforms": "outbox",
        "transforms.outbox.type": "T",
        "key.converter": json_converter,
        "key.converter.schemas.enable": "false",
        "value.converter": "org.apache.kafka.connect.storage.StringConverter",
        "header.converter": json_converter,
        "quarkus.log.level": "INFO",
    }


def test_properties_are_read_as_java_does():
    assert properties("! no\n a\\ b = c\\u00e9\\td\nempty\nx=y=z\n") == {"a b": "cé\td", "empty": "", "x": "y=z"}


def test_what_is_no_connector_is_said():
    for text in ("{", '{"a": 1}', "a=1"):
        with pytest.raises(NoConnectorError):
            read(text)
