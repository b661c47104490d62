"""The fraud service: deductions in, checks out."""

from datetime import UTC, datetime

from processors.fraud import store
from processors.fraud.decide import decide

from contracts.events import MoneyDeducted
from contracts.services import READ_BY
from processors.runtime.app import create_app
from processors.runtime.batch import Batch
from processors.runtime.messages import payment_ids
from processors.runtime.processor import Processor


class FraudProcessor(Processor):
    """Checks each deduction once."""

    name = "fraud"
    topics = READ_BY["fraud"]
    handles = (MoneyDeducted,)

    async def process(self, batch: Batch) -> None:
        """Read, decide, write."""
        async with self.transaction(batch) as connection:
            known = await store.known(connection, payment_ids(batch.messages))
            emitted = decide(batch.messages, known, datetime.now(UTC))
            await store.write(connection, emitted)
        batch.emitted += emitted


app = create_app(FraudProcessor)
