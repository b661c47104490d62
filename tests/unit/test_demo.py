"""The demo's exit code is 0 only if the audit holds and all ended as planned."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cli.demo import _Seen
from cli.main import app

PLANNED = {"completed": 18, "compensated": 1, "rejected": 1}
ENDED = {"completed": (18, 1800), "compensated": (1, 100), "rejected": (1, 100)}


@pytest.mark.parametrize(
    ("found", "ok", "code"),
    [
        (ENDED, True, 0),
        (ENDED, False, 1),
        ({**ENDED, "completed": (17, 1700)}, True, 1),
        ({"completed": (20, 2000)}, True, 1),
    ],
)
def test_the_exit_code_says_whether_all_was_as_it_should_be(monkeypatch, found, ok, code):
    seen = _Seen(PLANNED, found, SimpleNamespace(ok=ok), SimpleNamespace())
    monkeypatch.setattr("stack.supervisor.Stack", lambda *_, **__: nullcontext())
    monkeypatch.setattr("cli.demo.on_end", lambda: None)
    monkeypatch.setattr("cli.demo._withdraw", lambda *_: seen)
    monkeypatch.setattr("cli.demo._show", lambda *_: None)
    assert CliRunner().invoke(app, ["demo"]).exit_code == code
