"""The commands of ``settle``: name, module and group of each.

A command's module is imported when the command is run or shown, so ``settle run`` does not import what
``settle load`` needs.
"""

import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

from cli.errors import BAD_INPUT, BadInputError, in_one_line, of_command_line
from cli.extras import has, require
from cli.text import complain
from contracts.start import begin


class Command(NamedTuple):
    """Where a command is: a function of a module, or a ``typer.Typer`` with commands of its own.

    ``needs`` is an extra that not every installation has; the production image has ``relay`` and ``services``. A
    command that ``asks_itself`` may need more, as its argument says, and names what it needs.
    """

    module: str
    attribute: str
    panel: str
    needs: str | None = None
    asks_itself: bool = False

    @property
    def is_here(self) -> bool:
        """Whether the extra that it needs is installed."""
        return self.needs is None or has(self.needs)


RUN, ASK, LOOK, COMPARE, BREAK = "Run it", "Withdraw", "See where it stands", "Other ways", "Break it"

# In the order of `settle --help`; a new command is a line here and a module in this folder.
COMMANDS = {
    "up": Command("cli.up", "up", RUN, needs="stack"),
    "env": Command("cli.env", "env", RUN),
    "demo": Command("cli.demo", "demo", RUN, needs="stack"),
    "migrate": Command("cli.migrate", "migrate", RUN, needs="services"),
    "topics": Command("cli.topics", "topics", RUN),
    "secrets": Command("cli.secrets", "secrets", RUN, needs="services"),
    "api-keys": Command("cli.api_keys", "app", RUN),
    "run": Command("cli.run", "run", RUN, needs="relay", asks_itself=True),
    "settings": Command("cli.environment", "show", RUN),
    "request": Command("cli.request", "request", ASK),
    "load": Command("cli.load", "load", ASK),
    "cancel": Command("cli.cancel", "cancel", ASK),
    "accounts": Command("cli.accounts", "app", ASK),
    "status": Command("cli.status", "status", LOOK),
    "stuck": Command("cli.stuck", "stuck", LOOK),
    "nudge": Command("cli.nudge", "nudge", LOOK, needs="services"),
    "republish": Command("cli.republish", "republish", LOOK, needs="services"),
    "trace": Command("cli.trace", "app", LOOK),
    "audit": Command("cli.audit", "audit", LOOK),
    "gaps": Command("cli.gaps", "app", LOOK),
    "outbox": Command("cli.outbox", "app", LOOK),
    "dead-letters": Command("cli.dead_letters", "app", LOOK),
    "compare": Command("cli.compare", "compare", COMPARE, needs="lab"),
    "2pc": Command("cli.two_phase", "app", COMPARE, needs="lab"),
    "chaos": Command("cli.chaos", "chaos", BREAK, needs="lab"),
    "failpoints": Command("cli.failpoints", "failpoints", BREAK),
}


NUMBER_MAX = {float: 10**9, int: 10**15}
"""Limits of numbers on a command line; as seconds the first is some 31 years."""


class LazyCommands(TyperGroup):
    """Finds commands in :data:`COMMANDS`, and turns their known errors into one line."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """The names, in the order of the help page."""
        return [name for name, command in COMMANDS.items() if command.is_here]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """The command of that name, imported now; None without one."""
        command = COMMANDS.get(cmd_name)
        if command is None:
            return None
        if command.needs is not None and not command.asks_itself:
            require(command.needs, cmd_name)
        found = getattr(import_module(command.module), command.attribute)
        holder = typer.Typer(add_completion=False)
        if isinstance(found, typer.Typer):
            holder.callback()(lambda: None)
            holder.add_typer(found, name=cmd_name, rich_help_panel=command.panel)
            _bound_numbers(holder)
            return typer.main.get_group(holder).commands[cmd_name]
        holder.command(cmd_name, rich_help_panel=command.panel)(_bounded(found))
        return typer.main.get_command(holder)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, if it may run with these environment variables."""
        with in_one_line():
            begin()
            return super().invoke(ctx)

    def main(self, *arguments: Any, **extra: Any) -> Any:
        """Run the program; an error of the command line is one line as well, without a box around it."""
        if not extra.get("standalone_mode", True):
            return super().main(*arguments, **extra)
        try:
            code = super().main(*arguments, **{**extra, "standalone_mode": False})
        except Exception as error:
            line = of_command_line(error)
            if line is None:
                raise
            if line:
                complain(line)
            code = BAD_INPUT
        sys.exit(code)


def _bound_numbers(app: typer.Typer) -> None:
    """Make all commands of an app refuse numbers that databases or clocks cannot represent."""
    for command in app.registered_commands:
        # Of a group that was run before in this process, it is bounded already.
        if command.callback is not None and not hasattr(command.callback, "__wrapped__"):
            command.callback = _bounded(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _bound_numbers(group.typer_instance)


def _bounded(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def run(**values: Any) -> Any:
        for name, value in values.items():
            # NaN fails every comparison.
            largest = NUMBER_MAX.get(type(value))
            if largest is not None and not -largest <= value <= largest:
                raise BadInputError(f"--{name.replace('_', '-')} {value} is not a number up to {largest:,}")
        return command(**values)

    return run
