"""Control over HTTP: where the sources stand, and the acts, for the port of the health pages.

It needs the sources' settings alone, so whatever process has the port can serve it. Who is asked for a token:

====================  ==========================  =================================
listening             with a token configured     without
====================  ==========================  =================================
on loopback           acts need it                everything is open to this machine
beyond loopback       everything needs it         nothing is answered, 403
====================  ==========================  =================================
"""

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from http import HTTPStatus
from threading import Lock
from time import monotonic
from typing import Any
from urllib.parse import unquote

import msgspec

from contracts.health import Page, Request
from contracts.production import is_local
from outbox_relay.control import acts
from outbox_relay.control.acts import Asked, Result
from outbox_relay.errors import RefusedError
from outbox_relay.source_settings import SourceSettings

PREFIX = "/v1/"
JSON = "application/json"
PROBLEM = "application/problem+json"
ACTS_SHOWN = 100
LOOK_S = 8
"""For a look at sources, and for the turn to have one: the port waits for a client for 10 s."""
HOW_TO_SET = "set SETTLE_RELAY_HTTP_TOKEN or SETTLE_RELAY_HTTP_TOKEN_FILE (http.token in the configuration file)"

_STATUS = {"invalid": 422, "not-found": 404, "conflict": 409, "unavailable": 503}

Live = Callable[[], Mapping[str, str]]
"""What each source of this process is about, in one line, by name."""


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for, besides the act: its reason, and what it is about."""

    reason: str | None = None
    by: str | None = None
    since: datetime | None = None
    row: str | None = None
    rows: list[str] | None = None
    all: bool = False


class ProblemError(Exception):
    """An answer that is a problem (RFC 9457)."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


def _rewind(source: SourceSettings, asked: Asked, body: Body) -> Result:
    return acts.rewind(source, asked, since=body.since, row_id=body.row)


def _skip(source: SourceSettings, asked: Asked, body: Body) -> Result:
    if body.row is None:
        raise RefusedError("invalid", "which row? Say its ID in row")
    return acts.skip(source, asked, body.row)


def _chosen(body: Body) -> list[str] | None:
    if (body.rows is not None) == body.all:
        raise RefusedError("invalid", "which rows? Say their names in rows, or all")
    return body.rows


_ACTS: Mapping[tuple[str, ...], Callable[[SourceSettings, Asked, Body], Result]] = {
    ("pause",): lambda source, asked, _: acts.pause(source, asked),
    ("resume",): lambda source, asked, _: acts.resume(source, asked),
    ("rewind",): _rewind,
    ("skip",): _skip,
    ("dead", "retry"): lambda source, asked, body: acts.retry(source, asked, _chosen(body)),
    ("dead", "discard"): lambda source, asked, body: acts.discard(source, asked, _chosen(body)),
    ("slot", "drop"): lambda source, asked, _: acts.drop_slot(source, asked),
}
"""What can be done about a source, by the end of its path."""

_LISTS: Mapping[tuple[str, ...], Callable[[SourceSettings], object]] = {
    ("acts",): lambda source: {"acts": acts.history(source, ACTS_SHOWN)},
    ("dead",): lambda source: {"rows": [{"name": one.name, **asdict(one)} for one in acts.dead_rows(source)]},
}


class ControlPages:
    """Answers requests below ``/v1/``.

    Args:
        sources: which there are, each with its name.
        token: what has to be presented; None: nothing is configured.
        live: what the sources of this process are about.
    """

    def __init__(self, sources: Sequence[SourceSettings], token: str | None, live: Live = dict) -> None:
        self._sources = {str(one.name): one for one in sources}
        self._token = token.encode() if token is not None else None
        self._live = live
        self._turns = {name: Lock() for name in self._sources}

    def __call__(self, request: Request) -> Page:
        """The answer to a request; whatever goes wrong, a problem that says what."""
        try:
            return self._answer(request)
        except ProblemError as error:
            return _problem(error.status, error.detail, **error.headers)
        except RefusedError as error:
            return _problem(_STATUS[error.why], str(error))

    def _answer(self, request: Request) -> Page:
        self._admit(request)
        collection, *rest = request.path.removeprefix(PREFIX).split("/")
        if collection != "sources" or (rest and not rest[0]):
            raise ProblemError(404, "there are /v1/sources and /v1/sources/{name}")
        if not rest:
            self._only(request, "GET", "HEAD")
            until = monotonic() + LOOK_S
            return _json({"sources": [self._status(one, until) for one in self._sources.values()]})
        source = self._sources.get(unquote(rest[0]))
        if source is None:
            raise ProblemError(404, f"there is no such source; there are: {', '.join(self._sources)}")
        return self._of_source(source, tuple(rest[1:]), request)

    def _of_source(self, source: SourceSettings, what: tuple[str, ...], request: Request) -> Page:
        if what in _ACTS:
            self._only(request, "POST")
            body = _body(request)
            who = f"{body.by} (HTTP, {request.client})" if body.by is not None else f"HTTP, {request.client}"
            result = _ACTS[what](source, Asked(who, body.reason), body)
            return _json(result, 202 if result.state == "asked" else 200)
        if what and what not in _LISTS:
            raise ProblemError(404, f"there are: {', '.join('/'.join(each) for each in (*_ACTS, *_LISTS))}")
        self._only(request, "GET", "HEAD")
        return _json(_LISTS[what](source) if what else self._status(source, monotonic() + LOOK_S))

    def _status(self, source: SourceSettings, until: float) -> dict[str, Any]:
        """Where it stands: one looks at a time, or else those who ask often would have all of its connections."""
        name = str(source.name)
        found = acts.unknown(source, "others look at it just now, and the database takes its time")
        if self._turns[name].acquire(timeout=max(0.0, until - monotonic())):
            try:
                if (left_s := until - monotonic()) > 0:
                    found = acts.status(source, left_s)
            finally:
                self._turns[name].release()
        return {**asdict(found), "relay": self._live().get(name)}

    def _only(self, request: Request, *methods: str) -> None:
        if request.method not in methods:
            raise ProblemError(405, f"{' or '.join(methods)}, not {request.method}", Allow=", ".join(methods))

    def _admit(self, request: Request) -> None:
        """Let a request pass that may be answered.

        Raises:
            ProblemError: it may not.
        """
        is_open = self._token is None or request.method in ("GET", "HEAD")
        if is_open and is_local(request.listens):
            # A page of any site in a browser of this machine reaches loopback too; none of them can say these.
            if "origin" in request.headers or not is_local(_host(request)):
                raise ProblemError(403, f"without a token this is for programs of this machine: {HOW_TO_SET}")
            return
        if self._token is None:
            raise ProblemError(403, f"control beyond loopback needs a token: {HOW_TO_SET}")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(errors="replace"), self._token)
        if scheme.lower() != "bearer" or not is_right:
            raise ProblemError(401, "present the relay's token: Authorization: Bearer …", **_WWW)


_WWW = {"WWW-Authenticate": "Bearer"}


def _host(request: Request) -> str:
    """The host that the client meant, without its port."""
    text = request.headers.get("host", "")
    host, _, port = text.rpartition(":")
    return host if port.isdigit() else text


def _body(request: Request) -> Body:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise ProblemError(415, "the body is JSON: Content-Type: application/json")
    try:
        return msgspec.json.decode(request.body or b"{}", type=Body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProblemError(422, f"the body is wrong: {error}") from None
    except RecursionError:
        raise ProblemError(422, "the body is wrong: it is too deep") from None


def _json(what: object, status: int = 200) -> Page:
    def plain(value: object) -> object:
        return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else asdict(value)  # type: ignore[call-overload]

    return Page(status, json.dumps(what, default=plain) + "\n", JSON)


def _problem(status: int, detail: str, **headers: str) -> Page:
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Page(status, json.dumps(problem) + "\n", PROBLEM, headers)
