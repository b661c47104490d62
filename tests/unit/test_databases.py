"""Each of several databases is one source, however it is written."""

import psycopg
import pytest
from pydantic import ValidationError

from contracts import postgres
from contracts.dsn import check_dsn, effective, split_dsns
from contracts.variables import complaint
from outbox_relay.names import source_name
from outbox_relay.settings import RelaySettings

HOSTS = "postgresql://relay@db1:5432,db2:5433/account?target_session_attrs=read-write"
COMMAS = "postgresql://relay:a,b,@db1/payment"
WORDS = "host=db1,db2 dbname=saga password='a, b postgresql://c' user=relay"


@pytest.fixture
def services(tmp_path, monkeypatch):
    """A connection service file that defines the services a and b."""
    file = tmp_path / "pg_service.conf"
    file.write_text("[a]\nhost=db1,db2\nport=1,2\n[b]\nhostaddr=127.0.0.1\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \n, ", []),
        (HOSTS, [HOSTS]),
        (WORDS, [WORDS]),
        (f"{HOSTS} {COMMAS}", [HOSTS, COMMAS]),
        (f"{HOSTS},{COMMAS}", [HOSTS, COMMAS]),
        (f"{HOSTS}, {COMMAS},\n", [HOSTS, COMMAS]),
        (f"{COMMAS},postgres://db3/x", [COMMAS, "postgres://db3/x"]),
        (f"{WORDS}\n{WORDS}", [WORDS, WORDS]),
        (f"{HOSTS} {WORDS} {COMMAS}", [HOSTS, WORDS, COMMAS]),
        ("host=a dbname=x, host=b dbname=y", ["host=a dbname=x", "host=b dbname=y"]),
        ("host = a dbname = 'x y'", ["host = a dbname = 'x y'"]),
        (r"dbname=a password=it\'s\ me user=x", [r"dbname=a password=it\'s\ me user=x"]),
        ("host=a dbname=x,postgresql://b/y", ["host=a dbname=x", "postgresql://b/y"]),
        ("service=a\nservice=b", ["service=a", "service=b"]),
    ],
)
def test_several_databases_are_told_apart(text, found, services):
    assert split_dsns(text) == found
    assert RelaySettings(relay_sources=text).sources == found


def test_sources_that_are_given_one_by_one_are_not_split():
    given = ["host=a dbname=x host=b", f"{HOSTS}&application_name=a,db3", "postgresql://a/x,postgresql://b/y"]
    assert RelaySettings(relay_sources=given).sources == given


@pytest.mark.parametrize("text", ["own", "http://a/b", "host=a nonsense", "colour=red", f"{HOSTS} x", "host='a"])
def test_what_is_no_database_is_refused(text):
    with pytest.raises(ValueError, match="such as postgresql://"):
        split_dsns(text)


@pytest.mark.parametrize("text", ["", " ", "own", "colour=red", "mysql://a/b", "host=a password=b"])
def test_what_is_no_database_is_none_on_its_own_either(text):
    with pytest.raises(ValueError, match="not a database such as"):
        check_dsn(text)


@pytest.mark.parametrize("text", ["postgresql://u:a@b@127.0.0.1:5432/own", "postgres://u@v:a@h/own"])
def test_a_password_with_a_plain_at_sign_is_refused_and_not_shown(text):
    with pytest.raises(ValueError, match="is written %40") as refused:
        split_dsns(text)
    assert text not in str(refused.value)
    assert check_dsn("postgresql://u:a%40b@127.0.0.1/own?application_name=a@b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("postgresql://u:secret@db1:abc/own", "port"),
        ("postgresql://u:secret@db1:99999/own", "port"),
        ("postgresql://u:secret@db1:1,db2:0/own", "port"),
        ("postgresql://u:secret/own", "port"),  # the host is forgotten
        ("host=a,b,c port=1,2 dbname=own password=secret", "one port"),
        ("service=c password=secret", "service c"),
        ("postgresql://u:secret@db1/own?service=c", "service c"),
        ("dbname=own password=secret sslmode=secret", "sslmode"),
        ("dbname=own password=secret connect_timeout=soon", "connect_timeout"),
        ("dbname=own password=secret keepalives_idle=1.5", "keepalives_idle"),
    ],
)
def test_what_libpq_will_never_connect_with_is_refused_at_the_start_and_no_value_is_shown(text, says, services):
    with pytest.raises(ValidationError) as refused:
        RelaySettings(relay_sources=text)
    line = complaint(refused.value)
    assert line.startswith("SETTLE_RELAY_SOURCES is wrong: ")
    assert says in line
    assert "secret" not in line


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:p@db1:5432/own",
        "postgresql://u:p@db1:,[::1]:2/own?connect_timeout=3&sslmode=require",
        "host=a,b,c port=5432 dbname=own",
        "service=a dbname=own",
        "service=b password=p",
    ],
)
def test_what_libpq_connects_with_is_taken_though_nobody_answers(text, services):
    assert check_dsn(text) == text


def test_a_service_says_what_the_database_is_called_and_which_time_limits_hold(tmp_path, monkeypatch):
    file = tmp_path / "pg_service.conf"
    file.write_text("[a]\nhost=db1\ndbname=outboxes\nuser=relay\nconnect_timeout=1\nsslmode=verify-full\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))

    assert source_name("service=a") == "outboxes"
    assert source_name("service=a dbname=other") == "other"
    assert "connect_timeout" not in postgres._parameters("service=a")
    assert postgres._parameters("service=a")["keepalives_idle"] == 10
    assert postgres._parameters("dbname=outboxes")["connect_timeout"] == 5
    assert {"host": "db1", "sslmode": "verify-full", "user": "relay"}.items() <= effective("service=a").items()


@pytest.mark.parametrize("text", ["service=nowhere", "nonsense", "host=a,b port=1,2,3 dbname=x"])
def test_what_libpq_cannot_use_has_no_parameters(text, services):
    with pytest.raises(ValueError, match=r"service|such as|cannot read"):
        effective(text)


def test_a_service_that_is_not_defined_any_more_is_an_outage(services, monkeypatch, tmp_path):
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "none"))
    with pytest.raises(psycopg.OperationalError, match="not found"):
        postgres.session("service=a")


@pytest.mark.parametrize(
    "dsn", ["postgresql://a:p@ss/word@127.0.0.1:1/account", "postgres://a:p@ss/w@db1/x?user=a"]
)
def test_a_password_that_is_not_escaped_is_refused_and_no_part_of_it_is_taken_for_a_host(dsn):
    with pytest.raises(ValueError, match="written %40 and %2F") as refused:
        check_dsn(dsn)
    assert "ss" not in str(refused.value).replace("password", "")
    check_dsn("postgresql://a:p%40ss%2Fword@127.0.0.1:1/account?user=a@b")


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("postgresql://a@127.0.0.1:1/account", "refused; the server of SETTLE_ACCOUNT_DSN"),
        ("postgresql://a@nowhere.invalid:1/account", "; the server of SETTLE_ACCOUNT_DSN"),
        ("host=/nowhere dbname=account", "; the server of SETTLE_ACCOUNT_DSN"),
    ],
)
def test_a_server_that_is_not_reached_is_told_with_its_variable(monkeypatch, dsn, said):
    monkeypatch.setenv("SETTLE_ACCOUNT_DSN", dsn)
    with pytest.raises(psycopg.OperationalError) as error:
        postgres.session(dsn)
    assert said in str(error.value).splitlines()[0]
    assert not postgres.turns_away(error.value)


@pytest.mark.parametrize(
    ("said", "turned_away"),
    [
        ('FATAL:  password authentication failed for user "saga"', True),
        ("SSL error: certificate verify failed", True),
        ("server does not support SSL, but SSL was required", True),
        ("FATAL:  the database system is starting up", False),
        ("SSL SYSCALL error: EOF detected", False),
        ("SSL connection has been closed unexpectedly", False),
        ("FATAL:  sorry, too many clients already", False),
    ],
)
def test_a_server_that_lets_nobody_in_is_no_outage(said, turned_away):
    assert postgres.turns_away(psycopg.OperationalError(f"connection failed: {said}")) == turned_away
