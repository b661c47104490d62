"""Traces over HTTP: that of a withdrawal, and whether the newest ones are whole."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import get
from litestar.params import Parameter

from api import access
from api.bodies import StrictRequest
from api.guard import PERMISSION
from api.operators import Operators
from api.pages import PAGE_MAX
from api.problems import Problem, problems
from operations.traces import Checked, check, jaeger_link, jaeger_url, trace_of
from processors.saga.status import find_status


class Span(msgspec.Struct, frozen=True):
    """A span as Jaeger has it; times in nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str | None
    service: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    error: str | None
    events: list[str]


class WithdrawalTrace(msgspec.Struct, frozen=True):
    """The trace of a withdrawal.

    Attributes:
        state: of the withdrawal.
        trace_id: None for a request that came without a trace context.
        jaeger: the URL of Jaeger for a browser.
        spans: those that have arrived, by start.
        missing: why it is not whole, in words; None where it is, or has not ended.
    """

    state: str
    trace_id: str | None
    jaeger: str
    spans: list[Span]
    missing: str | None


class Traces(msgspec.Struct, frozen=True):
    """Withdrawals whose traces were looked at, the one that finished last first."""

    withdrawals: list[Checked]


@get(
    "/v1/withdrawals/{payment_id:uuid}/trace",
    summary="See the trace of a withdrawal",
    operation_id="getTrace",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems("not-found"),
)
async def get_trace(request: StrictRequest, payment_id: UUID) -> WithdrawalTrace:
    """Its spans from Jaeger, and what is missing."""
    return await trace(request.app.state.front.tracing, payment_id)


async def trace(operators: Operators, payment_id: UUID) -> WithdrawalTrace:
    """The trace of a withdrawal, as far as Jaeger has it.

    Raises:
        Problem: none is known, or Jaeger or the database does not answer.
    """

    def find() -> WithdrawalTrace:
        status = find_status(operators.dsns["saga"], payment_id)
        if status is None:
            raise Problem("not-found", f"no withdrawal {payment_id} is known")
        url = jaeger_url()
        found = trace_of(url, status)
        spans = [Span(**one._asdict()) for one in found.spans]
        return WithdrawalTrace(found.state, found.trace_id, jaeger_link(url), spans, found.missing)

    return await operators.run(find)


@get(
    "/v1/traces",
    summary="Check traces",
    operation_id="checkTraces",
    tags=["operations"],
    opt={PERMISSION: access.OPERATIONS},
    responses=problems(),
)
async def check_traces(
    request: StrictRequest,
    last: Annotated[int, Parameter(ge=1, le=PAGE_MAX, description="How many withdrawals, the newest.")] = 100,
    sampled: Annotated[
        bool, Parameter(description="Only those that Jaeger knows: where not all are traced.")
    ] = False,
    trace_ids: Annotated[
        list[Annotated[str, Parameter(pattern="^[0-9a-f]{32}$")]] | None,
        Parameter(query="trace_id", max_items=PAGE_MAX, description="Only those with this trace; repeat it."),
    ] = None,
) -> Traces:
    """Whether no hop of the newest finished withdrawals is missing and no span is an orphan."""
    operators = request.app.state.front.tracing

    def find() -> list[Checked]:
        return check(operators.dsns["saga"], jaeger_url(), last, sampled=sampled, trace_ids=trace_ids)

    return Traces(await operators.run(find))


ROUTES: list[Any] = [get_trace, check_traces]
