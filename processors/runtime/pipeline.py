"""The pipeline of a batch: decode once, process in one transaction, then dead letters, then offsets.

After a failure before the offsets are stored the batch is redelivered, and every step is idempotent by payment ID,
so redelivery changes nothing.

Three kinds of failure are distinguished. *A transient error* (the database is unavailable, a race was lost): the
batch is retried until it succeeds. *A message cannot be decoded* or contradicts what is known: a dead letter at
once. *Any other exception*: the batch is retried, then bisected until each failing message is alone; these become
dead letters, all others are processed, in their order. Where many messages fail and not one succeeds, the service
is at fault and not its messages: then it waits for an operator.
"""

import asyncio
import sysconfig
import traceback
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path

import structlog
from confluent_kafka import KafkaException
from opentelemetry.util.types import AttributeValue

from broker.records import Record
from broker.security import KafkaSettingsError
from broker.troubles import denied
from contracts.topics import dead_letter_topic
from processors.runtime.batch import Batch
from processors.runtime.database import LOST_RACES, is_refusal, is_transient, unavailable
from processors.runtime.dead_letters import DeadLetters
from processors.runtime.instrumentation import Instrumentation
from processors.runtime.logs import fields_of, fields_of_record
from processors.runtime.messages import DeadLetter, Message, read_record
from processors.runtime.processor import Processor

BATCH_RETRY_S = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Pauses before a batch is retried, seconds; the last one repeats until it succeeds."""

TRIES_TOGETHER = 3
"""Attempts at a whole batch before it is bisected."""

TRIES_ALONE = 2
"""Attempts at a message alone in its transaction before it becomes a dead letter."""

ALL_FAIL_MIN = 20
"""Where so many messages fail and none succeeds, the messages are not the cause."""

FAILS = "fails each time it is tried"

ERROR_MAX = 500
"""Maximum characters of an error: it may quote the message."""

UNKNOWN_SHOWN = 5
"""Unknown event types named in one log line."""

_NOT_OURS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})

log = structlog.get_logger()


class Pipeline:
    """Passes batches of records through a processor, with retries, isolation of failing messages and dead letters.

    Args:
        processor: what handles them.
        dead_letters: publishes the records that it cannot handle.
        brokers: attributes of spans: the address of Kafka.

    Attributes:
        stage: what the batch under way waits for, as text.
        trouble: a cause that blocks it and may need an operator, as text; None if there is none.
    """

    def __init__(
        self, processor: Processor, dead_letters: DeadLetters, brokers: Mapping[str, AttributeValue] | None = None
    ) -> None:
        self._processor = processor
        self._dead_letters = dead_letters
        self._instrumentation = Instrumentation(processor.name, brokers)
        self.stage = ""
        self.trouble: str | None = None
        self._handled = {event_type.__name__: event_type.topic for event_type in processor.handles}

    async def run(self, records: Sequence[Record]) -> None:
        """Process the records; returns only when all their effects are committed."""
        batch = self._read(records)
        with self._instrumentation.batch(records, batch):
            self.stage = "its transaction"
            if batch.messages:
                await self._process(batch)
            if batch.dead_letters:
                self.stage = "Kafka to take its dead letters"
                with self._instrumentation.publication(batch.dead_letters):
                    await self._publish(batch.dead_letters)
        self.trouble = None

    def _read(self, records: Sequence[Record]) -> Batch:
        messages: list[Message] = []
        dead_letters: list[DeadLetter] = []
        unknown: Tally[str] = Tally()
        for record in records:
            try:
                found = read_record(record, self._handled)
            except Exception as error:  # an unforeseen kind of invalid record is a dead letter too
                log.exception("a record cannot be read", place=record.place)
                found = DeadLetter(record, FAILS, last_line(error))
            if isinstance(found, Message):
                messages.append(found)
            elif isinstance(found, DeadLetter):
                dead_letters.append(found)
            else:  # existing types that the service does not handle are dropped by the consumer
                unknown[found.event_type] += 1
        if unknown:
            shown = [event_type[:ERROR_MAX] for event_type, _ in unknown.most_common(UNKNOWN_SHOWN)]
            log.warning(
                "unknown event types skipped", event_types=shown, types=len(unknown), count=unknown.total()
            )
        return Batch(messages, dead_letters)

    async def _process(self, batch: Batch) -> None:
        """Handle or refuse every message."""
        if (error := await self._try(batch, TRIES_TOGETHER)) is not None:
            await self._find_culprits(batch, error)

    async def _try(self, batch: Batch, tries: int) -> Exception | None:
        """Retry until it is committed, then None; or the last error, after ``tries`` that were not transient."""
        failures = 0
        for pause_s in chain(BATCH_RETRY_S, repeat(BATCH_RETRY_S[-1])):
            try:
                with self._instrumentation.attempt(batch):
                    await self._processor.process(batch)
                self.trouble = None
                return None
            except Exception as error:
                batch.start_over()
                if is_transient(error):
                    self._note_waiting(error)
                else:
                    failures += 1
                    if failures >= tries:
                        return error
                    if not isinstance(error, LOST_RACES):
                        log.exception("batch failed, trying again", **_about(batch.messages))
                self._instrumentation.will_retry(batch.messages, error)
            await asyncio.sleep(pause_s)
        raise AssertionError  # pauses never end

    async def _find_culprits(self, batch: Batch, error: Exception) -> None:
        """Process what can be processed of a failing batch; messages that also fail alone are refused."""
        count = len(batch.messages)
        while True:
            log.error("batch fails, looking for the culprit", **_about(batch.messages), exc_info=error)
            done = await self._halve(batch, batch.messages)
            if done or count < ALL_FAIL_MIN:
                return
            log.error("not one message of a batch succeeds: mend the service; it waits", messages=count)
            self.trouble = f"not one message of a batch succeeds: {last_line(error)}"
            batch.start_over()
            await asyncio.sleep(BATCH_RETRY_S[-1])

    async def _halve(self, batch: Batch, messages: Sequence[Message]) -> int:
        """Handle messages of a batch, in order, in as few transactions as succeed; returns how many succeeded."""
        part = Batch(messages)
        alone = len(messages) == 1
        error = await self._try(part, TRIES_ALONE if alone else 1)
        if error is None:
            batch.dead_letters += part.dead_letters
            return len(messages)
        if alone:
            if await self._keep(messages[0], last_line(error)):
                self._instrumentation.is_kept(messages[0], error, last_line(error))
            else:
                batch.refuse(messages[0], FAILS, last_line(error))
            return 0
        middle = len(messages) // 2
        return await self._halve(batch, messages[:middle]) + await self._halve(batch, messages[middle:])

    async def _keep(self, message: Message, error: str) -> bool:
        for pause_s in chain(BATCH_RETRY_S, repeat(BATCH_RETRY_S[-1])):
            try:
                return await self._processor.keep(message, error)
            except Exception as refused:
                if not is_transient(refused):
                    log.exception("a message cannot be kept", **_about([message]))
                    return False
                self._note_waiting(refused)
            await asyncio.sleep(pause_s)
        raise AssertionError  # pauses never end

    async def _publish(self, letters: Sequence[DeadLetter]) -> None:
        for pause_s in chain(BATCH_RETRY_S, repeat(BATCH_RETRY_S[-1])):
            try:
                await self._dead_letters.publish(letters)
                break
            except (KafkaException, KafkaSettingsError) as error:
                topics = ", ".join(sorted({dead_letter_topic(letter.record.topic) for letter in letters}))
                reason = str(error)
                if isinstance(error, KafkaException):
                    reason = denied(error.args[0]) or error.args[0].str()
                self.trouble = f"Kafka does not take dead letters for {topics}: {reason}"
                log.warning("Kafka does not take dead letters, waiting", error=reason)
            await asyncio.sleep(pause_s)
        for letter in letters:
            fields = fields_of_record(letter.record)
            log.error("dead letter", place=letter.record.place, reason=letter.reason, error=letter.error, **fields)

    def _note_waiting(self, error: Exception) -> None:
        """Log what is waited for, unless it is a lost race."""
        if isinstance(error, LOST_RACES):
            return
        if is_refusal(error):
            self.trouble = f"the database refuses: {first_line(error)}"
            log.warning("database refuses, waiting", error=first_line(error))
        else:
            log.warning(f"database {unavailable(error)}, waiting", error=first_line(error))


def _about(messages: Sequence[Message]) -> dict[str, object]:
    """Fields of a log line: how many messages, and which withdrawal where it is one."""
    if len(messages) != 1:
        return {"messages": len(messages)}
    return {"messages": 1, **fields_of(messages[0].context, messages[0].event.payment_id)}


def last_line(error: Exception) -> str:
    """The last line of an error's stack trace, with the place in our code that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    # Frames of the standard library, as of context managers, are skipped.
    ours = [frame for frame in frames if not frame.filename.startswith(_NOT_OURS)] or frames
    place = f" ({Path(ours[-1].filename).name}:{ours[-1].lineno} in {ours[-1].name})" if ours else ""
    return f"{type(error).__name__}: {first_line(error)}{place}"


def first_line(error: Exception) -> str:
    """What an error says, as one line of bounded length."""
    return (str(error).strip().splitlines() or [""])[0][:ERROR_MAX]
