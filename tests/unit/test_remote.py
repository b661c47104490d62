"""What commands share that ask the API, and that none which could has been left out."""

import httpx
import pytest
import typer
from typer.testing import CliRunner

from api.dead_letters import LETTERS_MAX
from api.outboxes import ROWS_MAX
from api.pages import PAGE_MAX
from api.republish import WITHDRAWALS_MAX
from api.texts import amount_text
from cli import gaps, remote
from cli.commands import COMMANDS, LazyCommands
from cli.errors import BadInputError
from cli.main import app

OF_A_SYSTEM_OF_ONES_OWN = {
    "up", "env", "demo", "migrate", "secrets", "run", "settings", "load", "compare", "2pc", "chaos", "failpoints"
}  # fmt: skip
"""They make, start, load or break a system, or tell of this machine."""

THE_WAY_IN = ("api-keys", "sign-in")
"""Who gets into the console is decided by who has the API's database."""


def leaves(command, *path):
    """The commands that can be run, with their paths."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, one in inner.items():
        yield from leaves(one, *path, name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_a_running_system_can_ask_the_api(name):
    context = typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
    command = LazyCommands().get_command(context, name)
    for path, leaf in leaves(command, name):
        options = {option for parameter in leaf.params for option in parameter.opts}
        assert ("--api" in options) == (name not in OF_A_SYSTEM_OF_ONES_OWN and path != THE_WAY_IN), path


@pytest.mark.parametrize("key", ["settle_a_b\u00e9", "settle_a\nb", "settle_a b"])
def test_a_key_that_is_none_is_not_sent(monkeypatch, key):
    monkeypatch.setenv("SETTLE_API_KEY", key)
    with pytest.raises(BadInputError, match="SETTLE_API_KEY: that is no API key"):
        remote.ask("http://127.0.0.1:9", "GET", "/v1/stuck")


FAR = "http://settle.example:8000"


@pytest.fixture
def sent(monkeypatch):
    """The headers of what is sent, to whatever host; the answer is one of the API."""
    found = []

    def answer(request):
        found.append(request.headers)
        return httpx.Response(200, json={"withdrawals": []})

    client = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **of: client(**of, transport=httpx.MockTransport(answer)))
    for name in ("SETTLE_ENV", "SETTLE_TRUSTED_NETWORK", "SETTLE_API_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SETTLE_API_KEY", "settle_a_b")
    remote._warn.cache_clear()
    return found


def test_production_sends_no_key_that_others_could_read(monkeypatch, sent):
    monkeypatch.setenv("SETTLE_ENV", "production")
    with pytest.raises(
        BadInputError, match="without TLS: others can read SETTLE_API_KEY on the way, so use https"
    ):
        remote.ask(FAR, "GET", "/v1/stuck")
    assert not sent
    for url in ("https://settle.example:8000", "http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost"):
        assert remote.ask(url, "GET", "/v1/stuck") == {"withdrawals": []}
    monkeypatch.setenv("SETTLE_TRUSTED_NETWORK", "kafka, http")
    assert remote.ask(FAR, "GET", "/v1/stuck") == {"withdrawals": []}


def test_elsewhere_a_key_that_others_could_read_is_a_warning_once(sent, capsys):
    for _ in range(2):
        remote.ask(FAR, "GET", "/v1/stuck")
    assert [headers["authorization"] for headers in sent] == ["Bearer settle_a_b"] * 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"settle: warning: --api {FAR} without TLS: others can read SETTLE_API_KEY on the way"


@pytest.mark.parametrize("url", ["https://user:hunter2@settle.example", "http://user@127.0.0.1:8000"])
def test_a_user_in_the_url_does_not_replace_the_key(sent, url):
    with pytest.raises(BadInputError) as refused:
        remote.ask(url, "GET", "/v1/stuck")
    assert not sent
    assert str(refused.value) == "--api takes no user and no password in the URL: the API key is in SETTLE_API_KEY"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"keys": []}),
        (200, []),
        (200, "text"),
        (404, {"detail": "Not Found"}),
        (404, ["not here"]),
        (502, {"message": "no upstream"}),
    ],
)
def test_something_else_that_answers_with_json_is_not_taken_for_the_api(monkeypatch, status, body):
    client = httpx.Client
    there = httpx.MockTransport(lambda _: httpx.Response(status, json=body))
    monkeypatch.setattr(httpx, "Client", lambda **of: client(**of, transport=there))
    done = CliRunner().invoke(app, ["stuck", "--api", "http://127.0.0.1:8000"])
    assert done.exit_code == 1, done.exception
    (line,) = done.stderr.splitlines()
    assert line.startswith("settle: what answers at http://127.0.0.1:8000 is not the API")


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_a_file_without_authorities_is_refused_by_name(monkeypatch, tmp_path, text):
    file = tmp_path / "ca.crt"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("SETTLE_API_CA", str(file))
    with pytest.raises(BadInputError, match=r"SETTLE_API_CA: .*ca\.crt holds no certificates"):
        remote.ask("https://127.0.0.1:9", "GET", "/v1/stuck")


def test_what_one_request_names_is_what_the_api_takes():
    assert remote.AT_ONCE == LETTERS_MAX == ROWS_MAX == WITHDRAWALS_MAX
    assert remote.PAGE == PAGE_MAX
    assert [len(some) for some in remote.portions(range(2_500))] == [1_000, 1_000, 500]
    assert [*remote.portions([])] == []


@pytest.mark.parametrize("currency", ["USD", "JPY", "KWD", "CLF", "XXX"])
@pytest.mark.parametrize("amount_minor", [0, 1, 99, 100, 123_456_789, -1, -250_000])
def test_an_amount_comes_back_as_it_was(amount_minor, currency):
    assert remote.minor_units(amount_text(amount_minor, currency)) == amount_minor


@pytest.mark.parametrize(("limit", "asked"), [(1, [1]), (500, [500]), (700, [500, 200]), (5_000, [500, 500, 500])])
def test_a_list_is_read_page_after_page_up_to_the_limit(monkeypatch, limit, asked):
    every = list(range(1_200))
    limits = []

    def ask(_url, _method, _path, *, limit, cursor=None, **query):
        assert query == {"order": "name"}
        limits.append(limit)
        begin = cursor or 0
        end = begin + limit
        return {"things": every[begin:end], "cursor": end if end < len(every) else None, "total": len(every)}

    monkeypatch.setattr(remote, "ask", ask)
    found, first = remote.entries("url", "/v1/things", "things", limit, order="name")
    assert (found, first["total"], limits) == (every[:limit], 1_200, asked)


def test_a_group_that_is_run_again_is_no_deeper_than_before():
    context = typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
    for _ in range(3):
        LazyCommands().get_command(context, "gaps")
    assert [hasattr(one.callback.__wrapped__, "__wrapped__") for one in gaps.app.registered_commands] == [
        False
    ] * 2
