"""The ``outbox-relay`` command: ``outbox-relay --source postgresql://… --bootstrap host:port``."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
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


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"outbox-relay {_version()}")
        raise typer.Exit


def _version() -> str:
    """The version of the package that this is installed with: the relay's own, or the whole project's."""
    try:
        return version("settle-outbox-relay")
    except PackageNotFoundError:
        return version("settle")


def relay(
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
    show_version: Annotated[  # noqa: ARG001 - its callback ends the command
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Publish every row of the sources' outbox tables to Kafka, until SIGTERM or SIGINT."""
    if find_spec("structlog") is None:  # which tells of the extra, as in cli/extras.py
        _refuse("the relay needs what is not installed here: pip install 'settle[relay]'")
    options = {"kafka_bootstrap": bootstrap, "relay_initial": initial}
    given: dict[str, object] = {name: value for name, value in options.items() if value}
    try:
        begin(
            {"--source": "\n".join(source or ()), **({"SETTLE_KAFKA_BOOTSTRAP": bootstrap} if bootstrap else {})}
        )
        if source:
            given["relay_sources"] = [_checked(dsn) for dsn in source]
            if any(map(has_password, source)):
                _begin_again(source, {"--bootstrap": bootstrap, "--initial": initial})
        failpoints.arm_from_environment()
        # Imported here, as the base installation has this command too.
        from outbox_relay.relay import run_relay

        run_relay(RelaySettings(**given))  # type: ignore[arg-type]
    except ValidationError as error:
        _refuse(complaint(error))
    except (RelayError, OSError, failpoints.FailpointError, EnvironmentRefusedError) as error:
        _refuse(str(error))


def _checked(dsn: str) -> str:
    try:
        check_dsn(dsn)
    except ValueError as error:
        raise RelayError(f"--source is wrong: {error}") from None
    return dsn


def _begin_again(sources: Sequence[str], options: Mapping[str, str | None]) -> NoReturn:
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
    rest = [word for option, value in options.items() if value for word in (option, value)]
    command = [sys.executable, "-P", "-m", "outbox_relay", *rest]
    os.execve(sys.executable, command, {**others, _SOURCES: "\n".join(sources)})  # noqa: S606 no shell is wanted


def _refuse(line: str) -> NoReturn:
    typer.echo(f"outbox-relay: {hide(line)}", err=True)
    raise typer.Exit(2) from None


def main() -> None:
    """The ``outbox-relay`` command."""
    # A traceback with the values of variables would show a URL's password.
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(relay)
    app()


if __name__ == "__main__":
    main()
