"""How is the relay started alone? ``outbox-relay --source postgresql://… --bootstrap host:port``."""

from typing import Annotated

import typer
from pydantic import ValidationError

import failpoints
from outbox_relay.errors import RelayError
from outbox_relay.relay import run_relay
from outbox_relay.settings import RelaySettings


def relay(
    source: Annotated[
        list[str] | None,
        typer.Option(help="URL of a database with an outbox; repeat for more. Default: SETTLE_RELAY_SOURCES."),
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
) -> None:
    """Publish every row of the sources' outbox tables to Kafka, until SIGTERM or SIGINT."""
    given = {"relay_sources": " ".join(source or []), "kafka_bootstrap": bootstrap, "relay_initial": initial}
    try:
        failpoints.arm_from_environment()
        run_relay(RelaySettings(**{name: value for name, value in given.items() if value}))  # type: ignore[arg-type]
    except ValidationError as error:
        typer.echo(f"outbox-relay: {error.errors()[0]['msg']}", err=True)
        raise typer.Exit(2) from None
    except (RelayError, OSError, failpoints.FailpointError) as error:
        typer.echo(f"outbox-relay: {error}", err=True)
        raise typer.Exit(2) from None


def main() -> None:
    """The ``outbox-relay`` command."""
    typer.run(relay)


if __name__ == "__main__":
    main()
