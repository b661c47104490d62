"""The ``outbox-relay`` command: ``outbox-relay --config relay.toml``, and ``check`` and ``explain``."""

import os
import sys
from collections.abc import Sequence
from enum import Enum
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from contracts import failpoints
from contracts.dsn import check_dsn, has_password
from contracts.production import is_production
from contracts.redaction import hide
from contracts.start import begin
from contracts.variables import FILE, EnvironmentRefusedError, complaint
from outbox_relay.errors import RelayError
from outbox_relay.settings import RelaySettings

_SOURCES = "SETTLE_RELAY_SOURCES"
_OWN = "settle-outbox-relay"
_DEMO_EXTRA = {_OWN: "demo", "settle": "stack"}
IMPORT = "import-debezium"
"""The command that has arguments of its own."""


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


def relay(
    command: Annotated[
        Command,
        typer.Argument(
            help="run: publish every row, until SIGTERM or SIGINT. check: say what is wrong with database, table, "
            "rights, publication, slot and topics. explain: print the SQL that the tables' owner is to run. "
            "demo: try it on a PostgreSQL and a Kafka of its own."
        ),
    ] = Command.RUN,
    config: Annotated[
        Path | None,
        typer.Option(help="The configuration file, for several outboxes. Default: SETTLE_RELAY_CONFIG."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="A database with an outbox, as a URL or a key-value string (host=… dbname=…), best "
            "without its password; repeat for more. Default: SETTLE_RELAY_SOURCES."
        ),
    ] = None,
    bootstrap: Annotated[
        str | None, typer.Option(help="Kafka, host:port[,host:port…]. Default: SETTLE_KAFKA_BOOTSTRAP.")
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(
            help="Which rows from before a new slot are published: all, none, since=TIME. Default: all that are "
            "left, where published rows are removed; else those that the topics would know. SETTLE_RELAY_INITIAL."
        ),
    ] = None,
    reader: Annotated[
        str | None, typer.Option(help="How outboxes are read: wal, or polling. Default: SETTLE_RELAY_READER.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="The outbox's schema. Default: public.")] = None,
    table: Annotated[str | None, typer.Option(help="The outbox's table. Default: outbox.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="A column of another name, as id=event_id; type= where there is none. Repeat for more."),
    ] = None,
    topic: Annotated[str | None, typer.Option(help="One topic for all rows.")] = None,
    publication: Annotated[str | None, typer.Option(help="The publication. Default: settle_outbox.")] = None,
    slot: Annotated[
        str | None, typer.Option(help="The replication slot. Default: settle_outbox_<database>.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(help="Over how many processes the sources are spread. Default: 1. SETTLE_RELAY_PROCESSES."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="check: print the findings as JSON.")] = False,
    show_version: Annotated[  # noqa: ARG001 - its callback ends the command
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Publish every row of the sources' outbox tables to Kafka.

    outbox-relay import-debezium --help: a connector of Debezium as a configuration file.
    """
    if find_spec("structlog") is None:  # which tells of the extra, as in cli/extras.py
        _refuse("the relay needs what is not installed here: pip install 'settle[relay]'")
    options = {
        "relay_config": config,
        "kafka_bootstrap": bootstrap,
        "relay_initial": initial,
        "relay_reader": reader,
        "relay_schema": schema,
        "relay_table": table,
        "relay_columns": ",".join(column or ()),
        "relay_topic": topic,
        "relay_publication": publication,
        "relay_slot": slot,
        "relay_processes": processes,
    }
    given: dict[str, object] = {name: value for name, value in options.items() if value not in (None, "")}
    try:
        begin(
            {"--source": "\n".join(source or ()), **({"SETTLE_KAFKA_BOOTSTRAP": bootstrap} if bootstrap else {})}
        )
        if source:
            given["relay_sources"] = [_checked(dsn) for dsn in source]
            if any(map(has_password, source)):
                _begin_again(source)
        if command is Command.DEMO:
            _demo()
            return
        failpoints.arm_from_environment()
        _do(command, RelaySettings(**given), as_json=as_json)  # type: ignore[arg-type]
    except ValidationError as error:
        _refuse(complaint(error))
    except (RelayError, OSError, failpoints.FailpointError, EnvironmentRefusedError) as error:
        _refuse(str(error))


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
        _refuse(
            f"the demo needs what is not installed here: pip install '{_package()}[{_DEMO_EXTRA[_package()]}]'"
        )
    module = import_module("stack.relay_demo")
    try:
        module.demo(typer.echo)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except module.StackError as error:
        _refuse(str(error))


def _checked(dsn: str) -> str:
    try:
        check_dsn(dsn)
    except ValueError as error:
        raise RelayError(f"--source is wrong: {error}") from None
    return dsn


def _begin_again(sources: Sequence[str]) -> NoReturn:
    """Replace this process by one with the sources in a variable: every user can read a process's arguments.

    Raises:
        RelayError: in production, where a password must not be readable even for a moment.
    """
    instead = f"{_SOURCES} or {_SOURCES}{FILE}, or leave it to a passfile, service or PGPASSWORD"
    if is_production():
        raise RelayError(
            f"--source is wrong: it has a password, which every user of this machine can read there: set {instead}"
        )
    typer.echo(
        f"outbox-relay: others could read the password in --source as it began: better set {instead}", err=True
    )
    others = {name: value for name, value in os.environ.items() if name != _SOURCES + FILE}
    command = [sys.executable, "-P", "-m", "outbox_relay", *_without_sources(sys.argv[1:])]
    os.execve(sys.executable, command, {**others, _SOURCES: "\n".join(sources)})  # noqa: S606 no shell is wanted


def _without_sources(arguments: Sequence[str]) -> list[str]:
    """A command's arguments without ``--source`` and what follows it."""
    rest = iter(arguments)
    kept = []
    for word in rest:
        if word == "--source":
            next(rest, None)
        elif not word.startswith("--source="):
            kept.append(word)
    return kept


def _refuse(line: str) -> NoReturn:
    for each in line.splitlines():
        typer.echo(f"outbox-relay: {hide(each)}", err=True)
    raise typer.Exit(2) from None


def main() -> None:
    """The ``outbox-relay`` command."""
    # A traceback with the values of variables would show a URL's password.
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if sys.argv[1:2] == [IMPORT]:
        from outbox_relay.debezium.command import import_debezium

        app.command()(import_debezium)
        app(sys.argv[2:], prog_name=f"outbox-relay {IMPORT}")
    app.command()(relay)
    app()


if __name__ == "__main__":
    main()
