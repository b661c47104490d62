"""No command fails on what anybody can store or send, and none hands it to the terminal; times in UTC are."""

import ctypes
import json
import time
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from typer.testing import CliRunner

from cli.main import app
from operations.dead_letters.letters import Wanted, choose, read_letters
from processors.runtime import utc
from tests.conftest import Settle, wait_until

NASTY = "[/x] [bold]b[/] :smile: \x1b[31m \x9b31m \u202e \r\nforged \x07\x7f"
SHOWN = r"[/x] [bold]b[/] :smile: \x1b[31m \x9b31m \u202e \r\nforged \x07\x7f"
OPEN, ENDED = UUID(int=1), UUID(int=2)
PLANTED = {
    "account": ["INSERT INTO accounts VALUES (%(nasty)s, 'USD', 1, 1, 'infinity', '-infinity')"],
    "payment": [
        """INSERT INTO payments (payment_id, account_id, amount_minor, currency, status, reason, attempts,
            next_attempt_at, void_reason, traceparent)
        VALUES (%(open)s, %(nasty)s, 1, %(nasty)s, 'pending', %(nasty)s, 3, 'infinity', %(nasty)s, %(nasty)s)""",
        """INSERT INTO outbox_dead VALUES
            (%(nasty)s, %(nasty)s, %(nasty)s, %(nasty)s, '{}', %(nasty)s, %(nasty)s, '0/1', %(nasty)s)""",
    ],
    "notification": [
        """INSERT INTO notifications (payment_id, template, account_id, amount_minor, currency, recipient, status,
            reason, attempts)
        VALUES (%(ended)s, %(nasty)s, %(nasty)s, 1, %(nasty)s, %(nasty)s, 'failed', %(nasty)s, 1)"""
    ],
    "saga": [
        """INSERT INTO withdrawals (payment_id, account_id, amount_minor, currency, state, seen, reason, trace_id,
            created_at, updated_at)
        VALUES (%(open)s, %(nasty)s, 1, %(nasty)s, 'deducted', 7, %(nasty)s, %(nasty)s,
            '-infinity', '-infinity')""",
        """INSERT INTO withdrawals (payment_id, account_id, amount_minor, currency, state, seen, reason, trace_id,
            finished_at, finished_by)
        VALUES (%(ended)s, %(nasty)s, 1, %(nasty)s, 'rejected', 9, %(nasty)s, %(nasty)s,
            '10000-01-01', %(nasty)s)""",
        """INSERT INTO event_store (payment_id, event_id, type, payload, recorded_at)
        SELECT id, gen_random_uuid(), type, payload::json, recorded_at
        FROM unnest(ARRAY[%(open)s, %(ended)s]::uuid[]) AS w (id),
            unnest(%(types)s::text[], %(bodies)s::text[], %(times)s::timestamptz[])
                AS e (type, payload, recorded_at)""",
    ],
    "provider": [],
}
EVENTS = [
    (NASTY, json.dumps({"occurred_at": NASTY, "reason": NASTY}), "infinity"),
    ("LastSecond", '{"occurred_at": "9999-12-31T23:59:59-01:00"}', "now"),
    ("FirstSecond", '{"occurred_at": "0001-01-01T00:00:00+01:00"}', "now"),
    ("FarZone", '{"occurred_at": "2026-01-01T00:00:00+20:00"}', "now"),
    ("HalfACharacter", r'{"occurred_at": "2026-01-01T00:00:00Z", "note": "\ud800"}', "2026-02-01"),
    ("NoObject", "[]", "0044-03-15 BC"),
    ("NoTime", '{"occurred_at": {"a": 1}, "reason": []}', "10000-01-01"),
    ("Deep", '{"note": ' + "[" * 900 + "]" * 900 + "}", "now"),
]


@pytest.fixture(scope="module")
def planted(settle: Settle):
    """Databases that hold the worst of everything, and the variables that name them."""
    environment = dict(settle.stack.environment())
    types, bodies, times = (list(column) for column in zip(*EVENTS, strict=True))
    values = {"nasty": NASTY, "open": OPEN, "ended": ENDED, "types": types, "bodies": bodies, "times": times}
    for database, statements in PLANTED.items():
        name = f"nasty_{database}"
        dsn = settle.new_database(database, name)
        environment[f"SETTLE_{database.upper()}_DSN"] = dsn
        with psycopg.connect(dsn) as connection:
            for statement in statements:
                connection.execute(statement, values if "%(" in statement else None)
            connection.execute(f"ALTER DATABASE {name} SET TimeZone = 'Pacific/Kiritimati'")
    return environment


def cli(environment, *arguments):
    found = CliRunner().invoke(app, arguments, env={**environment, "COLUMNS": "400"})
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    for line in (found.stdout + found.stderr).splitlines():
        assert line.isprintable(), line
        assert not line.strip().startswith("forged")
    return found


@pytest.mark.parametrize(
    ("arguments", "code", "times"),
    [
        (["status", str(OPEN)], 0, 3),
        (["status", str(ENDED)], 0, 4),
        (["stuck", "--older-than", "0"], 0, 3),
        (["accounts", "list"], 0, 1),
        (["outbox", "dead", "list"], 0, 2),
        (["outbox", "dead", "retry", "--all"], 2, 1),
        (["outbox", "status"], 0, 0),
        (["republish", "--quiet", "0", "--every-event", "--dry-run"], 0, 0),
        (["audit", "--wait", "0"], 1, 1),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else None,
)
def test_foreign_text_in_a_database_is_shown_as_text(planted, arguments, code, times):
    found = cli(planted, *arguments)
    assert found.exit_code == code, found.stderr
    assert found.stdout.count(SHOWN) >= times
    if code == 0 and arguments[0] != "outbox":
        cli(planted, *(one for one in arguments if one != "--dry-run"), "--json")


def test_json_has_foreign_text_as_it_is(planted):
    shown = json.loads(cli(planted, "status", str(ENDED), "--json").stdout)
    assert (shown["reason"], shown["account_id"], shown["finished_by"]) == (NASTY, NASTY, NASTY)
    assert shown["finished_at"] == "9999-12-31T23:59:59.999999+00:00"


def test_an_account_that_is_none_is_named_in_one_line(planted):
    found = cli(planted, "accounts", "show", NASTY)
    assert (found.exit_code, len(found.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("style", ["ISO, MDY", "German, DMY", "SQL, DMY"])
def test_a_status_is_in_utc_and_in_order_whatever_the_database_and_this_machine_say(planted, style, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        with psycopg.connect(planted["SETTLE_SAGA_DSN"]) as connection:
            connection.execute(f"ALTER DATABASE nasty_saga SET DateStyle = '{style}'")
        rows = [line.split("  ")[0:2] for line in cli(planted, "status", str(OPEN)).stdout.splitlines()]
        fields = json.loads(cli(planted, "status", str(OPEN), "--json").stdout)
        stuck = cli(planted, "stuck", "--older-than", "0").stdout
    finally:
        monkeypatch.undo()
        time.tzset()
    at = {step["event"]: step["at"] for step in fields["steps"]}
    assert at["LastSecond"] == at["NoTime"] == at[NASTY] == "9999-12-31T23:59:59.999999+00:00"
    assert at["FirstSecond"] == at["NoObject"] == "0001-01-01T00:00:00+00:00"
    assert at["FarZone"] == "2025-12-31T04:00:00+00:00"
    assert at["HalfACharacter"] == "2026-02-01T00:00:00+00:00"  # as no more can be read than when it was recorded
    assert [step["at"] for step in fields["steps"]] == sorted(at.values())
    assert any("FarZone" in row[0] for row in rows)
    assert "next at 23:59:59 UTC" in stuck


def test_a_time_of_the_database_is_in_utc(planted):
    """As text it would come in the session's zone, here 14 hours ahead."""
    with psycopg.connect(planted["SETTLE_ACCOUNT_DSN"]) as connection:
        (at,) = utc.cursor(connection).execute("SELECT timestamptz '2026-11-28 10:00:00+00'").fetchone()
    assert at.isoformat() == "2026-11-28T10:00:00+00:00"


def send_with_header_name(settle: Settle, topic: str, name: bytes, value: bytes) -> None:
    """Python's client only writes names in UTF-8, the library below it any."""
    mapped = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines())
    kafka = ctypes.CDLL(next(file for file in mapped if "librdkafka" in file))
    for function in (kafka.rd_kafka_conf_new, kafka.rd_kafka_new):
        function.restype = ctypes.c_void_p
    error, size = ctypes.create_string_buffer(512), ctypes.c_size_t
    conf = ctypes.c_void_p(kafka.rd_kafka_conf_new())
    kafka.rd_kafka_conf_set(conf, b"bootstrap.servers", settle.bootstrap.encode(), error, size(512))
    producer = ctypes.c_void_p(kafka.rd_kafka_new(0, conf, error, size(512)))
    end, topic_is, value_is, header_is = map(ctypes.c_int, (0, 1, 4, 9))
    header = (header_is, name, b"?", ctypes.c_ssize_t(1))
    place = (topic_is, topic.encode(), value_is, value, size(len(value)))
    assert kafka.rd_kafka_producev(producer, *place, *header, end) == 0
    assert kafka.rd_kafka_flush(producer, 30_000) == 0
    kafka.rd_kafka_destroy(producer)


def test_a_header_whose_name_is_no_text_ends_no_service_and_no_command(settle: Settle):
    account, mark = settle.open_account(), str(uuid4())
    topics = (
        "withdrawal.requests",
        "account.events",
        "payment.events",
        "notification.events",
        "payment.requests.dlq",
    )
    for topic in topics:
        send_with_header_name(settle, topic, b"\xff\xfe", f"{mark} {topic}".encode())
    assert settle.finished(settle.client.request(account, "1.00").payment_id).state == "completed"

    def refused():
        letters = read_letters(settle.bootstrap)
        return {
            one.record.value: one.refusals[0].reason
            for one in letters
            if mark.encode() in (one.record.value or b"")
        }

    for topic in topics:
        body = f"{mark} {topic}".encode()
        reason = wait_until(lambda one=body: refused().get(one), f"what was on {topic} is a dead letter")
        assert reason == ("unknown" if topic.endswith(".dlq") else "the name of a header is not UTF-8")
    assert cli(settle.stack.environment(), "dead-letters", "list").exit_code == 0
    settle.audit()


def nasty_letters(settle: Settle, account: str) -> dict[str, bytes]:
    """Dead letters as anybody can write them, by the payment ID or key that finds each."""
    deep = b'{"payment_id": "%s", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    bodies = {
        "deep": deep,
        "deep_only": b"[" * 200_000,
        "wide": b'{"payment_id": "%s", "a": ' + b"[" * 500 + b"1," * 60_000 + b"1" + b"]" * 500 + b"}",
        "number": b'{"payment_id": "%s", "a": ' + b"1" * 10_000 + b"}",
        "bytes": b"\xff\xfe" + NASTY.encode() + b"\x00",
        "surrogate": rb'{"payment_id": "%s", "a": "\ud800 \u001b[31m"}',
    }
    reasons = {
        "dlq.topic": NASTY,
        "dlq.partition": "9" * 5_000,
        "dlq.offset": "²",
        "dlq.service": NASTY,
        "dlq.reason": NASTY,
        "dlq.error": NASTY,
        "dlq.at": "9999-12-31T23:59:59-01:00",
        "eventType": NASTY,
        "id": NASTY,
        NASTY: NASTY,
    }
    found = {}
    for number, (name, body) in enumerate(bodies.items()):
        payment_id = str(uuid4())
        body = body.replace(b"%s", payment_id.encode())
        headers = {**reasons, "eventType": f"{NASTY} {name}", "dlq.offset": str(number)}
        if name == "number":
            headers |= {"dlq.topic": "account.events", "dlq.partition": "999"}
        if name == "bytes":
            headers = dict.fromkeys(headers, b"\xff")
        settle.send("account.events.dlq", body, account, **headers)
        found[name] = body
    return found


def test_no_dead_letter_ends_the_commands(settle: Settle):
    bodies = nasty_letters(settle, settle.open_account())
    settle.send("dead-letters.handled", b"[" * 5_000, "a/1@2")
    settle.send("dead-letters.handled", b'{"action": "eaten"}', "a/1@3")

    def ours():
        letters = choose(read_letters(settle.bootstrap), Wanted())
        return [letter for letter in letters if letter.record.value in bodies.values()]

    wait_until(lambda: len(ours()) == len(bodies), "all are there")
    environment = settle.stack.environment()
    assert cli(environment, "dead-letters", "list", "--limit", "1000000").stdout.count(SHOWN) > len(bodies)
    listed = json.loads(cli(environment, "dead-letters", "list", "--json", "--limit", "1000000").stdout)
    for letter in ours():
        shown = cli(environment, "dead-letters", "show", letter.id)
        assert shown.exit_code == 0
        assert len(shown.stdout) < 400_000
        assert letter.id in [one["id"] for one in listed]
    refused = cli(environment, "dead-letters", "discard", "--type", f"{NASTY} deep")
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert "to discard 1 dead letter without a terminal to ask at, pass --yes" in refused.stderr
    assert SHOWN in refused.stdout
    gone = cli(environment, "dead-letters", "redrive", "--type", f"{NASTY} number", "--yes")
    assert gone.exit_code == 2
    assert "that partition does not exist any more" in gone.stderr
    for name in bodies:
        cli(environment, "dead-letters", "discard", "--type", f"{NASTY} {name}", "--yes")
