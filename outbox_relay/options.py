"""The options that every command of ``outbox-relay`` has, and what all of them do first."""

import os
import sys
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from contracts import failpoints
from contracts.dsn import check_dsn, has_password
from contracts.production import is_production
from contracts.redaction import hide
from contracts.start import begin
from contracts.variables import FILE, EnvironmentRefusedError, complaint
from outbox_relay.errors import RefusedError, RelayError
from outbox_relay.settings import RelaySettings

_SOURCES = "SETTLE_RELAY_SOURCES"

NOT_DONE = 1
"""The exit code where what was asked is not done."""

Settings = Callable[[], RelaySettings]
"""Reads the settings, of options and variables.

Raises:
    ValidationError: one of them is wrong.
"""


def settings_of(
    *,
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
) -> Settings:
    """What these options and the variables say; the process begins as any of ours does.

    Raises:
        RelayError: ``--source`` is wrong, or has a password in production.
        EnvironmentRefusedError: the environment is not one to start in.
    """
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
    begin({"--source": "\n".join(source or ()), **({"SETTLE_KAFKA_BOOTSTRAP": bootstrap} if bootstrap else {})})
    if source:
        given["relay_sources"] = [_checked(dsn) for dsn in source]
        if any(map(has_password, source)):
            _begin_again(source)
    return lambda: RelaySettings(**given)  # type: ignore[arg-type]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command with these options besides its own; its first argument are the :data:`Settings`.

    What is refused is a line, and ends the process: with 1 an act, with 2 what is configured.
    """
    _, *own = signature(command).parameters.values()
    shared = signature(settings_of).parameters

    def run(**given: Any) -> None:
        try:
            settings = settings_of(**{name: given.pop(name) for name in shared})
            command(settings, **given)
        except ValidationError as error:
            refuse(complaint(error))
        except RefusedError as error:
            refuse(str(error), NOT_DONE)
        except (RelayError, OSError, failpoints.FailpointError, EnvironmentRefusedError) as error:
            refuse(str(error))

    parameters = [*own, *shared.values()]
    run.__signature__ = Signature(  # type: ignore[attr-defined]
        [one.replace(kind=Parameter.KEYWORD_ONLY) for one in parameters]
    )
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def refuse(text: str, code: int = 2) -> NoReturn:
    """Say what is wrong, line by line, and end."""
    for each in text.splitlines():
        typer.echo(f"outbox-relay: {hide(each)}", err=True)
    raise typer.Exit(code) from None


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
