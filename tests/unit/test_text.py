"""Foreign text is shown and never obeyed, and no command prints past the functions that see to it."""

import ast
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from cli.screen import Grid, Screen, lines, styled
from cli.text import complain, plain, say, say_json
from cli.trace_tree import as_tree
from tracing.collector import CollectedSpan

RICH = ("rich", "rich.console", "rich.table", "rich.markup", "rich.json", "rich.panel")
CLI = Path(__file__).parents[2] / "cli"
NASTY = "[/x] [bold]b[/bold] :smile: \x1b[31mred\x1b]0;title\x07 \x9b31m \u202e \u2028\r\nforged\x00\x7f\ud800"
SHOWN = r"[/x] [bold]b[/bold] :smile: \x1b[31mred\x1b]0;title\x07 \x9b31m \u202e \u2028\r\nforged\x00\x7f\ud800"


def on_screen(*printed, **options) -> str:
    file = io.StringIO()
    screen = Screen(file=file, width=400, color_system=None, **options)
    for one in printed:
        screen.print(one)
    return file.getvalue()


def test_a_terminal_shows_every_character_and_obeys_none():
    assert plain(NASTY) == SHOWN
    assert plain("Größe – ✓ 金") == "Größe – ✓ 金"


def test_what_is_cut_is_counted():
    assert plain("x" * 2_000, 3) == "xxx… (1,997 more characters)"
    assert plain("xxx", 3) == "xxx"


def test_a_line_stays_a_line(capsys):
    say(NASTY)
    complain(NASTY)
    assert capsys.readouterr() == (f"{SHOWN}\n", f"settle: {SHOWN}\n")


def test_json_has_every_character_and_nothing_that_a_terminal_obeys(capsys):
    say_json({"reason": NASTY})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"reason": NASTY}
    assert all(character.isprintable() and character.isascii() for character in shown.replace("\n", ""))


@pytest.mark.parametrize("terminal", [False, True])
def test_a_table_shows_markup_and_escapes_as_text(terminal):
    table = Grid()
    table.add_column("one", style="bold")
    table.add_column("two")
    table.add_row(NASTY, lines(NASTY, styled((NASTY, "dim"))))
    shown = on_screen(NASTY, styled(NASTY, (NASTY, "red")), table, force_terminal=terminal)
    assert shown.count(SHOWN) == 6
    assert all(line.isprintable() for line in shown.splitlines())


def test_a_trace_with_nasty_names_is_drawn_as_text():
    span = CollectedSpan(
        service=NASTY,
        name=NASTY,
        kind="",
        links=[],
        trace_id="1",
        span_id="2",
        parent_id="3",
        start_ns=0,
        end_ns=1,
        attributes={"settle.reason": NASTY, "settle.outbox.wait_ms": NASTY},
        error=NASTY,
        events=[NASTY],
    )
    assert on_screen(as_tree([span])).count(SHOWN) == 7  # the name once more, as an orphan's
    file = io.StringIO()
    Console(file=file, width=400, markup=True).print(as_tree([span]))
    assert file.getvalue().count("[/x]") == 7


def test_commands_print_by_these_functions_only():
    """Neither `print`, `typer.echo` nor rich's own console and tables, which read markup."""
    found = []
    for file in sorted(CLI.glob("*.py")):
        if file.name in ("text.py", "screen.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{file.name}:{node.lineno} print")
            if isinstance(node, ast.Attribute) and node.attr in ("echo", "secho", "stdout.write"):
                found.append(f"{file.name}:{node.lineno} {node.attr}")
            if isinstance(node, ast.ImportFrom) and node.module in RICH:
                found.append(f"{file.name}:{node.lineno} {node.module}")
    assert found == []


@pytest.mark.parametrize("head", [True, False])
def test_a_table_of_80_columns_cuts_nothing(head):
    account, balance = "acc-" + "0123456789" * 12 + "-end", "1,000,000.00"
    table = Grid(head=head)
    for name in ("account", "currency", "balance"):
        table.add_column(name)
    table.add_row(account, "USD", balance)
    file = io.StringIO()
    Screen(file=file, width=80).print(table)
    shown = file.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert account in "".join(line.split()[0] for line in shown.splitlines() if line.split())
    assert balance in shown
