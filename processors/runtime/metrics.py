"""A service's Prometheus metrics, served at ``/metrics``.

No metric names its service: Prometheus adds the target's labels when it scrapes.
"""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from processors.runtime.messages import Emitted

# Creation timestamps of series are not used, and would be half of the page.
disable_created_metrics()  # type: ignore[no-untyped-call]

MESSAGES = Counter("settle_messages_total", "Messages handled", ["event_type"])
SKIPPED = Counter("settle_messages_skipped_total", "Messages of a type that does not exist")
DECISIONS = Counter("settle_decisions_total", "Events decided on and committed, by type", ["outcome"])
DEAD_LETTERS = Counter("settle_dead_letters_total", "Messages sent to a dead-letter topic", ["topic"])
MISSED = Counter("settle_missed_offsets_total", "Offsets that Kafka deleted before they were read", ["topic"])
GAPS = Gauge("settle_gaps_unacknowledged", "Gaps of deleted records that nobody has acknowledged", ["topic"])
BATCH_RETRIES = Counter("settle_batch_retries_total", "Batches that were tried again", ["cause"])
RETRIES = Counter("settle_retries_total", "Attempts that failed for now and will be made again", ["step"])
CIRCUIT_OPEN = Gauge("settle_circuit_open", "1 while the circuit is open and no call but a probe is made", ["to"])
BATCH_SECONDS = Histogram("settle_batch_seconds", "Time for one batch, seconds")
BATCH_MESSAGES = Histogram(
    "settle_batch_messages",
    "Messages in one batch",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000),
)
READY = Gauge("settle_ready", "1 while nothing keeps the service from its work")
CLOCK_SKEW = Gauge("settle_clock_skew_seconds", "How far this machine's clock is ahead of the database's")
LAG = Gauge("settle_consumer_lag", "Records of the assigned partitions that are not done yet", ["topic"])

CONNECTIONS = Gauge("settle_database_connections", "Open database connections", ["connection"])
CONNECTIONS_BUSY = Gauge(
    "settle_database_connections_busy", "Database connections in a transaction", ["connection"]
)
CONNECTS = Counter("settle_database_connects_total", "Database connections made", ["connection"])
TRANSACTION_SECONDS = Histogram(
    "settle_database_transaction_seconds", "Time for one transaction, seconds", ["connection"]
)

OPEN = Gauge("settle_open_withdrawals", "Withdrawals that are not finished", ["state"])
STUCK = Gauge("settle_stuck_withdrawals", "Withdrawals without progress for SETTLE_STUCK_S", ["state"])
WITHDRAWAL_SECONDS = Histogram(
    "settle_withdrawal_seconds",
    "Time from a withdrawal's request to its end, seconds",
    ["outcome"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 3_600),
)


def count_decisions(emitted: Iterable[Emitted]) -> None:
    """Count decisions; call it once they are committed."""
    for outcome, count in Tally(type(one.event).__name__ for one in emitted).items():
        DECISIONS.labels(outcome).inc(count)
