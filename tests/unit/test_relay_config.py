"""The relay's configuration file: what it makes of an outbox, and each mistake in one line with its place."""

import os
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from contracts.variables import complaint
from outbox_relay.config import ConfigurationError, read
from outbox_relay.errors import RelayError, UnpublishableError
from outbox_relay.outbox import OUTBOX, Additional, ColumnNames, Outbox, Route
from outbox_relay.plan import plan
from outbox_relay.quoting import quoted, shortened
from outbox_relay.row import OutboxRow
from outbox_relay.settings import RelaySettings
from outbox_relay.topic import topic_named, topic_of

ROOT = Path(__file__).parents[2]
DSN = "postgresql://relay@db1/shop"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SETTLE_", "OTEL_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path):
    """Writes a configuration file that nobody else may read."""
    path = tmp_path / "relay.toml"
    path.touch(0o600)

    def write(text):
        path.write_text(text)
        return path

    return write


def sources(path, **given):
    return plan(RelaySettings(relay_config=path, **given)).sources


def refused(path, **given):
    with pytest.raises(RelayError) as error:
        sources(path, **given)
    return str(error.value).replace(str(path), "relay.toml").splitlines()


def test_a_database_alone_has_the_standard_outbox(file):
    (one,) = sources(file(f'[[source]]\ndsn = "{DSN}"\n'))
    assert (one.dsn, one.outbox, one.reader, one.cleanup, one.initial) == (DSN, OUTBOX, "wal", True, None)


def test_a_split_outbox_is_as_many_sources_which_one_process_or_several_carry(file):
    path = file(
        f"""
        [relay]
        processes = 2

        [[source]]
        dsn = "{DSN}"

        [[source.outbox]]
        split = 3

        [[source.outbox]]
        table = "mails"
        name = "post"
        split = 2
        """
    )
    made = plan(RelaySettings(relay_config=path))
    assert [one.name for one in made.sources] == ["shop-1", "shop-2", "shop-3", "post-1", "post-2"]
    assert [one.outbox.share.name for one in made.sources] == ["1of3", "2of3", "3of3", "1of2", "2of2"]
    assert made.settings.relay_processes == 2
    assert plan(RelaySettings(relay_config=path, relay_processes=4)).settings.relay_processes == 4


def test_every_key_has_its_effect(file):
    whole, plain = sources(
        file(f"""
            [kafka]
            bootstrap = "kafka:9092"

            [[source]]
            dsn = "{DSN}"
            reader = "polling"
            cleanup = false
            initial = "none"
            poll_interval_s = 2

            [[source.outbox]]
            name = "bills"
            schema = "Billing"
            table = "event log"
            publication = "Bills"
            slot = "bills"
            dead_table = "dead bills"
            reader = "wal"
            cleanup = true
            initial = "all"
            poll_interval_s = 0.5
            columns = {{ id = "ID", type = false, created_at = "at", published_at = "sent" }}
            route = {{ regex = "bill.(.*)", replacement = "bills.$1" }}
            additional = [{{ column = "tenant", name = "x-tenant" }}, {{ column = "n", placement = "partition" }}]

            [[source.outbox]]
            table = "plain"
            """)
    )
    assert whole.outbox == Outbox(
        schema="Billing",
        table="event log",
        columns=ColumnNames(id="ID", type=None, created_at="at", published_at="sent"),
        route=Route(regex="bill.(.*)", replacement="bills.$1"),
        additional=(Additional("tenant", "header", "x-tenant"), Additional("n", "partition")),
        publication="Bills",
        slot="bills",
        dead_table="dead bills",
    )
    assert (whole.name, whole.bootstrap, whole.reader, whole.cleanup) == ("bills", "kafka:9092", "wal", True)
    assert (whole.initial, whole.poll_interval_s) == ("all", 0.5)
    # What an outbox does not say, its source says.
    assert (plain.reader, plain.cleanup, plain.initial, plain.poll_interval_s) == ("polling", False, "none", 2)


PLACEMENTS = "Input should be 'header', 'partition', 'envelope', 'timestamp' or 'schema-version'"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "[[source]",
            ["relay.toml is not TOML: Expected ']]' at the end of an array declaration (at line 1, column 9)"],
        ),
        ("x = 1", ["relay.toml: x: there is no such key; there are kafka, http, relay, source"]),
        ("[[source]]", ["relay.toml: source[0].dsn: is missing"]),
        ("[relay]\nprocesses = 0", ["relay.toml: relay.processes: Input should be greater than or equal to 1"]),
        (
            f'[[source]]\ndsn = "{DSN}"\n[[source.outbox]]\nsplit = 65',
            ["relay.toml: source[0].outbox[0].split: Input should be less than or equal to 64"],
        ),
        (
            f'[[source]]\ndsn = "{DSN}"\n[[source.outbox]]\nsplit = 2\nmessages = "outbox"',
            ["relay.toml: source[0].outbox[0]: messages cannot be split, as no publication filters them"],
        ),
        (
            f'[[source]]\ndsn = "{DSN}"\n[[source.outbox]]\nsplit = 2\nslot = "{"s" * 57}"',
            [
                "relay.toml: source[0].outbox[0]: slot has more than 56 characters, and shares add some",
            ],
        ),
        ("[kafka]\nbootsrap = 'k'", ["relay.toml: kafka.bootsrap: there is no such key: did you mean bootstrap?"]),
        ("[http]\nport = 99999", ["relay.toml: http.port: Input should be less than or equal to 65535"]),
        ("[http]\nport = '80'", ["relay.toml: http.port: takes a number"]),
        ("[source]\ndsn = 'x'", ["relay.toml: source: takes tables, each under [[source]]"]),
        (
            "[[source]]\ndsn = 'dbname=x'\n[source.outbox]",
            ["relay.toml: source[0].outbox: takes tables, each under [[source.outbox]]"],
        ),
        ("a = " + "[" * 5_000, ["relay.toml is not TOML: maximum recursion depth exceeded"]),
    ],
)
def test_a_wrong_file_is_refused(file, text, lines):
    assert refused(file(text)) == lines


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("tabel = 'x'", "tabel: there is no such key: did you mean table?"),
        ("table = 5", "table: takes a text"),
        ("table = ''", "table: a name has at least one character, and no % among them"),
        ("table = '100%'", "table: a name has at least one character, and no % among them"),
        (f"schema = '{'s' * 64}'", "schema: PostgreSQL keeps 63 bytes of a name, and this one is longer"),
        ("columns.id = false", "columns.id: takes a text"),
        ("columns.typ = 'x'", "columns.typ: there is no such key: did you mean type?"),
        ("slot = 'My slot'", "slot: the name of a slot has 1 to 63 of a-z, 0-9 and _"),
        ("route.topic = 'a b'", "route.topic: the name of a topic has 1 to 249 of a-z, A-Z, 0-9, ., _ and -"),
        ("route.regex = 'x'", "route: regex and replacement go together"),
        (
            "route = { regex = 'x', replacement = 'y', topic = 'z' }",
            "route: either topic, or regex and replacement",
        ),
        (
            "route = { regex = '(', replacement = 'y' }",
            "route: '(' is no regular expression: missing ), unterminated subpattern at position 0",
        ),
        (
            "route = { regex = '(x)', replacement = '$2' }",
            "route: replacement '$2' has $2, a group that the expression has not",
        ),
        ("route = { regex = '(x)', replacement = '$x.$1' }", "route: replacement makes no name of a topic"),
        ("reader = 'log'", "reader: Input should be 'wal' or 'polling'"),
        ("initial = 'some'", "initial: not all, none, or since=2026-11-28T10:00:00Z"),
        ("poll_interval_s = 0", "poll_interval_s: Input should be greater than 0"),
        ("cleanup = 'no'", "cleanup: takes true or false"),
        ("columns = []", "columns: takes a table, as { key = value }"),
        ("additional = { column = 'x' }", "additional: takes a list, as [ … ]"),
        ("additional = [{}]", "additional[0].column: is missing"),
        (
            "additional = [{ column = 'x', placement = 'key' }]",
            f"additional[0].placement: {PLACEMENTS}",
        ),
    ],
)
def test_a_wrong_key_of_an_outbox_is_named_with_its_place(file, key, line):
    text = f"[[source]]\ndsn = '{DSN}'\n[[source]]\ndsn = '{DSN}'\n[[source.outbox]]\n[[source.outbox]]\n{key}\n"
    assert refused(file(text)) == [f"relay.toml: source[1].outbox[1].{line}"]


@pytest.mark.parametrize(
    ("outboxes", "line"),
    [
        ("[{}, {}]", "source[0]: two of its outboxes are the same table"),
        ("[{ slot = 'a' }, { table = 'x', slot = 'a' }]", "source[0]: two of its outboxes have the same slot"),
        ("[]", "source[0]: a source has at least one outbox"),
        ("[{ dead_table = 'outbox' }]", "source[0].outbox[0]: dead_table is the outbox itself"),
        (
            "[{ additional = [{ column = 'x', name = 'position' }] }]",
            "source[0].outbox[0]: the header position has a value already: give the column x another",
        ),
        (
            "[{ additional = [{ column = 'eventType' }] }]",
            "source[0].outbox[0]: the header eventType has a value already: give the column eventType another",
        ),
        (
            "[{ columns = { aggregatetype = false } }]",
            "source[0].outbox[0]: without a column aggregatetype nothing makes a topic: say route.topic",
        ),
    ],
)
def test_outboxes_that_do_not_fit_together_are_refused(file, outboxes, line):
    assert refused(file(f"[[source]]\ndsn = '{DSN}'\noutbox = {outboxes}\n")) == [f"relay.toml: {line}"]


def test_all_mistakes_are_named_at_once(file):
    lines = refused(file("[[source]]\nreader = 'x'\n[[source]]\ndsn = 'nowhere'\n"))
    assert [line.split(": ")[1] for line in lines] == ["source[0].reader", "source[0].dsn", "source[1].dsn"]


def test_a_secret_is_in_a_variable_or_a_file(file, tmp_path, monkeypatch):
    (tmp_path / "password").write_text("p@ss/w'ord\n")
    monkeypatch.setenv("PASSWORD", "p@ss/w'ord")
    monkeypatch.setenv("WHOLE", DSN)
    text = "".join(
        f'[[source]]\ndsn = "{dsn}"\n'
        for dsn in (
            "postgresql://relay:${PASSWORD}@db1/shop",
            f"postgresql://relay:${{file:{tmp_path}/password}}@db1/shop",
            "host=db1 dbname=shop password=${PASSWORD}",
            "${WHOLE}",
        )
    )
    quoted_in_url = "postgresql://relay:p%40ss%2Fw%27ord@db1/shop"
    in_words = "host=db1 dbname=shop password='p@ss/w\\'ord'"
    assert [one.dsn for one in sources(file(text))] == [quoted_in_url, quoted_in_url, in_words, DSN]


def test_a_secret_that_is_not_there_is_named(file):
    text = '[[source]]\ndsn = "${NOBODYS}"\n[[source]]\ndsn = "${file:/nowhere}"\n'
    assert refused(file(text)) == [
        "relay.toml: source[0].dsn: NOBODYS is not set",
        "relay.toml: source[1].dsn: file=/nowhere cannot be read: No such file or directory",
    ]


def test_a_password_that_others_can_read_is_refused(file):
    path = file('[[source]]\ndsn = "postgresql://relay:secret-1@db1/shop"\n')
    assert [one.dsn for one in sources(path)] == ["postgresql://relay:secret-1@db1/shop"]
    path.chmod(0o644)
    (line,) = refused(path)
    assert line.startswith(
        "relay.toml: source[0].dsn: has a password, and every user of this machine can read the"
    )
    assert "secret-1" not in line


def test_a_token_comes_from_the_file_a_variable_or_a_file_that_it_names(file, monkeypatch, tmp_path):
    token, source = "a-token-of-this-test", f'[[source]]\ndsn = "{DSN}"\n'
    in_file = file(f'http.token = "{token}"\n{source}')
    assert plan(RelaySettings(relay_config=in_file)).settings.relay_http_token == token
    in_file.chmod(0o644)
    (line,) = refused(in_file)
    assert line.startswith("relay.toml: http.token: every user of this machine can read the file")
    assert token not in line
    monkeypatch.setenv("THE_TOKEN", token)
    named = file(f'http.token = "${{THE_TOKEN}}"\n{source}')
    named.chmod(0o644)
    assert plan(RelaySettings(relay_config=named)).settings.relay_http_token == token
    (tmp_path / "token").write_text(f"another-{token}\n")
    monkeypatch.setenv("SETTLE_RELAY_HTTP_TOKEN_FILE", str(tmp_path / "token"))
    assert plan(RelaySettings(relay_config=named)).settings.relay_http_token == f"another-{token}"


@pytest.mark.parametrize(
    "token", ["short", "fifteen-chars-x", "with a space in it", "a-\N{SNOWMAN}-of-many-words"]
)
def test_a_token_that_is_no_secret_or_no_header_is_refused(file, monkeypatch, token):
    (line,) = refused(file(f'http.token = "{token}"\n[[source]]\ndsn = "{DSN}"\n'))
    assert line == "relay.toml: http.token: a token has at least 16 characters of ASCII, without spaces"
    monkeypatch.setenv("SETTLE_RELAY_HTTP_TOKEN", token)
    with pytest.raises(ValidationError) as error:
        RelaySettings()
    assert token not in complaint(error.value)


def test_names_of_sources_are_each_their_own(file):
    one = f'[[source]]\ndsn = "{DSN}"\n'
    assert [source.name for source in sources(file(one * 2))] == ["shop-1", "shop-2"]
    other = f'{one}[[source.outbox]]\ntable = "x"\nname = "the one"\n'
    assert [source.name for source in sources(file(one + other))] == ["shop", "the one"]


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ('table = "x"\ncontrol_table = "x"', "control_table is the outbox itself"),
        ('dead_table = "x"\ncontrol_table = "x"', "control_table is dead_table too"),
    ],
)
def test_the_tables_beside_an_outbox_are_others(file, tables, said):
    (line,) = refused(file(f'[[source]]\ndsn = "{DSN}"\n[[source.outbox]]\n{tables}\nroute.topic = "x"\n'))
    assert line == f"relay.toml: source[0].outbox[0]: {said}"


def test_production_looks_at_the_file_too(file, monkeypatch):
    monkeypatch.setenv("SETTLE_ENV", "production")
    monkeypatch.setenv("SETTLE_TRUSTED_NETWORK", "kafka")
    with pytest.raises(
        ValueError, match=r"production refuses relay\.toml: the connection to db1 may be without TLS"
    ):
        sources(file(f'[[source]]\ndsn = "{DSN}"\n'))


def test_options_outweigh_variables_and_these_the_file(file, monkeypatch):
    path = file(
        f'kafka = {{ bootstrap = "of-file:1" }}\nhttp = {{ host = "127.0.0.2", port = 7 }}\n'
        f'[[source]]\ndsn = "{DSN}"\nreader = "polling"\ninitial = "all"\n'
    )
    made = plan(RelaySettings(relay_config=path))
    assert (made.settings.http_host, made.settings.http_port) == ("127.0.0.2", 7)
    assert (made.sources[0].bootstrap, made.sources[0].reader) == ("of-file:1", "polling")
    monkeypatch.setenv("SETTLE_KAFKA_BOOTSTRAP", "of-variable:1")
    monkeypatch.setenv("SETTLE_RELAY_READER", "wal")
    monkeypatch.setenv("SETTLE_HTTP_PORT", "8")
    made = plan(RelaySettings(relay_config=path))
    assert (made.settings.http_host, made.settings.http_port) == ("127.0.0.2", 8)
    assert (made.sources[0].bootstrap, made.sources[0].reader, made.sources[0].initial) == (
        "of-variable:1",
        "wal",
        "all",
    )
    (one,) = sources(path, kafka_bootstrap="of-option:1", relay_reader="polling")
    assert (one.bootstrap, one.reader) == ("of-option:1", "polling")


def test_the_kafka_identity_of_the_file_is_that_of_every_client(file, monkeypatch):
    path = file(f'kafka = {{ security_protocol = "SSL", ssl_ca = "ca.pem" }}\n[[source]]\ndsn = "{DSN}"\n')
    monkeypatch.setenv("SETTLE_KAFKA_SSL_CA", "other.pem")
    monkeypatch.setenv("SETTLE_KAFKA_SECURITY_PROTOCOL", "")
    sources(path)
    assert os.environ["SETTLE_KAFKA_SECURITY_PROTOCOL"] == "SSL"
    assert os.environ["SETTLE_KAFKA_SSL_CA"] == "other.pem"


def test_an_outbox_is_described_in_one_place(file, monkeypatch):
    path = file(f'[[source]]\ndsn = "{DSN}"\n')
    assert refused(path, relay_sources=[DSN], relay_table="x") == [
        "relay.toml has sources, so SETTLE_RELAY_SOURCES, SETTLE_RELAY_TABLE (or the option) may not be set"
    ]
    (one,) = sources(file("[http]\nport = 7\n"), relay_sources=[DSN], relay_table="x")
    assert one.outbox.table == "x"


def test_variables_describe_an_outbox_too(monkeypatch):
    described = {
        "SOURCES": DSN,
        "SCHEMA": "Billing",
        "TABLE": "event log",
        "COLUMNS": "id=ID, type=",
        "ADDITIONAL": "tenant:header:x-tenant, n:partition",
        "TOPIC": "bills",
        "PUBLICATION": "Bills",
        "SLOT": "bills",
        "DEAD_TABLE": "dead",
        "CONTROL_TABLE": "asked",
    }
    for name, value in described.items():
        monkeypatch.setenv(f"SETTLE_RELAY_{name}", value)
    (one,) = plan(RelaySettings()).sources
    assert one.outbox == Outbox(
        schema="Billing",
        table="event log",
        columns=ColumnNames(id="ID", type=None),
        route=Route(topic="bills"),
        additional=(Additional("tenant", "header", "x-tenant"), Additional("n", "partition")),
        publication="Bills",
        slot="bills",
        dead_table="dead",
        control_table="asked",
    )


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"relay_columns": "idd=x"}, "SETTLE_RELAY_COLUMNS: idd: there is no such key: did you mean id?"),
        (
            {"relay_additional": "x:key"},
            f"SETTLE_RELAY_ADDITIONAL: placement: {PLACEMENTS}",
        ),
        ({"relay_route_regex": "x"}, "SETTLE_RELAY_…: route: regex and replacement go together"),
        (
            {"relay_slot": "s", "relay_sources": [DSN, DSN]},
            "SETTLE_RELAY_SLOT (--slot) is one slot, and there are several databases: leave it out",
        ),
    ],
)
def test_variables_that_describe_none_are_refused(given, line):
    with pytest.raises(RelayError) as error:
        plan(RelaySettings(**{"relay_sources": [DSN], **given}))
    assert str(error.value) == line


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read: No such file or directory"):
        plan(RelaySettings(relay_config=tmp_path / "relay.toml"))


@pytest.mark.parametrize(
    ("route", "value", "topic"),
    [
        (Route(), "account", "account.events"),
        (Route(), "withdrawal.requests", "withdrawal.requests"),
        (Route(), "", None),
        (Route(), "a b", None),
        (Route(), "ü", None),
        (Route(), "x" * 242, "x" * 242 + ".events"),
        (Route(), "x" * 243, None),
        (Route(regex="(?<kind>[a-z]+)-(.*)", replacement="${kind}.$2"), "bill-eu", "bill.eu"),
        (Route(regex="[a-z]+-(.*)", replacement="$1$1"), "bill-eu", "eueu"),
        (Route(regex="bill", replacement="x"), "bills", "bills"),  # as a whole, or not at all
        (Route(regex=".*", replacement=r"a\1"), "x", "a1"),  # a backslash escapes, as in Java
        (Route(regex=".*", replacement="."), "x", None),
        (Route(topic="all"), "whatever it is", "all"),
    ],
)
def test_a_route_makes_topics(route, value, topic):
    assert topic_named(value.encode(), route) == topic


def test_a_row_without_what_makes_a_topic_cannot_be_published():
    row = OutboxRow(b"1", None, b"k", b"T", b"{}")
    with pytest.raises(UnpublishableError, match="kind is NULL, which makes no topic name"):
        topic_of(row, 0, Outbox(columns=ColumnNames(aggregatetype="kind")))
    assert topic_of(row, 0, Outbox(route=Route(topic="all"))) == "all"


@pytest.mark.parametrize(
    ("name", "written"),
    [("outbox", "outbox"), ("order", '"order"'), ("Outbox", '"Outbox"'), ('a"b', '"a""b"'), ("a.b", '"a.b"')],
)
def test_names_are_quoted_where_they_need_it(name, written):
    assert quoted(name) == written


def test_what_is_derived_is_as_long_as_postgresql_keeps_it():
    assert shortened("x" * 63, "_dead") == "x" * 58 + "_dead"
    assert len(shortened("ü" * 31, "_dead").encode()) <= 63
    assert Outbox(table="x" * 63).dead_label == f"public.{'x' * 58}_dead"
    assert Outbox(schema="s", table="t").publication_name == "settle_s_t"


def test_names_of_the_standard_outbox_stay():
    assert (OUTBOX.label, OUTBOX.dead_label) == ("public.outbox", "public.outbox_dead")
    assert (OUTBOX.publication_name, OUTBOX.identity) == ("settle_outbox", "")
    assert Outbox(schema="a.b", table="c").identity != Outbox(schema="a", table="b.c").identity


def test_the_example_of_the_documentation_is_one(monkeypatch, tmp_path):
    text = (ROOT / "docs/relay-configuration.md").read_text()
    example = text.split("```toml\n")[1].split("```")[0]
    secret = tmp_path / "kafka"
    secret.write_text("secret")
    path = tmp_path / "relay.toml"
    path.write_text(example.replace("/run/secrets/kafka", str(secret)))
    monkeypatch.setenv("ACCOUNT_PASSWORD", "secret")
    monkeypatch.setenv("SHOP_DSN", "postgresql://relay@db2/shop")
    file = read(path)
    assert [conninfo_to_dict(source.dsn)["dbname"] for source in file.source] == ["account", "shop"]
    assert [one.outbox().table for source in file.source for one in source.outbox] == [
        "outbox",
        "Order Events",
        "mails",
    ]
