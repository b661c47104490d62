"""The picture of the flow: boxes, arrows and their texts from a look at the system. Pure functions."""

from collections.abc import Mapping
from typing import NamedTuple

from api.console import words
from api.headline import BAD, KAFKA, OK, RELAY, UNKNOWN, WAITS_AT, WARN
from api.looks import backlogs
from api.seen import Flow, Outbox
from contracts.services import API, DATABASES, NAMES, PROVIDER, READ_BY
from contracts.topics import ACCOUNT_EVENTS, NOTIFICATION_EVENTS, PAYMENT_EVENTS, WITHDRAWAL_REQUESTS

WIDTH, HEIGHT = 1160, 266
BOX_WIDTH, BOX_HEIGHT, BOX_TOP = 128, 104, 76
GAP = (WIDTH - 5 * BOX_WIDTH) // 4
OLD_S = 5.0
"""A row that is older has not been published as it should: a relay needs milliseconds, and the removal seconds."""

CHAIN = (API, "account", "payment", "notification", "saga")
"""The boxes in the order in which a withdrawal passes them."""

_BETWEEN = (WITHDRAWAL_REQUESTS, ACCOUNT_EVENTS, PAYMENT_EVENTS, NOTIFICATION_EVENTS)


class Box(NamedTuple):
    """A service.

    Attributes:
        x: of its left edge.
        tone: of its border and glyph.
        lines: what there is to say of it, each with a tone of its own.
    """

    name: str
    x: int
    tone: str
    lines: list[tuple[str, str]]

    @property
    def middle(self) -> int:  # noqa: D102
        return self.x + BOX_WIDTH // 2


class Arrow(NamedTuple):
    """A topic between two boxes: from where to where, its name, and its records a second."""

    begin: int
    end: int
    topic: str
    rate: str

    @property
    def middle(self) -> int:  # noqa: D102
        return (self.begin + self.end) // 2


class Part(NamedTuple):
    """Something that may be away: its name, its tone, and why."""

    name: str
    tone: str
    why: str


class Diagram(NamedTuple):
    """What the template draws; ``refunds`` and ``others`` are rates, and services beside the usual ones."""

    boxes: list[Box]
    arrows: list[Arrow]
    refunds: str
    parts: list[Part]
    others: list[Box]


def diagram(flow: Flow) -> Diagram:
    """The picture of a moment."""
    rates = _topic_rates(flow)
    boxes = [_box(name, place * (BOX_WIDTH + GAP), flow) for place, name in enumerate(CHAIN)]
    arrows = [
        Arrow(box.x + BOX_WIDTH + 4, box.x + BOX_WIDTH + GAP - 4, topic.name, words.rate(rates.get(topic.name)))
        for box, topic in zip(boxes, _BETWEEN, strict=False)
    ]
    refunds = flow.endings.per_s.get("compensated", 0.0) if flow.endings is not None else None
    others = [_box(name, 0, flow) for name in NAMES if name not in CHAIN]
    return Diagram(boxes, arrows, words.rate(refunds), _parts(flow), others)


def _topic_rates(flow: Flow) -> Mapping[str, float | None]:
    return {step.topic: step.arriving_per_s for step in flow.steps or ()}


def _box(name: str, x: int, flow: Flow) -> Box:
    lines = [_lag(name, flow) if name in READ_BY else (OK, "and producers")]
    outbox = next((one for one in flow.outboxes if one.service == name), None)
    lines.append(_outbox(outbox))
    if (waits := _waits(name, flow)) is not None:
        lines.append((UNKNOWN, waits))
    if name in flow.away:
        lines[:1] = [(BAD, "does not run")]
    elif f"the {name} database" in flow.away:
        lines[:1] = [(BAD, "database is away")]
    tones = [tone for tone, _ in lines]
    tone = next((tone for tone in (BAD, WARN) if tone in tones), OK if flow.steps is not None else UNKNOWN)
    return Box(name, x, tone, lines)


def _lag(name: str, flow: Flow) -> tuple[str, str]:
    if flow.steps is None:
        return UNKNOWN, "lag not known"
    backlog = next((one for one in backlogs(flow.steps) if one.service == name), None)
    if backlog is None:
        return UNKNOWN, "lag not known"
    return (WARN if backlog.grows else OK), f"lag {backlog.lag:,}"


def _outbox(outbox: Outbox | None) -> tuple[str, str]:
    if outbox is None:
        return UNKNOWN, "outbox not known"
    if outbox.dead_rows:
        return WARN, f"{outbox.dead_rows:,} dead {'row' if outbox.dead_rows == 1 else 'rows'}"
    if outbox.paused:
        return WARN, f"outbox {outbox.rows:,}, paused"
    if not outbox.active:
        return BAD, f"outbox {outbox.rows:,}, no relay"
    if outbox.oldest_s is not None and outbox.oldest_s > OLD_S:
        return WARN, f"outbox {outbox.rows:,}, {words.duration(outbox.oldest_s * 1_000)}"
    if not outbox.rows or outbox.oldest_s is None:
        return OK, "outbox empty"
    return OK, f"outbox {outbox.rows:,}"


def _waits(name: str, flow: Flow) -> str | None:
    """The withdrawals whose next step is a service's."""
    if name not in WAITS_AT.values() or flow.open is None:
        return None
    count = sum(one.open for one in flow.open if WAITS_AT.get(one.state) == name)
    return f"{count:,} {'waits' if count == 1 else 'wait'} for it"


def _parts(flow: Flow) -> list[Part]:
    names = [KAFKA, RELAY, *(f"the {name} database" for name in DATABASES if name != PROVIDER)]
    names += [name for name in (*flow.away, *flow.unasked) if name not in names]
    return [Part(name, *_standing(name, flow)) for name in names]


def _standing(name: str, flow: Flow) -> tuple[str, str]:
    if name in flow.away:
        return BAD, flow.away[name]
    if name in flow.unasked:
        return UNKNOWN, flow.unasked[name]
    if name == RELAY:
        return _relay(flow)
    return OK, "answers"


def _relay(flow: Flow) -> tuple[str, str]:
    if not flow.outboxes:
        return UNKNOWN, "no outbox could be asked"
    if unread := [one.service for one in flow.outboxes if not one.active]:
        return BAD, f"reads no outbox of {', '.join(unread)}"
    return OK, "reads every outbox"
