"""The report of a source: its state and its numbers at a moment, as health pages and metrics have them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from outbox_relay.acknowledgements import Waits
from outbox_relay.source import Source
from outbox_relay.state import State


@dataclass(frozen=True)
class Report:
    """Where a source stands; each number as the one of :class:`outbox_relay.source.Source` with its name.

    Attributes:
        name: of the source.
        state, reason, gap: whether it reads, and if not, or not all rows, why.
        published_rows, published_bytes, removed_rows, recovered_rows, reconnects: since its process began.
        unacknowledged, lag_s, confirmed_lsn, gauges: now.
        control_trouble: why what people ask of it is not heard.
        waits: how many rows took so long from commit to acknowledgement, by the bounds of ``Waits``.
        waits_sum_s: all of them together, seconds.
    """

    name: str
    state: State = State.STARTING
    reason: str = "starting"
    gap: str | None = None
    published_rows: int = 0
    published_bytes: int = 0
    removed_rows: int = 0
    recovered_rows: int = 0
    reconnects: int = 0
    unacknowledged: int = 0
    lag_s: float = 0.0
    confirmed_lsn: int = 0
    gauges: Mapping[str, int] = field(default_factory=lambda: defaultdict(int))
    control_trouble: str | None = None
    waits: tuple[int, ...] = (0,) * (len(Waits.BOUNDS_S) + 1)
    waits_sum_s: float = 0.0


Reports = Callable[[], Sequence[Report]]
"""Asks every source of a relay."""


def report_of(source: Source) -> Report:
    """The report of a source of this process."""
    return Report(
        name=source.name,
        state=source.state,
        reason=source.reason,
        gap=source.gap,
        published_rows=source.published_rows,
        published_bytes=source.published_bytes,
        removed_rows=source.removed_rows,
        recovered_rows=source.recovered_rows,
        reconnects=source.reconnects,
        unacknowledged=source.unacknowledged,
        lag_s=source.lag_s,
        confirmed_lsn=source.acks.confirmed_lsn,
        gauges=dict(source.gauges),
        control_trouble=source.control.trouble,
        waits=tuple(source.waits.counts),
        waits_sum_s=source.waits.sum_s,
    )
