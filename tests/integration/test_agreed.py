"""What a person agreed to is what they were shown: what comes meanwhile is not touched, nor what others did."""

import json
from types import SimpleNamespace
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from cli.main import app
from operations.dead_letters.letters import Wanted, choose, read_letters
from operations.dead_letters.redrive import discard
from tests.conftest import Settle, wait_until


class Terminal:
    """A person who thinks, while something happens, and then says yes."""

    def __init__(self, meanwhile):
        self._meanwhile = meanwhile
        self.answers = 0

    def isatty(self):
        return True

    def readline(self):
        self.answers += 1
        self._meanwhile()
        return "y\n"


@pytest.fixture
def person(monkeypatch):
    def thinks(meanwhile):
        terminal = Terminal(meanwhile)
        monkeypatch.setattr("cli.confirm.sys", SimpleNamespace(stdin=terminal))
        return terminal

    return thinks


def test_dead_letters_that_come_or_go_meanwhile_are_not_touched(settle: Settle, person):
    mark = f"agreed-{uuid4().hex}"

    def refuse() -> str:
        before = {letter.id for letter in ours()}
        fields = {"dlq.topic": "account.events", "dlq.reason": mark, "dlq.offset": str(len(before))}
        settle.send("account.events.dlq", b"{}", mark, **fields)
        wait_until(lambda: len(ours()) > len(before), "one more")
        return next(letter.id for letter in ours() if letter.id not in before)

    def ours():
        return choose(read_letters(settle.bootstrap), Wanted(reason=mark))

    def states():
        return [
            letter.handled and letter.handled.note for letter in sorted(ours(), key=lambda one: one.record.offset)
        ]

    for _ in range(2):
        refuse()

    def somebody_else():
        discard(settle.bootstrap, ours()[:1], "theirs")
        refuse()

    terminal = person(somebody_else)
    command = ["dead-letters", "discard", "--reason", mark, "--note", "mine"]
    done = CliRunner().invoke(app, command, env={**settle.stack.environment(), "COLUMNS": "120"})
    assert "discard 2 dead letters? [y/N] " in done.stdout
    (row,) = [line.split() for line in done.stdout.splitlines() if mark in line]
    assert row == ["2", "account.events", mark]
    assert done.stdout.endswith("1 dead letter discarded\n"), done.stderr
    assert states() == ["theirs", "mine", None]
    left = CliRunner().invoke(app, [*command, "--yes"], env=settle.stack.environment())
    assert left.stdout == "1 dead letter discarded\n"
    assert terminal.answers == 1


def test_dead_rows_that_come_meanwhile_stay_where_they_are(settle: Settle, person):
    environment = dict(settle.stack.environment())
    for kind in ("account", "payment", "notification", "saga"):
        environment[f"SETTLE_{kind.upper()}_DSN"] = settle.new_database(kind, f"agreed_{kind}")
    settle.dsns["agreed"] = environment["SETTLE_SAGA_DSN"]

    def die(name: str) -> None:
        settle.execute(
            "agreed",
            f"""INSERT INTO outbox_dead VALUES ('018f0000-0000-7000-8000-00000000000{name}', 'withdrawal', 'key',
                'Type', '{{}}', NULL, NULL, '0/1', 'too large')""",
        )

    die("1")
    person(lambda: die("2"))
    done = CliRunner().invoke(app, ["outbox", "dead", "retry", "--all"], env={**environment, "COLUMNS": "120"})
    assert "put 1 row back into the outbox? [y/N] " in done.stdout, (done.stderr, done.exception)
    assert done.stdout.endswith("1 row put back\n"), done.stderr
    listed = CliRunner().invoke(app, ["outbox", "dead", "list", "--json"], env=environment)
    assert [row["id"][-1] for row in json.loads(listed.stdout)] == ["2"]
    del settle.dsns["agreed"]
