"""A client of Jaeger's query API (the one its own UI uses), to read traces.

Source: https://www.jaegertracing.io/docs/latest/apis/ (HTTP JSON)
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from ssl import SSLContext
from typing import Any

import httpx
import msgspec

from tracing.collector import CollectedSpan, event_text

TIMEOUT_S = 15.0
"""To connect, and for each part of an answer."""

TRACES_PER_QUESTION = 20
"""IDs in one URL: some 1 kB."""

ANSWER_BYTES_MAX = 8_000_000
"""Some 6,000 spans. A withdrawal has some thirty, but a caller may put any number of them into one trace."""

LATEST_BYTES_MAX = 100_000
"""For each of the newest traces, of which nothing but the ID is kept."""

_Ask = Callable[[httpx.QueryParams, int], bytes | None]
"""From a query and the bytes that its answer may have to that answer; None where it has more."""

_EVENT_NAMES = ("event", "name")


class JaegerError(Exception):
    """Jaeger does not answer, or the answer is not Jaeger's."""


class _Named(msgspec.Struct):
    traceID: str  # noqa: N815


class _Newest(msgspec.Struct):
    data: list[_Named] | None = None


def traces(url: str, trace_ids: Sequence[str]) -> dict[str, list[CollectedSpan] | None]:
    """The spans of each trace that is known, by start; None where it has more than can be read.

    Args:
        url: of Jaeger's pages and API, ``http://127.0.0.1:16686``.
        trace_ids: 32 hex digits each.

    Raises:
        JaegerError: it does not answer.
    """
    found: dict[str, list[CollectedSpan] | None] = {}
    different = list(dict.fromkeys(trace_ids))
    with _asking(url) as ask:
        for start in range(0, len(different), TRACES_PER_QUESTION):
            found |= _some(ask, different[start : start + TRACES_PER_QUESTION])
    return found


def latest(url: str, service: str, operation: str, count: int) -> list[str]:
    """The IDs of the newest traces that have such a span.

    Raises:
        JaegerError: it does not answer.
    """
    asked = httpx.QueryParams(service=service, operation=operation, limit=count)
    with _asking(url) as ask:
        answer = ask(asked, ANSWER_BYTES_MAX + count * LATEST_BYTES_MAX)
        if answer is None:
            raise JaegerError(f"the newest {count} traces at {url} have more spans than can be read: take fewer")
        return [_full(one.traceID) for one in msgspec.json.decode(answer, type=_Newest).data or ()]


@contextmanager
def _asking(url: str) -> Iterator[_Ask]:
    """What asks; that there is no answer, or that it cannot be read, is a :class:`JaegerError`."""
    if not url.startswith(("http://", "https://")):
        raise JaegerError(f"{url} is not the address of a Jaeger, such as http://127.0.0.1:16686")
    try:
        # To load the authorities takes longer than most answers.
        verify = _authorities() if url.startswith("http://") else True
        with httpx.Client(timeout=TIMEOUT_S, follow_redirects=True, verify=verify) as client:
            yield lambda asked, most: _answer(client, f"{url.rstrip('/')}/api/traces", asked, most)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code, error.response.reason_phrase
        raise JaegerError(f"Jaeger at {url} refuses: {' '.join(map(str, status)).strip()}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise JaegerError(f"Jaeger at {url} does not answer: {error or type(error).__name__}") from None
    except (ValueError, LookupError, TypeError, AttributeError, msgspec.DecodeError) as error:
        raise JaegerError(f"what answers at {url} is no Jaeger: {type(error).__name__}: {error}") from None


@cache
def _authorities() -> SSLContext:
    """For an address without TLS, if it leads to one that has it."""
    return httpx.create_ssl_context()


def _answer(client: httpx.Client, where: str, asked: httpx.QueryParams, most: int) -> bytes | None:
    body = bytearray()
    with client.stream("GET", where, params=asked) as response:
        if response.status_code == httpx.codes.NOT_FOUND:  # none of these traces
            return b"{}"
        response.raise_for_status()
        for part in response.iter_bytes():
            body += part
            if len(body) > most:
                return None
    return bytes(body)


def _some(ask: _Ask, trace_ids: Sequence[str]) -> dict[str, list[CollectedSpan] | None]:
    """Of a few traces: together, or where that is too much, each by itself."""
    answer = ask(httpx.QueryParams([("traceID", trace_id) for trace_id in trace_ids]), ANSWER_BYTES_MAX)
    if answer is not None:
        return {**_read(json.loads(answer))}
    if len(trace_ids) == 1:
        return {trace_ids[0]: None}
    return {name: spans for one in trace_ids for name, spans in _some(ask, [one]).items()}


def _read(answer: Mapping[str, Any]) -> dict[str, list[CollectedSpan]]:
    found = {}
    for trace in answer.get("data") or []:
        services = {name: process["serviceName"] for name, process in trace["processes"].items()}
        spans = [_span(span, services[span["processID"]]) for span in trace["spans"]]
        found[_full(trace["traceID"])] = sorted(spans, key=lambda span: span.start_ns)
    return found


def _span(span: Mapping[str, Any], service: str) -> CollectedSpan:
    tags = {tag["key"]: tag["value"] for tag in span["tags"]}
    trace_id = _full(span["traceID"])
    parents = [r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"]
    links = [(_full(r["traceID"]), r["spanID"]) for r in span["references"] if r["refType"] != "CHILD_OF"]
    failed = tags.pop("error", False)
    return CollectedSpan(
        trace_id=trace_id,
        span_id=span["spanID"],
        parent_id=parents[0] if parents else None,
        service=service,
        name=span["operationName"],
        kind=str(tags.pop("span.kind", "internal")).upper(),
        start_ns=span["startTime"] * 1_000,
        end_ns=(span["startTime"] + span["duration"]) * 1_000,
        attributes=tags,
        links=links,
        error=str(tags.get("otel.status_description", "error")) if failed else None,
        events=[_event(log["fields"]) for log in span["logs"]],
    )


def _event(fields: Sequence[Mapping[str, Any]]) -> str:
    name = next((str(field["value"]) for field in fields if field["key"] in _EVENT_NAMES), "")
    return event_text(name, [field["value"] for field in fields if field["key"] not in _EVENT_NAMES])


def _full(trace_id: str) -> str:
    """A trace ID with the leading zeros that Jaeger omits."""
    return trace_id.zfill(32)
