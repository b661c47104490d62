"""What commands share that ask the API, and that none which could has been left out."""

import json
from uuid import UUID

import httpx
import msgspec
import pytest
import typer
from typer.testing import CliRunner

from api.dead_letters import LETTERS_MAX, NAMED_MAX
from api.outboxes import ROWS_MAX
from api.pages import PAGE_MAX
from api.republish import PREVIEW_MAX, WITHDRAWALS_MAX
from api.texts import amount_text
from cli import dead_letters, gaps, remote, republish
from cli.commands import COMMANDS, LazyCommands
from cli.errors import BadInputError, CommandError
from cli.main import app
from operations.cancel import Cancellation
from operations.dead_letters.letters import Wanted
from operations.nudge import Nudged
from operations.waits import Waits
from processors.saga.status import Status

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


def test_an_answer_that_cannot_be_decoded_is_one_line(monkeypatch):
    client = httpx.Client
    packed = {"headers": {"content-encoding": "gzip"}, "stream": httpx.ByteStream(b"{}")}
    there = httpx.MockTransport(lambda _: httpx.Response(200, **packed))
    monkeypatch.setattr(httpx, "Client", lambda **of: client(**of, transport=there))
    with pytest.raises(CommandError, match=r"^the API at http://127\.0\.0\.1:8000 does not answer: "):
        remote.ask("http://127.0.0.1:8000", "GET", "/v1/stuck")


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
    assert remote.NAMED == NAMED_MAX
    assert republish.LIMIT == PREVIEW_MAX
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


ONE = "00000000-0000-0000-0000-000000000007"
LETTER = {
    "id": "a/0@1", "topic": "a", "partition": 0, "offset": 1, "event_type": None, "message_id": None,
    "payment_id": None, "trace_id": None, "refusals": [], "state": "open", "handled": None, "key": None,
    "headers": [], "body": None,
}  # fmt: skip
ANSWERS = {
    "/v1/dead-letters": {"dead_letters": [LETTER], "total": 1, "handled": 0, "cursor": None},
    "/v1/dead-letters/redrive": {"results": [{"id": "a/0@1", "place": "a/0@2"}]},
    "/v1/dead-letters/discard": {"results": [{"id": "a/0@1"}]},
    f"/v1/withdrawals/{ONE}/nudge": {"dead": [], "republished": []},
    f"/v1/withdrawals/{ONE}/waiting": {"unasked": {}, "waiting_for": "the mail", "held_up_by": None},
    "/v1/stuck": {"withdrawals": [], "idle": [], "unasked": {}},
    "/v1/republish/preview": {"events": [], "lost_requests": [], "lost_requests_total": 0},
}


@pytest.fixture
def asked(monkeypatch):
    """Each path that is asked for, with the patience in seconds and the body; the answers are :data:`ANSWERS`."""
    found, client = [], httpx.Client

    def make(*, timeout, **of):
        def answer(request):
            body = json.loads(request.content) if request.content else None
            found.append((request.url.path, timeout, body))
            return httpx.Response(200, json=ANSWERS[request.url.path])

        return client(**of, timeout=timeout, transport=httpx.MockTransport(answer))

    monkeypatch.setattr(httpx, "Client", make)
    return found


@pytest.mark.parametrize(
    ("command", "paths"),
    [
        ("dead-letters list", ["/v1/dead-letters"]),
        ("dead-letters redrive a/0@1 --why x", ["/v1/dead-letters", "/v1/dead-letters/redrive"]),
        ("dead-letters discard a/0@1 --why x", ["/v1/dead-letters", "/v1/dead-letters/discard"]),
        (f"nudge {ONE} --why x", [f"/v1/withdrawals/{ONE}/nudge", f"/v1/withdrawals/{ONE}/waiting"]),
        ("stuck", ["/v1/stuck"]),
        ("republish --dry-run", ["/v1/republish/preview"]),
    ],
)
def test_an_answer_that_reads_topics_is_waited_for(asked, command, paths):
    CliRunner().invoke(app, [*command.split(), "--api", "http://127.0.0.1:8000"])
    assert [(path, patience_s) for path, patience_s, _ in asked] == [(path, remote.LONG_S) for path in paths]


def test_withdrawals_whose_events_are_looked_for_are_named_in_portions_by_payment_id(asked, monkeypatch):
    ids = [UUID(int=number) for number in range(2_500)]
    events = [{"payment_id": str(ids[0])}, {"payment_id": str(ids[0])}]
    monkeypatch.setattr(msgspec, "convert", lambda found, _: found)
    monkeypatch.setitem(ANSWERS, "/v1/republish/preview", {"events": [one | {"original": True} for one in events]})
    choice = republish._Choice(everything=False, lost_requests=False)
    api = republish._Api("http://127.0.0.1:8000", "", choice)

    found = api.find([*reversed(ids), ids[1]], None, 0.0, 10).events

    bodies = [body for _, _, body in asked]
    assert [UUID(one) for body in bodies for one in body["payment_ids"]] == ids
    assert [len(body["payment_ids"]) for body in bodies] == [1_000, 1_000, 500]
    assert [body["limit"] for body in bodies] == [10, 9, 9]
    assert len(found) == 6
    asked.clear()
    api.find(ids, None, 0.0, 1)
    assert len(asked) == 1


API = ["--api", "http://127.0.0.1:8000"]


def previewed(monkeypatch, lost, total, events=()):
    answer = {"events": [*events], "lost_requests": lost, "lost_requests_total": total}
    monkeypatch.setitem(ANSWERS, "/v1/republish/preview", answer)


def republished(*arguments):
    return CliRunner().invoke(app, ["republish", *API, "--why", "x", *arguments])


LOST = "lost, and published only by name or with --lost-requests: "
LOST_OR_NOT = [
    ([ONE], 1, [f"{LOST}1 request that the API accepted", f"  settle nudge {ONE}"]),
    (None, None, ["requests that the API accepted were not looked for, as the saga service is far behind"]),
    ([], 0, []),
]


@pytest.mark.parametrize(("lost", "total", "said"), LOST_OR_NOT)
def test_requests_that_only_the_api_has_are_named_and_published_by_name_alone(
    asked, monkeypatch, lost, total, said
):
    previewed(monkeypatch, lost, total)
    done = republished("--yes")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[: len(said)] == said
    assert lines[-1] == "no service lacks an event that another one knows of"
    assert [path for path, _, _ in asked] == ["/v1/republish/preview"]


@pytest.mark.parametrize(("lost", "total", "said"), LOST_OR_NOT)
def test_a_program_that_reads_the_events_is_told_of_lost_requests_as_well(asked, monkeypatch, lost, total, said):
    previewed(monkeypatch, lost, total)
    done = republished("--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, [])
    lines = done.stderr.splitlines()
    assert lines[: len(said)] == [f"settle: {one}" for one in said]
    assert bool(lines) == (total != 0)


@pytest.mark.parametrize(("limit", "listed"), [(republish.LIMIT, republish.LISTED), (3, 3)])
def test_of_many_lost_requests_some_are_listed_and_the_others_counted(asked, monkeypatch, limit, listed):
    previewed(monkeypatch, [str(UUID(int=number)) for number in range(1, limit + 1)], 50_000)
    done = republished("--limit", str(limit), "--yes")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{LOST}50,000 requests that the API accepted"
    assert [line for line in lines if "settle nudge" in line] == lines[1 : 1 + listed]
    assert lines[1 + listed] == f"  and {50_000 - listed:,} more"


def requests_of(ids):
    return [
        {
            "payment_id": str(one), "event_type": "WithdrawalRequested", "topic": "withdrawal.requests",
            "message_id": str(one), "original": False, "key": "acc-1", "body": "{}",
        }
        for one in ids
    ]  # fmt: skip


def test_lost_requests_are_published_where_that_is_asked_for_and_the_others_counted(asked, monkeypatch):
    ids = [UUID(int=number) for number in range(1, 2_502)]
    previewed(monkeypatch, [str(one) for one in ids], 50_000, requests_of(ids))
    monkeypatch.setitem(ANSWERS, "/v1/steps", {"steps": []})
    monkeypatch.setitem(ANSWERS, "/v1/republish", {"events": [{"dead": False}]})

    shown = republished("--lost-requests", "--limit", "2501")
    assert (shown.exit_code, "to publish 2,501 events of 2,501 withdrawals again" in shown.stderr) == (2, True)
    rest = "these are 2,501 of 50,000 lost requests; run this again for the others, or raise --limit"
    assert rest in shown.stdout.splitlines()
    assert "what was discarded (`settle outbox dead discard`) is among them" in shown.stdout
    assert [(path, body and body.get("lost_requests")) for path, _, body in asked] == [
        ("/v1/republish/preview", True),
        ("/v1/steps", None),
    ]
    asked.clear()
    done = republished("--lost-requests", "--limit", "2501", "--yes")
    assert done.exit_code == 0, done.stderr
    sent = [body for path, _, body in asked if path == "/v1/republish"]
    assert [UUID(one) for body in sent for one in body["payment_ids"]] == ids
    assert ([len(body["payment_ids"]) for body in sent], {body["reason"] for body in sent}) == (
        [1_000, 1_000, 501],
        {"x"},
    )


def test_lost_requests_that_are_asked_for_and_not_looked_for_are_an_error(asked, monkeypatch):
    previewed(monkeypatch, None, None)
    for more in ((), ("--json",)):
        done = republished("--lost-requests", *more)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith("settle: requests that the API accepted were not looked for")


def test_lost_requests_are_all_of_them_or_named(asked):
    done = republished("--lost-requests", "--payment", ONE)
    assert (done.exit_code, done.stdout, asked) == (2, "", [])
    assert done.stderr.startswith("settle: --lost-requests is all of them")


@pytest.mark.parametrize("total", [0, 3])
def test_where_no_request_is_lost_or_all_are_too_young_that_is_said(asked, monkeypatch, total):
    previewed(monkeypatch, [str(UUID(int=one)) for one in range(1, total + 1)], total)
    done = republished("--lost-requests", "--quiet", "60", "--yes")
    said = "no request that the API accepted more than 60 s ago is lost\n"
    assert (done.exit_code, done.stdout) == (0, said)
    program = republished("--lost-requests", "--json")
    assert (program.exit_code, json.loads(program.stdout)) == (0, [])
    assert ("these are 0 of 3 lost requests" in program.stderr) == (total == 3)


def test_a_nudge_without_anything_to_publish_ends_as_the_direct_one(asked, monkeypatch):
    status = Status(UUID(ONE), "paid", False, None, [], None, None, "acc-1", 1, "USD", None, None, 0)
    monkeypatch.setattr("operations.nudge.nudge", lambda *_: Nudged(status, [], []))
    monkeypatch.setattr("operations.waits.look", lambda *_, **__: Waits("the mail"))
    ways = ([], ["--api", "http://127.0.0.1:8000", "--why", "x"])
    own, by_api = (CliRunner().invoke(app, ["nudge", ONE, *way]) for way in ways)
    assert (own.exit_code, own.stdout, own.stderr) == (by_api.exit_code, by_api.stdout, by_api.stderr)
    said = f"settle: no service lacks an event of {ONE}; it waits for the mail\n"
    assert (own.exit_code, own.stdout, own.stderr) == (1, "", said)
    assert [path for path, _, _ in asked] == [f"/v1/withdrawals/{ONE}/{what}" for what in ("nudge", "waiting")]


@pytest.fixture
def mute(asked, monkeypatch):
    """An API that says all but what a withdrawal waits for."""
    monkeypatch.setitem(ANSWERS, f"/v1/withdrawals/{ONE}/waiting", {})
    return "settle: what answers at http://127.0.0.1:8000 is not the API"


def test_what_a_nudge_has_done_is_told_though_nobody_says_what_is_waited_for(mute, monkeypatch):
    done = {"dead": [], "republished": [{"topic": "payment.events", "event_type": "PaymentProcessed"}]}
    monkeypatch.setitem(ANSWERS, f"/v1/withdrawals/{ONE}/nudge", done)
    found = CliRunner().invoke(app, ["nudge", ONE, *API, "--why", "x"])
    assert (found.exit_code, found.stdout) == (1, "republished on payment.events: PaymentProcessed\n")
    assert found.stderr.startswith(mute)


def test_a_cancellation_that_stays_in_force_is_told_though_nobody_says_what_is_waited_for(mute, monkeypatch):
    status = Status(UUID(ONE), "deducted", False, None, [], None, None, "acc-1", 1, "USD", None, None, 0)
    monkeypatch.setattr("operations.cancel.cancel", lambda *_: Cancellation(status, None))
    found = CliRunner().invoke(app, ["cancel", ONE, *API, "--why", "x", "--timeout", "0"])
    first, second = found.stderr.splitlines()
    assert (found.exit_code, first) == (1, "settle: not decided after 0 s, but the request stays in force")
    assert second.startswith(mute)


@pytest.mark.parametrize("is_followed", [True, False])
def test_a_request_is_told_as_json_though_it_cannot_be_followed(mute, monkeypatch, is_followed):
    accepted = {"payment_id": ONE, "trace_id": "0" * 32}
    standing = {
        "payment_id": ONE, "account_id": "acc-1", "amount": "1.00", "currency": "USD", "state": "deducted",
        "reason": None, "trace_id": None, "finished_at": None, "finished_by": None, "steps": [],
        "waiting_for": None,
    }  # fmt: skip
    monkeypatch.setitem(ANSWERS, "/v1/withdrawals", accepted)
    monkeypatch.setitem(ANSWERS, f"/v1/withdrawals/{ONE}", standing if is_followed else {})
    asking = ["request", "--account", "acc-1", "--amount", "1.00", "--payment-id", ONE, "--wait", "--timeout", "0"]
    found = CliRunner().invoke(app, [*asking, "--json", *API])
    told = json.loads(found.stdout)
    assert (found.exit_code, told["payment_id"]) == (1, ONE)
    assert told.get("state") == ("deducted" if is_followed else None)
    assert found.stderr.startswith(mute)


def test_dead_letters_that_are_looked_for_are_named_in_portions_in_their_order(monkeypatch):
    handled = {"action": "discarded", "at": "2026-01-01T00:00:00Z"}
    names, asked = [f"a/0@{number}" for number in range(650)], []

    def entries(_url, _path, _field, _limit, _size, *, state, **query):
        asked.append(len(query["id"]))
        chosen = [LETTER | {"id": one} for one in query["id"]]
        chosen = [one | ({"handled": handled} if one["id"] == names[0] else {}) for one in chosen]
        return chosen[::-1], {"total": len(chosen), "handled": 0}

    monkeypatch.setattr(dead_letters, "entries", entries)
    found = dead_letters._find_by_api("url", Wanted((*names, names[5])), "open", 640, contents=False)
    assert [one.id for one in found.letters] == names[10:]
    assert (found.total, found.handled) == (649, 1)
    assert asked == [300, 300, 51]
