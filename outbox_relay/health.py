"""The relay's health pages: whether every source streams, and the sources' metrics.

The sources are asked when the pages are, so counting costs them nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from contracts.health import HealthServer, More, Page
from outbox_relay.acknowledgements import Waits
from outbox_relay.report import Report, Reports
from outbox_relay.state import State

Read = Callable[[Report], float]

RIGHT = (State.READING, State.STANDBY, State.PAUSED)
"""The states in which a source does what it should: one that is paused is as people want it."""


class SourceMetrics(Collector):
    """The sources' numbers as Prometheus metrics, by source."""

    def __init__(self, ask: Reports) -> None:
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        """Ask every source, once."""
        sources = self._ask()

        def counter(name: str, text: str, read: Read) -> Metric:
            return _fill(CounterMetricFamily(f"settle_relay_{name}", text, labels=["source"]), sources, read)

        def gauge(name: str, text: str, read: Read) -> Metric:
            return _fill(GaugeMetricFamily(f"settle_relay_{name}", text, labels=["source"]), sources, read)

        yield counter("events_published", "acknowledged by Kafka", lambda s: s.published_rows)
        yield counter("bytes_published", "of record values, acknowledged", lambda s: s.published_bytes)
        yield counter("rows_removed", "published rows taken out of the table", lambda s: s.removed_rows)
        yield counter(
            "rows_recovered", "published from the table, as the log did not bring them", lambda s: s.recovered_rows
        )
        yield counter("reconnects", "times the source began again", lambda s: s.reconnects)
        yield gauge("unacknowledged", "records on their way to Kafka", lambda s: s.unacknowledged)
        yield gauge("lag_seconds", "age of the oldest unacknowledged commit", lambda s: s.lag_s)
        yield gauge("lag_bytes", "of log that is not confirmed", lambda s: s.gauges["lag_bytes"])
        yield gauge("slot_retained_bytes", "of log that the slot keeps", lambda s: s.gauges["slot_retained_bytes"])
        yield gauge("dead_rows", "rows that can never be published", lambda s: s.gauges["dead_rows"])
        yield gauge("confirmed_lsn", "log position before which all is published", lambda s: s.confirmed_lsn)
        yield gauge("active", "1 while the source reads", lambda s: s.state is State.READING)
        yield gauge("covered", "0 while the log does not bring all rows", lambda s: s.gap is None)
        yield gauge("paused", "1 while people have it paused", lambda s: s.state is State.PAUSED)
        yield gauge("standby", "1 while another relay reads the outbox", lambda s: s.state is State.STANDBY)
        yield _waits(sources)


def _waits(sources: Sequence[Report]) -> Metric:
    family = HistogramMetricFamily("settle_relay_ack_seconds", "from commit to acknowledgement", labels=["source"])
    for source in sources:
        bounds = [*(str(bound) for bound in Waits.BOUNDS_S), "+Inf"]
        family.add_metric(
            [source.name], list(zip(bounds, accumulate(source.waits), strict=True)), source.waits_sum_s
        )
    return family


def _fill(
    family: CounterMetricFamily | GaugeMetricFamily, sources: Sequence[Report], read: Read
) -> CounterMetricFamily | GaugeMetricFamily:
    for source in sources:
        family.add_metric([source.name], read(source))
    return family


def serve(host: str, port: int, ask: Reports, more: Mapping[str, More] = MappingProxyType({})) -> HealthServer:
    """The pages of a relay whose sources are asked so, and ``more`` (control) on the same port.

    Raises:
        AddressError: the address is taken or not ours.
    """
    registry = CollectorRegistry()
    registry.register(SourceMetrics(ask))

    def ready() -> Page:
        sources = ask()
        lines = not_ready(sources)
        text = "\n".join([*(lines or ["ready"]), *_standby(sources), *_paused(sources), ""])
        return Page(503 if lines else 200, text)

    return HealthServer(host, port, lambda: Page(200, "alive\n"), ready, registry, more)


def not_ready(sources: Sequence[Report]) -> list[str]:
    """A line for each source that does not read although it should, or not all rows, with the reason."""
    troubled = [source for source in sources if source.state not in RIGHT]
    lines = [f"{source.name}: {source.reason}" for source in troubled]
    gaps = [f"{source.name}: {source.gap}" for source in sources if source.gap and source not in troubled]
    return lines + gaps


def _paused(sources: Sequence[Report]) -> Iterator[str]:
    """A line for each source that people have paused, with what that costs; and where they are not heard."""
    for source in sources:
        if source.state is State.PAUSED:
            kept = source.gauges["slot_retained_bytes"]
            yield f"{source.name}: {source.reason}; the server keeps {kept:,} bytes of log for it"
        elif source.control_trouble is not None:
            yield f"{source.name}: {source.control_trouble}"


def _standby(sources: Sequence[Report]) -> list[str]:
    """A line for each source that another relay reads: a standby is ready to take over."""
    return [f"{source.name}: {source.reason}" for source in sources if source.state is State.STANDBY]
