"""The saga service's processor: consumes every event of every topic, stores them, emits closing events."""

import time
from datetime import UTC, datetime

from contracts.services import READ_BY
from contracts.topics import WITHDRAWAL_EVENTS
from processors.runtime import metrics
from processors.runtime.app import create_app
from processors.runtime.batch import Batch
from processors.runtime.database import Database
from processors.runtime.messages import payment_ids
from processors.runtime.processor import Processor
from processors.runtime.settings import ServiceSettings
from processors.saga import store
from processors.saga.decide import BITS, COMPENSATING, DEDUCTED, INCOMPLETE, PAID, REQUESTED, Standing, decide
from tracing import TraceContext, is_sampled

COUNT_OPEN_EVERY_S = 5.0

OPEN = (INCOMPLETE, REQUESTED, DEDUCTED, PAID, COMPENSATING)


class SagaProcessor(Processor):
    """Stores events and tracks the state of each withdrawal, one transaction per batch."""

    name = "saga"
    gather_s_max = 1.0
    # The more events of a withdrawal are in a batch, the less often its standing is read and written.
    enough = 8_000
    topics = READ_BY["saga"]
    # Its own events are stored in the transaction that closes the withdrawal, not consumed.
    handles = tuple(event_type for event_type in BITS if event_type.topic != WITHDRAWAL_EVENTS.name)

    def __init__(self, settings: ServiceSettings) -> None:
        super().__init__(settings)
        self._due_database = Database(settings.dsn(self.name), "saga-due")
        self._count_at = 0.0

    async def process(self, batch: Batch) -> None:
        """Read, decide, write."""
        async with self.transaction(batch) as connection:
            known = await store.read(connection, payment_ids(batch.messages))
            transitions = decide(batch.messages, known, datetime.now(UTC))
            await store.write(connection, transitions)
        batch.emitted += transitions.emitted
        for standing, context in transitions.finished:
            _observe(standing, context)

    async def work_due(self) -> int:
        """Update the gauges of open and stuck withdrawals now and then; nothing else is due here."""
        if (now := time.monotonic()) >= self._count_at:
            self._count_at = now + COUNT_OPEN_EVERY_S
            connection = await self._due_database.connect()
            await self.clock.look(connection)
            counts = await store.count_open(connection, self.settings.stuck_s)
            for state in OPEN:
                open_, stuck = counts.get(state, (0, 0))
                metrics.OPEN.labels(state).set(open_)
                metrics.STUCK.labels(state).set(stuck)
        return 0

    async def close(self) -> None:
        """Close the databases."""
        await super().close()
        await self._due_database.close()


def _observe(standing: Standing, context: TraceContext) -> None:
    if standing.requested_at is None or standing.finished_at is None:
        return
    took_s = max((standing.finished_at - standing.requested_at).total_seconds(), 0.0)
    # An exemplar links to its trace, so only sampled traces qualify.
    example = {"trace_id": context.trace_id or ""} if is_sampled(context) else None
    metrics.WITHDRAWAL_SECONDS.labels(standing.state).observe(took_s, example)


app = create_app(SagaProcessor)
