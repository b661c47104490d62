"""Messages for tests of the pure parts, built as the runtime builds them."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from broker.records import Record
from contracts.events import Event, WithdrawalRequested, follow
from processors.runtime.messages import Message
from tracing import TraceContext

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONTEXT = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")


def message(event: Event, offset: int = 0, context: TraceContext = CONTEXT) -> Message:
    return Message(event, uuid4(), context, Record("a.topic", 0, offset, b"key", b"{}", []))


def request(
    amount_minor: int = 10_000,
    account_id: str = "acc-1",
    currency: str = "USD",
    payment_id: UUID | None = None,
) -> WithdrawalRequested:
    return WithdrawalRequested(
        payment_id=payment_id or uuid4(),
        account_id=account_id,
        amount_minor=amount_minor,
        currency=currency,
        occurred_at=NOW,
    )


def after(cause: Event, event_type: type[Event], **details: object) -> Event:
    """The event that follows in the same withdrawal, with details filled in where none are given."""
    defaults = {
        "balance_minor": 0,
        "sufficient": True,
        "reason": "because",
        "provider_reference": "ref",
        "template": "t",
        "recipient": "r",
    }
    names = set(event_type.__struct_fields__) & set(defaults)
    return follow(event_type, cause, NOW, **{name: details.get(name, defaults[name]) for name in names})
