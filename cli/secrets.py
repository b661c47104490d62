"""``settle secrets``: certificates and passwords for a Kafka of one's own, a folder for each container."""

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import BadInputError
from cli.text import say


def secrets(
    folder: Annotated[Path, typer.Argument(help="Where; it has a folder for each container to serve.")],
    host: Annotated[list[str], typer.Option(help="A name or address of the broker; repeat it for each.")],
    api_host: Annotated[
        list[str] | None, typer.Option(help="The same of the API.", show_default="localhost")
    ] = None,
    owner: Annotated[int | None, typer.Option(help="User ID that gets the folders.", show_default=False)] = None,
    kafka_owner: Annotated[int | None, typer.Option(help="The same of Kafka's.", show_default=False)] = None,
    mounted: Annotated[Path, typer.Option(help="Where Kafka finds its folder.")] = Path("/run/secrets/settle"),
) -> None:
    """Make a CA, certificates for Kafka and the API, and a password for each Kafka user, unless they are there."""
    from operations.secret_folders import lay_out

    try:
        served = lay_out(folder, host, owner, kafka_owner, mounted, api_host or ["localhost"])
    except OSError as error:
        raise BadInputError(f"{folder} cannot be written: {error.strerror}: {error.filename}") from None
    say(f"secrets for {', '.join(served)}")
