"""The HTTP API as a command asks it (``--api URL``), instead of databases and Kafka."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from cli.errors import BadInputError, CommandError
from cli.text import complain
from contracts.production import is_production
from contracts.variables import value
from producers.errors import InvalidRequestError

KEY = "SETTLE_API_KEY"
CA = "SETTLE_API_CA"
TIMEOUT_S = 60.0

LONG_S = 600.0
"""For an answer that reads whole topics or tables, or all dead letters."""

AT_ONCE = 1_000
"""What one request acts on at the most."""

NAMED = 300
"""What one request for a list names at the most, in its URL."""

PAGE = 500
"""Entries of a list that one request asks for at the most."""

NOT_FOUND, FORBIDDEN = "not-found", "forbidden"
_URN = "urn:settle:problem:"

T = TypeVar("T")

ApiOption = Annotated[
    str | None,
    typer.Option("--api", metavar="URL", help=f"Ask the API there, with the key in {KEY}.", show_default=False),
]
WhyOption = Annotated[
    str | None,
    typer.Option("--why", help="With --api: why, for the log of what operators do.", show_default=False),
]


class RefusedError(BadInputError):
    """What was asked for is refused.

    Attributes:
        kind: of the problem, as :data:`api.problems.KINDS` has them.
    """

    def __init__(self, line: str, kind: str) -> None:
        super().__init__(line)
        self.kind = kind


def ask(
    url: str,
    method: str,
    path: str,
    body: object = None,
    *,
    key: str | None = None,
    patience_s: float = TIMEOUT_S,
    **query: Any,
) -> Any:
    """What the API answers, decoded.

    Args:
        url: of the API, ``https://host:port``.
        method: of the request.
        path: such as ``/v1/stuck``.
        body: what is sent as JSON, if anything.
        key: of the request, by which it may be repeated.
        patience_s: how long the answer may take, seconds.
        query: parameters; those that are None are left out.

    Raises:
        BadInputError: the URL is none, or others could read the key on the way there.
        RefusedError: the API refuses what was asked for.
        CommandError: it does not answer, or cannot carry it out now, or something else answers.
    """
    import httpx

    from producers.calls import authorization

    own = value(KEY)
    _check(url, has_key=own is not None)
    try:
        headers = authorization(own) if own else {}
    except InvalidRequestError as error:
        raise BadInputError(f"{KEY}: {error}") from None
    if key is not None:
        headers["Idempotency-Key"] = key
    parameters = {name: given for name, given in query.items() if given is not None}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=patience_s, verify=_trusted()) as client:
            answer = client.request(method, path, json=body, params=parameters)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise BadInputError(f"--api {url} is not a URL such as https://127.0.0.1:8000: {error}") from None
    except httpx.RequestError as error:
        raise CommandError(_why_unanswered(url, error)) from None
    try:
        found = answer.json()
    except ValueError:
        raise CommandError(f"what answers at {url} is not the API: {answer.status_code}, no JSON") from None
    if not isinstance(found, dict) or not (answer.is_success or str(found.get("type")).startswith(_URN)):
        raise CommandError(f"what answers at {url} is not the API: {answer.status_code}, other JSON")
    if answer.is_success:
        return _Answer(url, found)
    line = f"the API at {url} refuses: {found.get('title')}: {found.get('detail')}"
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        line += f" ({KEY})"
    if answer.is_server_error:
        raise CommandError(line)
    raise RefusedError(line, str(found.get("type")).removeprefix(_URN))


class _Answer(dict[str, Any]):
    """What the API answers, or something else that answers with JSON as well."""

    def __init__(self, url: str, found: dict[str, Any]) -> None:
        super().__init__(found)
        self._url = url

    def __missing__(self, name: str) -> NoReturn:
        raise CommandError(f"what answers at {self._url} is not the API, or one of another version: no {name!r}")


def _check(url: str, *, has_key: bool) -> None:
    """Refuse a URL with which the key would not be sent, or in production, where others could read it, be sent.

    Elsewhere that is a warning.

    Raises:
        BadInputError: the URL is like that.
        EnvironmentRefusedError: ``SETTLE_ENV`` or ``SETTLE_TRUSTED_NETWORK`` is wrong.
    """
    import httpx

    from producers.calls import is_open

    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return  # whoever asks there says so
    if parts.userinfo:
        raise BadInputError(f"--api takes no user and no password in the URL: the API key is in {KEY}")
    if not has_key or not is_open(parts):
        return
    if is_production():
        raise BadInputError(f"--api {url} without TLS: others can read {KEY} on the way, so use https://")
    _warn(url)


@cache
def _warn(url: str) -> None:
    complain(f"warning: --api {url} without TLS: others can read {KEY} on the way")


def _trusted() -> ssl.SSLContext | bool:
    """What the API's certificate is verified by: the authorities in a file, or those that are generally known.

    Raises:
        BadInputError: the file has none.
    """
    if (name := value(CA)) is None:
        return True
    try:
        return ssl.create_default_context(cafile=name)
    except (OSError, ValueError) as error:
        raise BadInputError(f"{CA}: {name} holds no certificates: {error}") from None


def _why_unanswered(url: str, error: Exception) -> str:
    """One line about an exchange that has failed below HTTP."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return f"the certificate of {url} is not trusted: {cause.verify_message}; {CA} names its authority's file"
    said = str(error) or type(error).__name__
    if url.lower().startswith("http://") and type(error).__name__ == "RemoteProtocolError":
        return f"what answers at {url} does not speak HTTP; is it https://? ({said})"
    return f"the API at {url} does not answer: {said}"


def entries(
    url: str, path: str, field: str, limit: int, size: int = PAGE, **query: Any
) -> tuple[list[Any], dict[str, Any]]:
    """The first entries of a list that has pages, and the first page, which may say more.

    Args:
        url: of the API.
        path: of the list.
        field: of a page, which has its entries.
        limit: entries at the most.
        size: of a page at the most.
        query: parameters, and the patience with each page, as of :func:`ask`.
    """
    page = first = ask(url, "GET", path, limit=min(limit, size), **query)
    found: list[Any] = page[field]
    while page["cursor"] is not None and len(found) < limit:
        page = ask(url, "GET", path, limit=min(limit - len(found), size), cursor=page["cursor"], **query)
        found = found + page[field]
    return found, first


def portions(every: Sequence[T], size: int = AT_ONCE) -> Iterator[Sequence[T]]:
    """A list in parts that one request may name."""
    for first in range(0, len(every), size):
        yield every[first : first + size]


def minor_units(amount: str) -> int:
    """An amount as the API writes it, with all decimals of its currency, in minor units."""
    return int(amount.replace(".", ""))


def reason(why: str | None) -> str:
    """Why an operator acts, which the API wants to know.

    Raises:
        BadInputError: nobody says.
    """
    if not why or not why.strip():
        raise BadInputError("with --api, say why: --why 'the bank is back'")
    return why
