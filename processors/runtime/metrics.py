"""What can be counted about a service? Prometheus metrics, served at ``/metrics``."""

from prometheus_client import Counter, Gauge, Histogram

MESSAGES = Counter("settle_messages_total", "Messages handled", ["service", "event_type"])
SKIPPED = Counter(
    "settle_messages_skipped_total", "Messages of a type that does not exist", ["service", "event_type"]
)
DEAD_LETTERS = Counter("settle_dead_letters_total", "Messages sent to a dead-letter topic", ["service"])
BATCH_RETRIES = Counter("settle_batch_retries_total", "Batches that were tried again", ["service", "cause"])
BATCH_SECONDS = Histogram("settle_batch_seconds", "Time for one batch, seconds", ["service"])
BATCH_MESSAGES = Histogram(
    "settle_batch_messages",
    "Messages in one batch",
    ["service"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000),
)
STUCK = Gauge("settle_stuck_withdrawals", "Withdrawals without progress for SETTLE_STUCK_S", ["state"])
LAG = Gauge("settle_consumer_lag", "Records behind the end of the assigned partitions", ["service"])
