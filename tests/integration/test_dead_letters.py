"""A person sees what could not be handled, mends the cause and sends it back, once, whoever dies meanwhile."""

import json
import os
import subprocess
import sys
from uuid import uuid4

import pytest
from click.testing import Result
from typer.testing import CliRunner
from uuid_utils.compat import uuid7

from broker import scan as scanning
from broker.scan import scan, scan_ranges
from cli.main import app
from contracts.events import encode
from contracts.failpoints import EXIT_CODE, VARIABLE
from operations.dead_letters import actions, originals, redrive
from operations.dead_letters.actions import act
from operations.dead_letters.handled import same
from operations.dead_letters.letters import Wanted, choose, read_letters
from operations.dead_letters.warning import UNVERIFIED
from tests.conftest import Settle, wait_until
from tests.integration.test_withdrawals import request


def cli(settle: Settle, *arguments: str) -> Result:
    environment = {**settle.stack.environment(), "COLUMNS": "80"}
    return CliRunner().invoke(app, ["dead-letters", *arguments], env=environment)


def letter_of(settle: Settle, name: str):
    return wait_until(
        lambda: next((one for one in read_letters(settle.bootstrap) if name in (one.id, one.payment_id)), None),
        f"a dead letter {name}",
    )


def times_on_topic(settle: Settle, record) -> int:
    found = [message for message in scan(settle.bootstrap, [record.topic]) if same(message, record)]
    assert {message.partition() for message in found} == {record.partition}
    return len(found)


class Poisoned:
    """Withdrawals that the account service's database refuses until it is mended."""

    def __init__(self, settle: Settle, count: int) -> None:
        self.settle = settle
        self.account = settle.open_account()
        self.name = f"poison_{uuid4().hex[:8]}"
        settle.execute(
            "account",
            f"ALTER TABLE ledger ADD CONSTRAINT {self.name} CHECK (account_id <> '{self.account}') NOT VALID",
        )
        self.requests = [request(self.account) for _ in range(count)]
        for one in self.requests:
            settle.send_request(one)
        self.letters = [letter_of(settle, str(one.payment_id)) for one in self.requests]

    def mend(self) -> None:
        self.settle.execute("account", f"ALTER TABLE ledger DROP CONSTRAINT {self.name}")


def test_what_was_refused_is_listed_shown_mended_and_redriven_once(settle: Settle):
    poisoned = Poisoned(settle, 1)
    (letter,) = poisoned.letters
    payment_id = str(poisoned.requests[0].payment_id)
    listed = cli(settle, "list", "--reason", "poison_", payment_id)
    assert letter.id in "".join(listed.stdout.split())
    assert "1 dead letter that waits" in listed.stdout
    assert max(map(len, listed.stdout.splitlines())) <= 80
    shown = cli(settle, "show", letter.id).stdout
    assert f"payment     {payment_id}" in shown
    assert "CheckViolation: new row for relation" in shown
    assert '"amount_minor": 10000' in shown
    (fields,) = json.loads(cli(settle, "list", payment_id, "--json").stdout)
    assert (fields["id"], fields["state"], fields["event_type"]) == (letter.id, "open", "WithdrawalRequested")

    poisoned.mend()
    done = cli(settle, "redrive", letter.id)
    assert (done.exit_code, done.stdout) == (0, "1 dead letter redriven\n")
    assert settle.finished(poisoned.requests[0].payment_id).state == "completed"
    assert times_on_topic(settle, letter.record) == 2

    again = cli(settle, "redrive", letter.id)
    assert again.exit_code == 2
    assert again.stderr.startswith(f"settle: dead letter {letter.id}: it was redriven already, at ")
    assert len(again.stderr.splitlines()) == 1
    assert cli(settle, "discard", letter.id).exit_code == 2
    assert "0 dead letters that wait, 1 handled" in cli(settle, "list", payment_id).stdout
    assert times_on_topic(settle, letter.record) == 2
    settle.audit()


@pytest.mark.parametrize("place", ["redrive.intended", "redrive.sent"])
def test_a_redrive_that_is_killed_loses_none_and_the_next_one_doubles_none(settle: Settle, place: str):
    poisoned = Poisoned(settle, 3)
    ids = [letter.id for letter in poisoned.letters]
    poisoned.mend()
    killed = subprocess.run(
        [sys.executable, "-m", "cli", "dead-letters", "redrive", *ids],
        env={**os.environ, **settle.stack.environment(), VARIABLE: place},
        check=False,
    )
    assert killed.returncode == EXIT_CODE
    done = cli(settle, "redrive", *ids)
    assert done.exit_code == 0, done.stderr
    if place == "redrive.sent":
        assert done.stdout == "0 dead letters redriven; 3 had been sent by a redrive that was interrupted\n"
    else:
        assert done.stdout == "3 dead letters redriven\n"
    for one, letter in zip(poisoned.requests, poisoned.letters, strict=True):
        assert settle.finished(one.payment_id).state == "completed"
        assert times_on_topic(settle, letter.record) == 2
    assert cli(settle, "redrive", ids[0]).exit_code == 2
    settle.audit()


def test_what_makes_no_sense_is_discarded_and_may_be_redriven_yet(settle: Settle):
    account, body = settle.open_account(), b"\x1b[31m\x00\xff" + str(uuid4()).encode()
    partition, offset = settle.send(
        "withdrawal.requests", body, account, eventType=b"WithdrawalRequested", id=b"?"
    )
    letter = letter_of(settle, f"withdrawal.requests/{partition}@{offset}")
    wait_until(
        lambda: {one.service for one in letter_of(settle, letter.id).refusals} == {"account", "saga"},
        "account and saga have both refused it: one letter",
    )
    shown = cli(settle, "show", letter.id).stdout
    assert "\x1b" not in shown
    assert r"\x1b[31m" in shown
    assert cli(settle, "discard", letter.id, "--note", "noise").exit_code == 0
    assert "noise" in cli(settle, "show", letter.id).stdout
    twice = cli(settle, "discard", letter.id)
    assert twice.exit_code == 2
    assert twice.stderr.startswith(f"settle: dead letter {letter.id}: it was discarded already, at ")
    assert cli(settle, "redrive", letter.id).exit_code == 0
    assert times_on_topic(settle, letter.record) == 2


def test_a_payment_id_that_is_not_utf_8_hinders_nobody(settle: Settle):
    account, ids = settle.open_account(), []
    for body in (b'{"payment_id": "\xff"}', b'{"payment_id": ["\xff"]}', b"another"):
        partition, offset = settle.send(
            "account.events", body, account, id=str(uuid7()), eventType="MoneyDeducted"
        )
        ids.append(letter_of(settle, f"account.events/{partition}@{offset}").id)
    listed = cli(settle, "list", *ids, "--json").stdout
    assert {one["id"]: one["payment_id"] for one in json.loads(listed)} == dict.fromkeys(ids)
    for one in reversed(ids):
        assert f"dead letter {one}" in cli(settle, "show", one).stdout
        assert cli(settle, "discard", one).exit_code == 0


def test_what_a_dead_letter_makes_up_is_not_redriven_beside_what_is_on_its_topic(settle: Settle):
    """Who may write dead letters may write no events: not of another key, body, header or place either."""
    account, reason = settle.open_account(), f"fails {uuid4()}"
    poisoned = Poisoned(settle, 3)
    place = poisoned.letters[0].record
    event = encode(request(account))
    true = settle.send("account.events", b"no event", account, id=str(uuid7()), eventType="MoneyDeducted")
    honest = letter_of(settle, f"account.events/{true[0]}@{true[1]}")
    fields = {name: value or b"" for name, value in place.headers}
    claims = {"dlq.topic": place.topic, "dlq.partition": str(place.partition), "dlq.offset": str(place.offset)}
    claims |= {"dlq.service": "account", "dlq.reason": reason}
    key = (place.key or b"").decode()
    forged = [
        (event, key, {**fields, **claims}),
        (place.value, "another", {**fields, **claims}),
        (place.value, key, {**fields, "id": str(uuid7()), **claims}),
        (place.value, key, {**fields, **claims, "dlq.offset": str(10**9)}),
        (event, key, {**fields, "dlq.reason": reason}),
    ]
    for body, its_key, more in forged:
        settle.send("withdrawal.requests.dlq", body, its_key, **more)

    def ours():
        letters = [one for one in read_letters(settle.bootstrap) if one.refusals[0].reason == reason]
        return len(letters) == len(forged) and letters

    letters = wait_until(ours, "the forged letters are there")
    before = settle.length("withdrawal.requests")
    poisoned.mend()
    chosen = [*letters, *poisoned.letters, honest]
    done = {one.id: one for one in act(settle.bootstrap, "redrive", [one.id for one in chosen])}
    assert all(done[one.id].error.startswith("unverified: ") for one in letters)
    assert {done[one.id].error for one in (*poisoned.letters, honest)} == {None}
    assert settle.length("withdrawal.requests") == before + len(poisoned.letters)
    assert all(one.handled is None for one in ours())
    for one in poisoned.requests:
        assert settle.finished(one.payment_id).state == "completed"
    listed = cli(settle, "redrive", "--reason", reason, "--unverified")
    assert listed.exit_code == 2
    assert UNVERIFIED in " ".join(listed.stdout.split())
    assert "to redrive 5 dead letters without a terminal to ask at, pass --yes" in listed.stderr
    assert cli(settle, "redrive", letters[0].id, "--unverified").exit_code == 2
    assert cli(settle, "discard", "--reason", reason, "--yes").exit_code == 0
    assert settle.length("withdrawal.requests") == before + len(poisoned.letters)


def test_originals_far_from_each_other_are_read_without_what_is_between(settle: Settle, monkeypatch):
    monkeypatch.setattr(originals, "BETWEEN_MAX", 1)
    account, name = settle.open_account(), str(uuid4())
    places = [
        settle.send("account.events", f"{name} {number}".encode(), account, id=name, eventType="MoneyDeducted")
        for number in range(8)
    ]
    letters = [letter_of(settle, f"account.events/{partition}@{offset}") for partition, offset in places]
    # The same account has all of them in one partition; to another one they may be anywhere.
    other = settle.send("account.events", b"far", settle.open_account(), id=name, eventType="MoneyDeducted")
    letters.append(letter_of(settle, f"account.events/{other[0]}@{other[1]}"))
    chosen = [letters[number] for number in (0, 1, 4, 7, 8)]
    assert originals.unverified(settle.bootstrap, chosen) == {}
    read, clients, reader = [], [], scanning.reader
    monkeypatch.setattr(
        originals, "scan_ranges", lambda *words: (read.append(one) or one for one in scan_ranges(*words))
    )
    monkeypatch.setattr(scanning, "reader", lambda *words: clients.append(reader(*words)) or clients[-1])
    assert originals.unverified(settle.bootstrap, chosen) == {}
    assert len(clients) == 1
    wanted = [(one.record.partition, one.record.offset) for one in chosen]
    assert sorted((one.partition(), one.offset()) for one in read) == sorted(wanted)
    act(settle.bootstrap, "discard", [letter.id for letter in letters])


def test_what_somebody_else_redrives_while_originals_are_verified_is_sent_once(settle: Settle, monkeypatch):
    poisoned = Poisoned(settle, 2)
    poisoned.mend()
    (first, second), verify = poisoned.letters, redrive.unverified

    def slowly(*words):
        found = verify(*words)
        monkeypatch.setattr(redrive, "unverified", verify)
        (done,) = act(settle.bootstrap, "redrive", [first.id])
        assert done.error is None
        return found

    monkeypatch.setattr(redrive, "unverified", slowly)
    done = act(settle.bootstrap, "redrive", [first.id, second.id])
    assert done[0].error is not None
    assert done[0].error.startswith("it was redriven already, at ")
    assert done[1].error is None
    for letter in poisoned.letters:
        assert times_on_topic(settle, letter.record) == 2
    for one in poisoned.requests:
        assert settle.finished(one.payment_id).state == "completed"
    settle.audit()


def test_what_somebody_else_redrives_meanwhile_is_not_discarded(settle: Settle, monkeypatch):
    (letter,) = (poisoned := Poisoned(settle, 1)).letters
    poisoned.mend()

    def slowly(bootstrap):
        found = read_letters(bootstrap)
        monkeypatch.setattr(actions, "read_letters", read_letters)
        act(bootstrap, "redrive", [letter.id])
        return found

    monkeypatch.setattr(actions, "read_letters", slowly)
    (done,) = act(settle.bootstrap, "discard", [letter.id], "nobody needs it")
    assert done.error is not None
    assert done.error.startswith("it was redriven already, at ")
    assert settle.finished(poisoned.requests[0].payment_id).state == "completed"
    (again,) = act(settle.bootstrap, "redrive", [letter.id])
    assert again.error is not None


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["redrive"], "say which dead letters: IDs, --topic, --type, --reason, or --all"),
        (["discard"], "say which dead letters: IDs, --topic, --type, --reason, or --all"),
        (["show", "a/1@2"], "no dead letter a/1@2; `settle dead-letters list --all` shows them"),
        (["redrive", "a/1@2"], "no dead letter a/1@2; `settle dead-letters list --all` shows them"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line_and_exit_code_2(settle: Settle, arguments, line):
    found = cli(settle, *arguments)
    assert (found.exit_code, found.stdout, found.stderr) == (2, "", f"settle: {line}\n")


def test_dead_letters_are_chosen_by_topic_type_reason_and_id(settle: Settle):
    account, mark = settle.open_account(), f"x{uuid4().hex}"
    settle.send("withdrawal.requests", mark.encode(), account, eventType=b"WithdrawalRequested", id=str(uuid4()))
    settle.send(
        "account.events",
        b'{"payment_id": "%s"}' % mark.encode(),
        account,
        eventType=b"MoneyDeducted",
        id=str(uuid7()),
    )
    settle.finished(settle.client.request(account, "1.00").payment_id)

    def ours(**wanted):
        letters = choose(read_letters(settle.bootstrap), Wanted(**wanted))
        return {letter.record.topic for letter in letters if mark.encode() in (letter.record.value or b"")}

    wait_until(lambda: len(ours()) == 2, "both were refused")
    assert ours(topic="account.events") == {"account.events"}
    assert ours(event_type="WithdrawalRequested") == {"withdrawal.requests"}
    assert ours(reason="NOT JSON") == {"withdrawal.requests"}
    assert ours(ids=(mark,)) == {"account.events"}
    assert ours(ids=(mark,), topic="withdrawal.requests") == set()


def test_no_foreign_dead_letter_hides_another_or_is_taken_for_it(settle: Settle):
    """Whoever may write to the topic can name any place, or none; a topic made anew counts from 0 again."""
    body, key = uuid4().bytes, settle.open_account()
    partition, offset = settle.send("account.events", body, key, id=str(uuid7()), eventType="MoneyDeducted")
    place = f"account.events/{partition}@{offset}"
    refused = letter_of(settle, place)
    assert refused.record.value == body
    claims = {"dlq.topic": "account.events", "dlq.partition": str(partition), "dlq.offset": str(offset)}
    forged = settle.send("account.events.dlq", b"forged", key, **claims)
    nameless = settle.send("account.events.dlq", b"nameless", key)
    elsewhere = settle.send("account.events.dlq", b"elsewhere", key, **{**claims, "dlq.topic": "payment.requests"})
    half = settle.send("account.events.dlq", b"half", key, **{**claims, "dlq.offset": "-1"})
    discarded = cli(settle, "discard", f"account.events.dlq/{forged[0]}@{forged[1]}")
    assert (discarded.exit_code, discarded.stdout) == (0, "1 dead letter discarded\n"), discarded.stderr
    letters = {letter.id: letter for letter in read_letters(settle.bootstrap)}
    for found, value in ((forged, b"forged"), (nameless, b"nameless"), (elsewhere, b"elsewhere"), (half, b"half")):
        letter = letters[f"account.events.dlq/{found[0]}@{found[1]}"]
        assert (letter.record.topic, letter.record.partition, letter.record.value) == (
            "account.events",
            partition,
            value,
        )
        assert letter.open is (value != b"forged")
    # Each service that read it refused it once, and each says so of the same letter.
    again = letters[place]
    assert (again.record, again.open) == (refused.record, True)
    assert {refusal.service for refusal in again.refusals} <= {"payment", "notification", "saga"}
