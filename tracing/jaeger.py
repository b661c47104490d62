"""A client of Jaeger's query API (the one its own UI uses), to read traces.

Source: https://www.jaegertracing.io/docs/latest/apis/ (HTTP JSON)
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from ssl import SSLContext
from typing import Any

import httpx

from tracing.collector import CollectedSpan, event_text

TIMEOUT_S = 15.0
"""To connect, and for each part of an answer."""

TRACES_PER_QUESTION = 20
"""IDs in one URL: some 1 kB."""

_EVENT_NAMES = ("event", "name")


class JaegerError(Exception):
    """Jaeger does not answer, or the answer is not Jaeger's."""


def traces(url: str, trace_ids: Sequence[str]) -> dict[str, list[CollectedSpan]]:
    """The spans of each trace that is known, by start.

    Args:
        url: of Jaeger's pages and API, ``http://127.0.0.1:16686``.
        trace_ids: 32 hex digits each.

    Raises:
        JaegerError: it does not answer.
    """
    found: dict[str, list[CollectedSpan]] = {}
    questions: list[httpx.QueryParams] = []
    for start in range(0, len(trace_ids), TRACES_PER_QUESTION):
        chosen = tuple(("traceID", trace_id) for trace_id in trace_ids[start : start + TRACES_PER_QUESTION])
        questions.append(httpx.QueryParams(chosen))
    for answer in _ask(url, questions):
        found |= answer
    return found


def latest(url: str, service: str, operation: str, count: int) -> dict[str, list[CollectedSpan]]:
    """The newest traces that have such a span, by trace ID.

    Raises:
        JaegerError: it does not answer.
    """
    (answer,) = _ask(url, [httpx.QueryParams(service=service, operation=operation, limit=count)])
    return answer


def _ask(url: str, questions: Iterable[httpx.QueryParams]) -> list[dict[str, list[CollectedSpan]]]:
    """The traces that each query returns."""
    if not url.startswith(("http://", "https://")):
        raise JaegerError(f"{url} is not the address of a Jaeger, such as http://127.0.0.1:16686")
    try:
        # To load the authorities takes longer than most answers.
        verify = _authorities() if url.startswith("http://") else True
        with httpx.Client(timeout=TIMEOUT_S, follow_redirects=True, verify=verify) as client:
            return [_answer(client.get(f"{url.rstrip('/')}/api/traces", params=asked)) for asked in questions]
    except httpx.HTTPStatusError as error:
        status = error.response.status_code, error.response.reason_phrase
        raise JaegerError(f"Jaeger at {url} refuses: {' '.join(map(str, status)).strip()}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise JaegerError(f"Jaeger at {url} does not answer: {error or type(error).__name__}") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise JaegerError(f"what answers at {url} is no Jaeger: {type(error).__name__}: {error}") from None


@cache
def _authorities() -> SSLContext:
    """For an address without TLS, if it leads to one that has it."""
    return httpx.create_ssl_context()


def _answer(response: httpx.Response) -> dict[str, list[CollectedSpan]]:
    if response.status_code == httpx.codes.NOT_FOUND:  # none of these traces
        return {}
    return _read(response.raise_for_status().json())


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
