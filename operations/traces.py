"""Traces of withdrawals in Jaeger: one with what it lacks, and whether the newest ones are whole."""

import time
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec

from contracts.services import API
from contracts.variables import value
from operations.trace_check import HOPS, of_withdrawal, what_is_missing
from processors.saga.status import Status, ended
from producers.spans import ROOT
from tracing.collector import CollectedSpan
from tracing.jaeger import JaegerError, latest, traces

DEFAULT_URL = "http://127.0.0.1:16686"

POLL_S = 0.5

_ROOTS = ("settle-producer", f"settle-{API}")
"""Who begins the trace of a withdrawal."""

_TOO_LARGE = "has more spans than can be read here, and Jaeger shows it"


class Trace(msgspec.Struct, frozen=True):
    """The trace of a withdrawal.

    Attributes:
        state: of the withdrawal.
        trace_id: None for a request that came without a trace context.
        spans: those that Jaeger has of it, by start.
        missing: why it is not whole, in words; None where it is, or has not ended.
    """

    state: str
    trace_id: str | None
    spans: list[CollectedSpan]
    missing: str | None


class Checked(msgspec.Struct, frozen=True):
    """A finished withdrawal whose trace was looked at.

    Attributes:
        spans: how many Jaeger has of it.
        missing: why it is not whole, in words; None where it is.
    """

    payment_id: UUID
    state: str
    trace_id: str | None
    spans: int
    missing: str | None


def jaeger_url() -> str:
    """The URL of Jaeger's API: ``SETTLE_JAEGER_URL``, or this machine."""
    return value("SETTLE_JAEGER_URL") or DEFAULT_URL


def jaeger_link(url: str) -> str:
    """The URL of Jaeger for a person's browser, which may differ from the one used here (in a container, say)."""
    return (value("SETTLE_JAEGER_LINK") or url).rstrip("/")


def trace_of(url: str, status: Status) -> Trace:
    """The trace of a withdrawal, as far as it has arrived.

    Args:
        url: of Jaeger.
        status: of the withdrawal.

    Raises:
        JaegerError: it does not answer, or the trace is too large.
    """
    trace_id = status.trace_id
    spans = traces(url, [trace_id]).get(trace_id, []) if trace_id is not None else []
    if spans is None:
        raise JaegerError(f"the trace {_TOO_LARGE}: {jaeger_link(url)}/trace/{trace_id}")
    spans = of_withdrawal(spans, status.payment_id)
    missing = what_is_missing(spans, status.state, status.reason) if status.state in HOPS else None
    return Trace(status.state, trace_id, spans, missing)


def check(
    dsn: str, url: str, last: int, *, sampled: bool = False, trace_ids: Sequence[str] | None = None
) -> list[Checked]:
    """Whether the traces of the withdrawals that finished last are whole: no hop missing, no span an orphan.

    Args:
        dsn: of the saga service's database.
        url: of Jaeger.
        last: how many withdrawals at the most, the newest first.
        sampled: only those that Jaeger knows, where not all are traced.
        trace_ids: only those with one of these traces.

    Raises:
        psycopg.OperationalError: the database does not answer.
        JaegerError: Jaeger does not answer.
    """
    if sampled and trace_ids is None:
        trace_ids = [trace_id for service in _ROOTS for trace_id in latest(url, service, ROOT, last)]
    withdrawals = ended(dsn, last, trace_ids)
    found = traces(url, [one.trace_id for one in withdrawals if one.trace_id])
    checked = []
    for one in withdrawals:
        known = found.get(one.trace_id or "", [])
        spans = of_withdrawal(known or (), one.payment_id)
        missing = what_is_missing(spans, one.state, one.reason) if known is not None else f"it {_TOO_LARGE}"
        checked.append(Checked(one.payment_id, one.state, one.trace_id, len(spans), missing))
    return checked


def until_whole(look: Callable[[list[str] | None], list[Checked]], wait_s: float) -> list[Checked]:
    """The result of a check, once all traces are whole or the time is up: spans travel in batches.

    Args:
        look: checks the newest, or those with some trace IDs.
        wait_s: how long spans may take to arrive, seconds.
    """
    deadline = time.monotonic() + wait_s
    found = {one.payment_id: one for one in look(None)}
    while time.monotonic() <= deadline:
        open_ = [one.trace_id for one in found.values() if one.missing is not None and one.trace_id]
        if not open_:
            break
        time.sleep(POLL_S)
        found |= {one.payment_id: one for one in look(open_) if one.payment_id in found}
    return list(found.values())
