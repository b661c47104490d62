"""The ``outbox-relay`` command: ``outbox-relay --config relay.toml``, ``check`` and ``explain``, and control."""

import sys
from enum import Enum
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated

import typer

from contracts import failpoints
from contracts.redaction import hide
from contracts.start import open_standard_streams
from outbox_relay.options import Settings, refuse, with_settings
from outbox_relay.settings import RelaySettings

_OWN = "settle-outbox-relay"
_DEMO_EXTRA = {_OWN: "demo", "settle": "stack"}
IMPORT = "import-debezium"
"""The command that has arguments of its own."""
CONTROL = ("pause", "resume", "rewind", "skip", "status", "acts", "dead", "slot")
"""The commands of :mod:`outbox_relay.control.command`."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"outbox-relay {version(_package())}")
        raise typer.Exit


def _package() -> str:
    """The package that this is installed with: the relay's own, or the whole project's."""
    try:
        version(_OWN)
    except PackageNotFoundError:
        return "settle"
    return _OWN


class Command(Enum):
    """What is to be done about the outboxes."""

    RUN = "run"
    CHECK = "check"
    EXPLAIN = "explain"
    DEMO = "demo"


@with_settings
def relay(
    settings: Settings,
    command: Annotated[
        Command,
        typer.Argument(
            help="run: publish every row, until SIGTERM or SIGINT. check: say what is wrong with database, table, "
            "rights, publication, slot and topics. explain: print the SQL that the tables' owner is to run. "
            "demo: try it on a PostgreSQL and a Kafka of its own."
        ),
    ] = Command.RUN,
    as_json: Annotated[bool, typer.Option("--json", help="check: print the findings as JSON.")] = False,
    show_version: Annotated[  # noqa: ARG001 - its callback ends the command
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Publish every row of the sources' outbox tables to Kafka.

    outbox-relay import-debezium --help: a connector of Debezium as a configuration file.

    outbox-relay pause|resume|rewind|skip|status|acts|dead|slot --help: control of a relay that runs.
    """
    _need_the_relay()
    if command is Command.DEMO:
        _demo()
        return
    failpoints.arm_from_environment()
    _do(command, settings(), as_json=as_json)


def _need_the_relay() -> None:
    if find_spec("structlog") is None:  # which tells of the extra, as in cli/extras.py
        refuse("the relay needs what is not installed here: pip install 'settle[relay]'")


def _do(command: Command, settings: RelaySettings, *, as_json: bool) -> None:
    # Imported here, as the base installation has this command too.
    if command is Command.RUN:
        from outbox_relay.relay import run_relay

        run_relay(settings)
    elif command is Command.EXPLAIN:
        from outbox_relay.explain import explained

        typer.echo(explained(settings))
    else:
        from outbox_relay.check import check, lines, to_json

        findings = list(check(settings))
        typer.echo(hide(to_json(findings) if as_json else "\n".join(lines(findings))))
        raise typer.Exit(0 if all(one.is_ok for one in findings) else 1)


def _demo() -> None:
    """A module of the floor above, which not every installation has: it is named here, and imports the relay."""
    if find_spec("jgo") is None or find_spec("stack") is None:
        refuse(f"the demo needs what is not installed here: pip install '{_package()}[{_DEMO_EXTRA[_package()]}]'")
    module = import_module("stack.relay_demo")
    try:
        module.demo(typer.echo)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except module.StackError as error:
        refuse(str(error))


def main() -> None:
    """The ``outbox-relay`` command."""
    open_standard_streams()
    # A traceback with the values of variables would show a URL's password.
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if sys.argv[1:2] == [IMPORT]:
        from outbox_relay.debezium.command import import_debezium

        app.command()(import_debezium)
        app(sys.argv[2:], prog_name=f"outbox-relay {IMPORT}")
    if sys.argv[1:2] and sys.argv[1] in CONTROL:
        _need_the_relay_here()
        from outbox_relay.control.command import app as control

        control(prog_name="outbox-relay")
    app.command()(relay)
    app()


def _need_the_relay_here() -> None:
    """The same outside of a command."""
    try:
        _need_the_relay()
    except typer.Exit as ends:
        sys.exit(ends.exit_code)


if __name__ == "__main__":
    main()
