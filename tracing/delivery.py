"""Export of spans through a bounded queue that never blocks; dropped spans are counted.

The SDK's batch processor sends; this wraps it. Where the queue is full (a collector that is unavailable or
slow) a span is dropped before it costs anything, and shutdown waits for a bounded time.
"""

import logging
import threading
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import Counter, Gauge

QUEUE_MAX = 20_000
BATCH_MAX = 1_000
DELAY_MS = 1_000

STOP_S = 5.0
"""How long shutdown waits for the collector to accept the queued spans."""

EXPORTED = Counter("settle_spans_exported_total", "Spans that the collector took")
DROPPED = Counter("settle_spans_dropped_total", "Spans that were given up", ["reason"])
QUEUED = Gauge("settle_spans_queued", "Spans that wait for the collector")

GIVE_UP_S = 1.0
"""How long it then waits for the export under way to be aborted."""

QUEUE_FULL = "queue full"
NOT_TAKEN = "not taken"

for _reason in (QUEUE_FULL, NOT_TAKEN):
    DROPPED.labels(_reason)  # so that the series starts at 0


log = logging.getLogger(__name__)


class _Counted(SpanExporter):
    """An exporter that counts the spans handed to it, and tracks whether the collector accepts them."""

    def __init__(self, exporter: SpanExporter, where: str) -> None:
        self.handed = 0
        self._where = where
        self._taken = True
        self._exporter = exporter
        self._given_up = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; spans that the collector does not accept are lost."""
        self.handed += len(spans)
        result = SpanExportResult.FAILURE
        try:
            if not self._given_up:
                result = self._exporter.export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                EXPORTED.inc(len(spans))
            else:
                DROPPED.labels(NOT_TAKEN).inc(len(spans))
            self._log_change(result is SpanExportResult.SUCCESS)
        return result

    def _log_change(self, taken: bool) -> None:
        # Logged once per change, not for each attempt, as the exporter would.
        if taken != self._taken:
            if taken:
                log.warning("the collector at %s takes spans again", self._where)
            else:
                log.warning("the collector at %s does not take spans: they are given up", self._where)
        self._taken = taken

    def give_up(self) -> None:
        """Stop sending, and abort the export under way."""
        self._given_up = True
        self._exporter.shutdown()

    def shutdown(self) -> None:
        """Close the exporter."""
        if not self._given_up:
            self._exporter.shutdown()


class BoundedSpans(SpanProcessor):
    """Queues spans for an exporter; ending a span never blocks.

    Args:
        exporter: sends a batch, on a thread of the SDK's.
        where: the collector's address, for people.
        queue_max: spans that wait at the most.
    """

    def __init__(self, exporter: SpanExporter, where: str, queue_max: int = QUEUE_MAX) -> None:
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # reported here instead
        self._exporter = _Counted(exporter, where)
        self._queue_max = queue_max
        self._queued = 0
        self._batches = BatchSpanProcessor(
            self._exporter,
            max_queue_size=queue_max,
            max_export_batch_size=min(BATCH_MAX, queue_max),
            schedule_delay_millis=DELAY_MS,
        )
        QUEUED.set_function(lambda: max(self._queued - self._exporter.handed, 0))

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: only ended spans are exported."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it, or count it as dropped."""
        if self._queued - self._exporter.handed >= self._queue_max:
            DROPPED.labels(QUEUE_FULL).inc()
            return
        self._queued += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what is queued, for :data:`STOP_S` at the most."""
        # The SDK would wait for as long as the exporter tries, batch after batch.
        sending = threading.Thread(target=self._batches.shutdown, name="spans", daemon=True)
        sending.start()
        sending.join(STOP_S)
        if sending.is_alive():
            self._exporter.give_up()
            sending.join(GIVE_UP_S)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is queued now."""
        return self._batches.force_flush(timeout_millis)
