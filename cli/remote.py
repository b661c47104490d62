"""The HTTP API as a command asks it (``--api URL``), instead of databases and Kafka."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.errors import BadInputError, CommandError
from contracts.variables import value

KEY = "SETTLE_API_KEY"
TIMEOUT_S = 60.0

ApiOption = Annotated[
    str | None,
    typer.Option("--api", metavar="URL", help=f"Ask the API there, with the key in {KEY}.", show_default=False),
]
WhyOption = Annotated[
    str | None,
    typer.Option("--why", help="With --api: why, for the log of what operators do.", show_default=False),
]


def ask(url: str, method: str, path: str, body: object = None, **query: Any) -> Any:
    """What the API answers, decoded.

    Args:
        url: of the API, ``https://host:port``.
        method: of the request.
        path: such as ``/v1/stuck``.
        body: what is sent as JSON, if anything.
        query: parameters; those that are None are left out.

    Raises:
        BadInputError: the URL is none, or the API refuses what was asked for.
        CommandError: it does not answer, or cannot carry it out now.
    """
    import httpx

    key = value(KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    parameters = {name: given for name, given in query.items() if given is not None}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S) as client:
            answer = client.request(method, path, json=body, params=parameters)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise BadInputError(f"--api {url} is not a URL such as https://127.0.0.1:8000: {error}") from None
    except httpx.TransportError as error:
        raise CommandError(f"the API at {url} does not answer: {error or type(error).__name__}") from None
    try:
        found = answer.json()
    except ValueError:
        raise CommandError(f"what answers at {url} is not the API: {answer.status_code}, no JSON") from None
    if answer.is_success:
        return found
    line = f"the API at {url} refuses: {found.get('title')}: {found.get('detail')}"
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        line += f" ({KEY})"
    raise (CommandError if answer.is_server_error else BadInputError)(line)


def reason(why: str | None) -> str:
    """Why an operator acts, which the API wants to know.

    Raises:
        BadInputError: nobody says.
    """
    if not why or not why.strip():
        raise BadInputError("with --api, say why: --why 'the bank is back'")
    return why
