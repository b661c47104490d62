"""Is a withdrawal's trace whole? One root, every parent there, every hop of its ending."""

from collections.abc import Sequence

from tracing.collector import CollectedSpan

Hop = tuple[str, str, str | None]
"""Service, span, event type (None where a span is about none)."""

_TAKEN: frozenset[Hop] = frozenset(
    {
        ("producer", "withdraw-money", None),
        ("producer", "send withdrawal.requests", "WithdrawalRequested"),
        ("account", "process withdrawal.requests", "WithdrawalRequested"),
        ("account", "transaction account", None),
        ("saga", "process withdrawal.requests", "WithdrawalRequested"),
        ("saga", "transaction saga", None),
        ("relay", "send account.events", "BalanceChecked"),
        ("saga", "process account.events", "BalanceChecked"),
        ("notification", "transaction notification", None),
    }
)
_PAID_FOR: frozenset[Hop] = frozenset(
    {
        ("relay", "send account.events", "MoneyDeducted"),
        ("saga", "process account.events", "MoneyDeducted"),
        ("payment", "process account.events", "MoneyDeducted"),
        ("payment", "transaction payment", None),
    }
)

HOPS: dict[str, frozenset[Hop]] = {
    "completed": _TAKEN
    | _PAID_FOR
    | {
        ("relay", "send payment.events", "PaymentProcessed"),
        ("saga", "process payment.events", "PaymentProcessed"),
        ("notification", "process payment.events", "PaymentProcessed"),
        ("relay", "send withdrawal.events", "WithdrawalCompleted"),
    },
    "compensated": _TAKEN
    | _PAID_FOR
    | {
        ("relay", "send payment.events", "PaymentFailed"),
        ("account", "process payment.events", "PaymentFailed"),
        ("saga", "process payment.events", "PaymentFailed"),
        ("relay", "send account.events", "MoneyRefunded"),
        ("saga", "process account.events", "MoneyRefunded"),
        ("notification", "process account.events", "MoneyRefunded"),
        ("relay", "send withdrawal.events", "WithdrawalCompensated"),
    },
    "rejected": _TAKEN
    | {
        ("relay", "send account.events", "WithdrawalRejected"),
        ("saga", "process account.events", "WithdrawalRejected"),
        ("notification", "process account.events", "WithdrawalRejected"),
    },
}
"""What happens at least once in a withdrawal that ends like this."""


def what_is_missing(spans: Sequence[CollectedSpan], state: str) -> str | None:
    """Why a trace is not whole, in words; None if it is.

    Args:
        spans: of one trace.
        state: how its withdrawal ended.
    """
    roots = [span.name for span in spans if span.parent_id is None]
    if roots != ["withdraw-money"]:
        return f"roots are {', '.join(roots) or 'none'}"
    known = {span.span_id for span in spans}
    if orphans := [span.name for span in spans if span.parent_id is not None and span.parent_id not in known]:
        return f"the parent of {orphans[0]} is missing"
    found = {
        (span.service.removeprefix("settle-"), span.name, span.attributes.get("settle.event_type"))
        for span in spans
    }
    missing = sorted(" ".join(part for part in hop if part) for hop in HOPS[state] - found)
    return f"{missing[0]} is missing" if missing else None
