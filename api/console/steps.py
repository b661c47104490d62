"""The journal of a withdrawal: its events as steps with times, and what part of each was work. Pure functions.

An event follows from another. From when that one was in Kafka to the event is the step: delivery, and the work of
the service. From the event to its own record in Kafka it waited: for the commit, the outbox and the relay. Clocks
of services may differ, and Kafka has records for a while only; where an end is not known or comes before its
beginning, there is no such bar.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from api.console.words import money, visible
from contracts.events import (
    EVENT_TYPES,
    BalanceChecked,
    CancelRefused,
    ContractError,
    Event,
    MoneyDeducted,
    MoneyRefunded,
    NotificationFailed,
    NotificationSent,
    PaymentFailed,
    PaymentProcessed,
    WithdrawalCompensated,
    WithdrawalCompleted,
    WithdrawalRejected,
    WithdrawalRequested,
    decode,
)
from contracts.services import WRITTEN_BY
from operations.events import Recorded
from processors.runtime import utc

WIDTH = 1_000
"""Of the bars, in units of the picture."""

THIN = 4
"""The narrowest bar that can still be seen."""

MILLISECOND = timedelta(milliseconds=1)

_CAUSES: dict[str, tuple[type[Event], ...]] = {
    BalanceChecked.__name__: (WithdrawalRequested,),
    MoneyDeducted.__name__: (WithdrawalRequested,),
    WithdrawalRejected.__name__: (WithdrawalRequested,),
    PaymentProcessed.__name__: (MoneyDeducted,),
    PaymentFailed.__name__: (MoneyDeducted,),
    CancelRefused.__name__: (MoneyDeducted,),
    MoneyRefunded.__name__: (PaymentFailed,),
    NotificationSent.__name__: (PaymentProcessed, MoneyRefunded, WithdrawalRejected),
    NotificationFailed.__name__: (PaymentProcessed, MoneyRefunded, WithdrawalRejected),
    WithdrawalCompleted.__name__: (NotificationSent, NotificationFailed),
    WithdrawalCompensated.__name__: (MoneyRefunded,),
}
"""What each event follows from; of several, whichever there is."""

_MARKS: dict[str, tuple[str, str]] = {
    WithdrawalRequested.__name__: ("requested", "requested"),
    BalanceChecked.__name__: ("requested", "requested"),
    MoneyDeducted.__name__: ("deducted", "deducted"),
    WithdrawalRejected.__name__: ("rejected", "rejected"),
    PaymentProcessed.__name__: ("paid", "paid"),
    PaymentFailed.__name__: ("compensating", "failed"),
    CancelRefused.__name__: ("rejected", "failed"),
    MoneyRefunded.__name__: ("compensated", "compensating"),
    NotificationSent.__name__: ("paid", "mail"),
    NotificationFailed.__name__: ("compensating", "failed"),
    WithdrawalCompleted.__name__: ("completed", "completed"),
    WithdrawalCompensated.__name__: ("compensated", "compensated"),
}
"""The state whose colour each event has, and its glyph."""

_ENDS = frozenset({WithdrawalCompleted.__name__, WithdrawalCompensated.__name__, WithdrawalRejected.__name__})


class Bar(NamedTuple):
    """A part of the time, in units of :data:`WIDTH`."""

    x: float
    width: float


class Step(NamedTuple):
    """An event of a withdrawal as a row of the journal.

    Attributes:
        colour: the state whose colour it has.
        glyph: its mark.
        by: the service that decided it.
        note: what else the event says.
        after_ms: since the first event.
        took_ms: from what it follows from to the event; None for the first.
        waited_ms: from the event to its record in Kafka; None where that is not known.
        work: the bar of ``took_ms``.
        waited: the bar of ``waited_ms``.
        is_end: whether the withdrawal ends with it.
        is_compensation: whether it undoes something.
    """

    event: Recorded
    name: str
    colour: str
    glyph: str
    by: str
    note: str
    at: datetime
    after_ms: float
    took_ms: float | None
    waited_ms: float | None
    work: Bar | None
    waited: Bar | None
    is_end: bool
    is_compensation: bool


class Journal(NamedTuple):
    """The steps in the order in which they happened, the time that they span, and whether Kafka told its times."""

    steps: list[Step]
    total_ms: float
    has_kafka: bool


def journal(events: Sequence[Recorded], published: Mapping[int, datetime]) -> Journal:
    """The journal of a withdrawal.

    Args:
        events: as they are stored.
        published: when each was in Kafka, by its ID, as far as that is known.
    """
    bodies = {one.id: _body(one) for one in events}
    at = {one.id: _at(bodies[one.id], one) for one in events}
    # Of two at one moment, the one that follows comes later; their numbers say in which order they arrived.
    ordered = sorted(events, key=lambda one: (at[one.id], _rank(one.type), one.id))
    if not ordered:
        return Journal([], 0.0, False)
    published = {number: _after(at[number], stamped) for number, stamped in published.items() if number in at}
    begin = at[ordered[0].id]
    end = max([*at.values(), *published.values()])
    total_ms = _ms(begin, end)
    steps = []
    for place, one in enumerate(ordered):
        cause = _cause(one, ordered[:place])
        ready = published.get(cause.id, at[cause.id]) if cause is not None else None
        colour, glyph = _MARKS.get(one.type, ("requested", "unknown"))
        steps.append(
            Step(
                event=one,
                name=one.type,
                colour=colour,
                glyph=glyph,
                by=WRITTEN_BY.get(one.type) or "api, producer",
                note=_note(bodies[one.id]),
                at=at[one.id],
                after_ms=_ms(begin, at[one.id]),
                took_ms=_forward(ready, at[one.id]),
                waited_ms=_forward(at[one.id], published.get(one.id)),
                work=_bar(begin, total_ms, ready, at[one.id]),
                waited=_bar(begin, total_ms, at[one.id], published.get(one.id)),
                is_end=one.type in _ENDS,
                is_compensation=one.type in (PaymentFailed.__name__, MoneyRefunded.__name__),
            )
        )
    return Journal(steps, total_ms, bool(published))


def _cause(one: Recorded, before: Sequence[Recorded]) -> Recorded | None:
    """The event that one follows from; of a type that is not known here, the one before it."""
    if one.type not in _CAUSES:
        return before[-1] if before and one.type != WithdrawalRequested.__name__ else None
    names = {event_type.__name__ for event_type in _CAUSES[one.type]}
    return next((other for other in reversed(before) if other.type in names), None)


def _body(one: Recorded) -> Event | dict[str, Any]:
    """The event, or as much as can be read of one that is not valid any more."""
    raw = bytes(one.payload)
    try:
        return decode(one.type, raw)
    except (KeyError, ContractError):
        pass
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _at(body: Event | dict[str, Any], one: Recorded) -> datetime:
    if isinstance(body, Event):
        return body.occurred_at
    told = body.get("occurred_at")
    return (utc.parse(told) if isinstance(told, str) else None) or one.recorded_at


def _note(body: Event | dict[str, Any]) -> str:
    match body:
        case BalanceChecked(balance_minor=balance, sufficient=enough):
            return f"balance {money(balance, body.currency)}{'' if enough else ', too little'}"
        case MoneyDeducted(balance_minor=balance):
            return f"balance {money(balance, body.currency)}"
        case MoneyRefunded(balance_minor=balance, reason=reason):
            return f"balance {money(balance, body.currency)}, {visible(reason)}"
        case PaymentProcessed(provider_reference=reference):
            return visible(reference)
        case NotificationSent(template=template, recipient=recipient):
            return visible(f"{template} to {recipient}")
        case NotificationFailed(template=template, reason=reason):
            return visible(f"{template}: {reason}")
    told = body.get("reason") if isinstance(body, dict) else getattr(body, "reason", None)
    return visible(told) if isinstance(told, str) else ""


def _rank(event_type: str) -> int:
    known = EVENT_TYPES.get(event_type)
    return known.saga_bit if known is not None and known.saga_bit is not None else 0


def _ms(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds() * 1_000


def _after(occurred: datetime, stamped: datetime) -> datetime:
    """When the event's record was in Kafka, whose times have no microseconds: not before the event itself."""
    return max(occurred, stamped) if occurred - stamped < MILLISECOND else stamped


def _forward(begin: datetime | None, end: datetime | None) -> float | None:
    """How long it took, if both ends are known and in that order."""
    return _ms(begin, end) if begin is not None and end is not None and end >= begin else None


def _bar(first: datetime, total_ms: float, begin: datetime | None, end: datetime | None) -> Bar | None:
    if _forward(begin, end) is None or begin is None or end is None:
        return None
    if total_ms <= 0:
        return Bar(0, THIN)
    x = max(_ms(first, begin) / total_ms * WIDTH, 0)
    width = max(_ms(begin, end) / total_ms * WIDTH, THIN)
    return Bar(round(min(x, WIDTH - width), 1), round(width, 1))
