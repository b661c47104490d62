"""Each of several databases is one source, however it is written."""

import pytest

from contracts.dsn import check_dsn, split_dsns
from outbox_relay.settings import RelaySettings

HOSTS = "postgresql://relay@db1:5432,db2:5433/account?target_session_attrs=read-write"
COMMAS = "postgresql://relay:a,b,@db1/payment"
WORDS = "host=db1,db2 dbname=saga password='a, b postgresql://c' user=relay"


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
def test_several_databases_are_told_apart(text, found):
    assert split_dsns(text) == found
    assert RelaySettings(relay_sources=text).sources == found


def test_sources_that_are_given_one_by_one_are_not_split():
    given = ["host=a dbname=x host=b", f"{HOSTS},db3", "postgresql://a/x,postgresql://b/y"]
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
