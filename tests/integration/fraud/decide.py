"""Which deductions are suspicious: plain rules, no SQL, no Kafka."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from processors.fraud.events import FraudChecked

from contracts.events import MoneyDeducted, follow
from processors.runtime.messages import Emitted, Message

SUSPICIOUS_MINOR = 1_000_000


def decide(messages: Sequence[Message], known: Collection[UUID], now: datetime) -> list[Emitted]:
    """One check for each withdrawal that has none yet."""
    checked = set(known)
    emitted = []
    for message in messages:
        event = message.event
        if isinstance(event, MoneyDeducted) and event.payment_id not in checked:
            checked.add(event.payment_id)
            found = follow(FraudChecked, event, now, suspicious=event.amount_minor >= SUSPICIOUS_MINOR)
            emitted.append(Emitted(found, message.context))
    return emitted
