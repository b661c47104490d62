"""The check that a withdrawal's trace is whole: one root, no orphan, and every hop of its outcome.

The only definition of a whole trace: used by tests, by ``settle trace check`` against Jaeger, and by the verdict
of chaos runs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from contracts.services import API
from producers.spans import ROOT
from tracing import attributes as names

if TYPE_CHECKING:
    from uuid import UUID

    from tracing.collector import CollectedSpan

_OURS = "settle-"

Hop = tuple[str, str, str | None]
"""Service, span, and the event type it is about; None where it is about none."""

_TAKEN: dict[Hop, int] = {
    ("producer", ROOT, None): 1,
    ("producer", "send withdrawal.requests", "WithdrawalRequested"): 1,
    ("account", "process withdrawal.requests", "WithdrawalRequested"): 1,
    ("account", "transaction account", None): 1,
    ("saga", "process withdrawal.requests", "WithdrawalRequested"): 1,
    ("relay", "send account.events", "BalanceChecked"): 1,
    ("saga", "process account.events", "BalanceChecked"): 1,
}
_BY_API: dict[Hop, Hop] = {
    ("producer", ROOT, None): ("api", ROOT, None),
    ("producer", "send withdrawal.requests", "WithdrawalRequested"): ("api", "POST /v1/withdrawals", None),
}
"""What the API's hops stand for where it was asked; the request then also leaves its outbox through the relay."""
_SENT_FOR_API: Hop = ("relay", "send withdrawal.requests", "WithdrawalRequested")

_DEDUCTED: dict[Hop, int] = {
    ("relay", "send account.events", "MoneyDeducted"): 1,
    ("saga", "process account.events", "MoneyDeducted"): 1,
    ("payment", "process account.events", "MoneyDeducted"): 1,
    ("payment", "charge provider", None): 1,
    ("payment", "transaction payment", None): 1,
}
_TOLD: dict[Hop, int] = {
    ("notification", "send mail", None): 1,
    ("notification", "transaction notification", None): 1,
    ("relay", "send notification.events", "NotificationSent"): 1,
    ("saga", "process notification.events", "NotificationSent"): 1,
}
HOPS: dict[str, Counter[Hop]] = {
    "completed": Counter(
        {
            **_TAKEN,
            **_DEDUCTED,
            **_TOLD,
            ("relay", "send payment.events", "PaymentProcessed"): 1,
            ("saga", "process payment.events", "PaymentProcessed"): 1,
            ("notification", "process payment.events", "PaymentProcessed"): 1,
            ("relay", "send withdrawal.events", "WithdrawalCompleted"): 1,
            ("saga", "transaction saga", None): 5,
        }
    ),
    "rejected": Counter(
        {
            **_TAKEN,
            **_TOLD,
            ("relay", "send account.events", "WithdrawalRejected"): 1,
            ("saga", "process account.events", "WithdrawalRejected"): 1,
            ("notification", "process account.events", "WithdrawalRejected"): 1,
            ("saga", "transaction saga", None): 4,
        }
    ),
    "compensated": Counter(
        {
            **_TAKEN,
            **_DEDUCTED,
            **_TOLD,
            ("account", "transaction account", None): 2,
            ("account", "process payment.events", "PaymentFailed"): 1,
            ("relay", "send payment.events", "PaymentFailed"): 1,
            ("saga", "process payment.events", "PaymentFailed"): 1,
            ("relay", "send account.events", "MoneyRefunded"): 1,
            ("saga", "process account.events", "MoneyRefunded"): 1,
            ("notification", "process account.events", "MoneyRefunded"): 1,
            ("relay", "send withdrawal.events", "WithdrawalCompensated"): 1,
            ("saga", "transaction saga", None): 6,
        }
    ),
}
"""By the withdrawal's outcome: each hop, and how often it happens where nothing is retried."""

_CHARGE: Hop = ("payment", "charge provider", None)
_VOID: Hop = ("payment", "void provider", None)
_SENT, _FAILED = "NotificationSent", "NotificationFailed"
_WITH_BALANCE = "insufficient_funds"
"""The only reason for a rejection that follows a balance check."""


def hops_of(spans: Iterable[CollectedSpan]) -> Counter[Hop]:
    """The hops of a trace, and how often each happened."""
    return Counter(
        (span.service.removeprefix(_OURS), span.name, span.attributes.get(names.EVENT_TYPE)) for span in spans
    )


def of_withdrawal(spans: Sequence[CollectedSpan], payment_id: UUID) -> list[CollectedSpan]:
    """Its spans among those of a trace: all, or where a caller has put several withdrawals into one, those below
    its own root.
    """
    own = str(payment_id)
    roots = [span for span in spans if span.name == ROOT and span.service.startswith(_OURS)]
    if all(span.attributes.get(names.PAYMENT_ID, own) == own for span in roots):
        return list(spans)
    children = defaultdict(list)
    for span in spans:
        children[span.parent_id].append(span)
    found = {span.span_id: span for span in roots if span.attributes.get(names.PAYMENT_ID) == own}
    below = list(found)
    while below:
        new = [span for span in children[below.pop()] if span.span_id not in found]
        found |= {span.span_id: span for span in new}
        below += [span.span_id for span in new]
    return sorted(found.values(), key=lambda span: span.start_ns)


def what_is_missing(spans: Sequence[CollectedSpan], state: str, reason: str | None = None) -> str | None:
    """Why a trace is not whole, in words; None if it is. Retried hops may appear more often.

    Args:
        spans: of one withdrawal.
        state: the withdrawal's outcome: ``completed``, ``rejected`` or ``compensated``.
        reason: why, where it did not complete.
    """
    if not spans:
        return "there is no span"
    # What led to the withdrawal outside of Settle may be in the trace or not; ours begin below it.
    ours = [span for span in spans if span.service.startswith(_OURS)]
    roots = [span.name for span in ours if span.parent_id is None or span.name == ROOT]
    if roots != [ROOT]:
        return f"roots are {', '.join(roots) or 'none'}"
    known = {span.span_id for span in spans}
    begun = [span for span in ours if span.name != ROOT]
    if orphans := [span for span in begun if span.parent_id is not None and span.parent_id not in known]:
        return f"the parent of {_in_words(hops_of(orphans))} is missing"
    found = hops_of(ours)
    missing = _expected(state, reason, found) - found
    return f"{_in_words(missing)} missing" if missing else None


def _expected(state: str, reason: str | None, found: Counter[Hop]) -> Counter[Hop]:
    expected = Counter(HOPS[state])
    if any(service == API for service, _, _ in found):
        for hop, instead in _BY_API.items():
            expected[instead] = expected.pop(hop)
        expected[_SENT_FOR_API] = 1
    if state == "rejected" and reason != _WITH_BALANCE:
        for hop in [hop for hop in expected if hop[2] == "BalanceChecked"]:
            del expected[hop]
        expected["saga", "transaction saga", None] -= 1
    if _VOID in found:  # cancelled, or too late: it need not have been charged
        del expected[_CHARGE]
    if any(event_type == _FAILED for _, _, event_type in found):
        for service, name, event_type in [hop for hop in expected if hop[2] == _SENT]:
            expected[service, name, _FAILED] = expected.pop((service, name, event_type))
    return expected


def _in_words(hops: Counter[Hop]) -> str:
    return ", ".join(" ".join(part for part in hop if part) for hop in sorted(hops, key=str))
