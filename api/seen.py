"""What a look at the whole system finds: records."""

from datetime import datetime
from typing import NamedTuple

import msgspec

from api.headline import Headline
from operations.hold_ups import LATE_S, KafkaSays
from operations.lag import Progress
from operations.withdrawals import OpenOnes
from outbox_relay.status import OutboxStatus


class Outbox(msgspec.Struct, frozen=True):
    """Where the outbox of a service stands.

    Attributes:
        rows: published rows stay for a moment; the others wait.
        oldest_s: the age of the oldest, seconds.
        lag_bytes: of the write-ahead log, not confirmed as published.
        active: whether a relay reads it.
        paused: whether people have it paused.
    """

    service: str
    rows: int
    oldest_s: float | None
    lag_bytes: int | None
    active: bool
    dead_rows: int
    paused: bool = False


class Endings(msgspec.Struct, frozen=True):
    """Withdrawals that end: by state, a second; and the median of how long the last ones took, milliseconds."""

    per_s: dict[str, float]
    median_ms: float | None


class LastAudit(msgspec.Struct, frozen=True):
    """The newest audit: its state and when it began and ended."""

    audit_id: str
    state: str
    started_at: datetime
    finished_at: datetime | None
    withdrawals: int | None


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """The system at a moment; what could not be asked is null, and named.

    Attributes:
        at: the moment.
        headline: whether money moves, in words.
        steps: lag and rates of each service and topic, the rates over the last ten seconds.
        stuck_s: without an event for so long, an open withdrawal is silent: stuck.
        dead_letters: open ones.
        away: what does not answer or does not run, and why.
        unasked: what this API may not ask, and why.
    """

    at: datetime
    headline: Headline
    steps: list[Progress] | None
    outboxes: list[Outbox]
    open: list[OpenOnes] | None
    stuck_s: float
    endings: Endings | None
    dead_letters: int | None
    audit: LastAudit | None
    away: dict[str, str]
    unasked: dict[str, str]

    @property
    def open_count(self) -> int | None:
        """All withdrawals that are not finished."""
        return sum(one.open for one in self.open) if self.open is not None else None

    @property
    def stuck_count(self) -> int | None:
        """Those without an event for some time."""
        return sum(one.silent for one in self.open) if self.open is not None else None


class Seen(NamedTuple):
    """A look as it is shown, and what else it found.

    Attributes:
        flow: the look.
        outboxes: the status of each that answered.
        silent: what the others were asked and did not say.
        kafka: what it says of the whole system.
        has_letters: whether that includes the dead letters; not where they are too many to be kept.
    """

    flow: Flow
    outboxes: dict[str, OutboxStatus]
    silent: dict[str, str]
    kafka: KafkaSays
    has_letters: bool

    def has_dead_rows(self, service: str) -> bool:
        """Whether the outbox of a service may have dead rows."""
        status = self.outboxes.get(service)
        return status is None or status.dead_rows > 0

    def flows(self, service: str, since_s: float) -> bool:
        """Whether no row of a service's outbox can be late, though the look was begun so many seconds ago."""
        status = self.outboxes.get(service)
        oldest_s = next((one.oldest_s for one in self.flow.outboxes if one.service == service), None)
        is_young = oldest_s is None or oldest_s + since_s < LATE_S
        return status is not None and status.active and self.kafka.topics is not None and is_young
