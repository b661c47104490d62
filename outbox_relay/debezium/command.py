"""``outbox-relay import-debezium connector.json``: a connector as a configuration of the relay."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from contracts.redaction import hide
from outbox_relay.debezium.connector import NoConnectorError, properties, read
from outbox_relay.debezium.imported import imported
from outbox_relay.debezium.written import toml

CHANGES_RECORDS = 3
"""The exit code where records would be other ones than the connector's."""


def import_debezium(
    connector: Annotated[
        Path,
        typer.Argument(
            help="The connector: JSON of Kafka Connect's REST API or its config alone, a KafkaConnector as "
            "JSON, a properties file, or Debezium Server's application.properties; - is standard input.",
        ),
    ],
    worker: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="The properties of Kafka Connect's worker, from which a connector has converters that it does "
            "not name.",
        ),
    ] = None,
) -> None:
    """Print relay.toml for a connector of Debezium, and on standard error, line by line, what is not taken over.

    Exit code 3: some of that changes records, or which there are.
    """
    try:
        settings = read(_text(connector))
    except NoConnectorError as error:
        _refuse(f"{connector}: {error}")
    found = imported(settings, properties(_text(worker)) if worker is not None else {})
    typer.echo(toml(found), nl=False)
    for finding in sorted(found.findings, key=lambda finding: not finding.changes):
        typer.echo(hide(str(finding)), err=True)
    if found.changes_records:
        raise typer.Exit(CHANGES_RECORDS)


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except UnicodeError as error:
        _refuse(f"{file}: {error}")
    except OSError as error:
        _refuse(f"{file} cannot be read: {error.strerror}")


def _refuse(line: str) -> NoReturn:
    typer.echo(f"outbox-relay: {line}", err=True)
    raise typer.Exit(2)
