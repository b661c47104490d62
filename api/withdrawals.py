"""Withdrawals over HTTP: ask for one, see what became of it, cancel it."""

import re
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, post
from litestar.datastructures import ResponseHeader
from litestar.params import Parameter

import tracing
from api import access
from api.access import Caller
from api.batching import UnavailableError
from api.bodies import StrictRequest
from api.decide import Accepted, KeyReused, Outcome, PaymentTaken
from api.encoded import Encoded
from api.front import Front
from api.guard import PERMISSION, caller_of
from api.instrumentation import AskedSpans
from api.problems import OF_A_BODY, RETRY_S, Problem, problems
from api.store import Asked, Stored
from api.texts import amount_text
from producers.errors import InvalidRequestError
from producers.requests import new_request

PATH = "/v1/withdrawals"
KEY_LENGTH_MAX = 255
_KEY = re.compile(r'"?([\x21\x23-\x7e]{1,255})"?')

ACCEPTED = 202
REPLAYED = "Idempotent-Replayed"
_REPLAYED = (REPLAYED.lower().encode(), b"true")


class WithdrawalRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a caller asks for.

    Attributes:
        account_id: the account the money is taken from.
        amount: in major units, as decimal text: a JSON number would be a float to many.
        currency: ISO 4217 code.
        payment_id: to choose the withdrawal's ID; without it, a new one.
    """

    account_id: Annotated[
        str, msgspec.Meta(description="The account the money is taken from.", examples=["acc-1"])
    ]
    amount: Annotated[str, msgspec.Meta(description="Decimal text, in major units.", examples=["100.00"])]
    currency: Annotated[str, msgspec.Meta(description="ISO 4217 code.", examples=["USD"])]
    payment_id: Annotated[UUID | None, msgspec.Meta(description="Names the withdrawal; by default a new ID.")] = (
        None
    )


class AcceptedWithdrawal(msgspec.Struct, frozen=True):
    """A withdrawal that will be carried out or rejected, whatever happens: its request is stored.

    Attributes:
        amount: decimal text, in major units.
        state: ``accepted``.
        trace_id: of its trace, 32 hex digits.
    """

    payment_id: UUID
    account_id: str
    amount: str
    currency: str
    state: str
    requested_at: datetime
    trace_id: str


IdempotencyKey = Annotated[
    str | None,
    Parameter(
        header="Idempotency-Key",
        description="Names the request: a repeat with the same key has the same answer and no further effect.",
    ),
]


@post(
    PATH,
    status_code=ACCEPTED,
    summary="Ask for a withdrawal",
    operation_id="requestWithdrawal",
    tags=["withdrawals"],
    opt={PERMISSION: access.REQUEST},
    response_headers=[
        ResponseHeader(name="Location", description="Where it is to be seen.", documentation_only=True),
        ResponseHeader(
            name=REPLAYED, description="true: the answer to an earlier request.", documentation_only=True
        ),
    ],
    responses=problems(*OF_A_BODY, "key-missing", "still-running", "payment-id-taken", "key-reused"),
)
async def request_withdrawal(
    request: StrictRequest, data: WithdrawalRequest, idempotency_key: IdempotencyKey = None
) -> Response[AcceptedWithdrawal]:
    """Store a request; from then on it is carried out, also if Kafka is away now."""
    front: Front = request.app.state.front
    context = request.headers.get("traceparent"), request.headers.get("tracestate")
    return await answered(front, caller_of(request), data, idempotency_key, context, request.scope["scheme"])


async def answered(
    front: Front,
    caller: Caller,
    data: WithdrawalRequest,
    idempotency_key: str | None,
    context: tuple[str | None, str | None],
    scheme: str,
) -> Encoded[AcceptedWithdrawal]:
    """The answer to a request for a withdrawal, once it is stored.

    Args:
        front: what the handlers share.
        caller: who asks, and may.
        data: what for.
        idempotency_key: of the request.
        context: its headers ``traceparent`` and ``tracestate``.
        scheme: ``http`` or ``https``.

    Raises:
        Problem: it is refused, or nothing can be stored now.
    """
    key = _checked(idempotency_key)
    try:
        event = new_request(data.account_id, data.amount, currency=data.currency, payment_id=data.payment_id)
    except InvalidRequestError as error:
        raise Problem("invalid", str(error)) from None
    traceparent, tracestate = map(_bytes, context)
    spans = AskedSpans(event, tracing.read_context(traceparent, tracestate), PATH, scheme)
    asked = Asked(caller.name, key, data.payment_id is not None, event, spans.context)
    try:
        outcome = await front.batches.submit(asked)
    except UnavailableError as error:
        spans.failed(503, str(error))
        raise Problem("unavailable", f"{error}; repeating the request with its key is safe", RETRY_S) from error
    accepted = _accepted(outcome)
    if not accepted.replayed:
        spans.accepted(ACCEPTED)
    return _answer(accepted.stored, replayed=accepted.replayed)


def _accepted(outcome: Outcome) -> Accepted:
    match outcome:
        case Accepted():
            return outcome
        case KeyReused():
            raise Problem("key-reused", "the Idempotency-Key belongs to a request with another body")
        case PaymentTaken():
            raise Problem(
                "payment-id-taken", "the payment ID belongs to another withdrawal; leave it out for a new one"
            )
        case _:
            raise Problem("still-running", "wait for its answer, or repeat this request", RETRY_S)


def _answer(stored: Stored, *, replayed: bool) -> Encoded[AcceptedWithdrawal]:
    about = [(b"location", f"{PATH}/{stored.payment_id}".encode())]
    if replayed:
        about.append(_REPLAYED)
    return Encoded(
        AcceptedWithdrawal(
            payment_id=stored.payment_id,
            account_id=stored.account_id,
            amount=amount_text(stored.amount_minor, stored.currency),
            currency=stored.currency,
            state="accepted",
            requested_at=stored.requested_at,
            trace_id=stored.trace_id,
        ),
        ACCEPTED,
        *about,
    )


def _checked(key: str | None) -> str:
    if not key:
        raise Problem("key-missing", "send an Idempotency-Key, a new one for each withdrawal, such as a UUID")
    match = _KEY.fullmatch(key)
    if match is None:
        raise Problem(
            "malformed", f"an Idempotency-Key is 1 to {KEY_LENGTH_MAX} visible ASCII characters, no quote"
        )
    return match[1]


def _bytes(text: str | None) -> bytes | None:
    return text.encode("latin-1") if text is not None else None


ROUTES: list[Any] = [request_withdrawal]
