"""A processor as a Faust app whose agent is fed whole batches.

Faust gives the app, the agent, the channel, services and the worker. Records come from a confluent-kafka consumer
instead of Faust's own, which costs some 110 µs an event; health pages from a thread, as they must answer while the
event loop does not.
"""

import asyncio
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import faust
import msgspec
import psycopg
import structlog
from confluent_kafka import KafkaException
from faust.app.base import BootStrategy
from faust.types import ChannelT, StreamT
from mode import Service
from prometheus_client import REGISTRY
from pydantic import ValidationError

import tracing
from broker import security
from broker.records import Record
from broker.security import KafkaSettingsError
from contracts import failpoints
from contracts.events import EVENT_TYPES
from contracts.health import HealthServer, Page
from contracts.start import begin
from contracts.topics import consumer_group
from contracts.variables import EnvironmentRefusedError, complaint
from processors.runtime import gaps, metrics
from processors.runtime.consumer import BatchConsumer
from processors.runtime.database import is_refusal, is_transient, unavailable
from processors.runtime.dead_letters import DeadLetters
from processors.runtime.garbage import collect_rarely
from processors.runtime.membership import slow_recovery
from processors.runtime.pipeline import BATCH_RETRY_S, Pipeline, first_line
from processors.runtime.processor import Processor
from processors.runtime.readiness import ANSWER_S, LOOK_AGAIN_S, LOOK_EVERY_S, Readiness
from processors.runtime.settings import ServiceSettings
from tracing.attributes import brokers
from tracing.setup import TracingSettings

DUE_S = 0.5
"""How often a service polls its own database for due work."""

DUE_AGAIN_S = 2.0
"""The pause after due work failed."""

STANDS_S = 30.0
"""A batch under way for so long is stalled: neither a transaction nor Kafka takes so long."""

LAG_S = 5.0

GAPS_S = 10.0
"""How often a service counts the gaps that nobody has acknowledged."""

STOP_S = 10.0
"""How long shutdown waits for the batch under way."""

LEAVE_S = 5.0
"""How long it then waits for the offset commit and for leaving the group."""

log = structlog.get_logger()


class _OnlyTheAgent(BootStrategy):
    """Starts no consumer, producer, internal topic or web server of Faust's own."""

    enable_kafka = False
    enable_web = False


class _App(faust.App):
    BootStrategy = _OnlyTheAgent

    async def on_first_start(self) -> None:
        """Create no data folder: there are no Faust tables."""


class _Delivery:
    """A batch handed to the agent, with a future for its completion or its error."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.since = time.monotonic()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def succeed(self) -> None:
        """Complete the future: all effects of the batch are committed, and its records make room for the next."""
        self.records = ()
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Fail the future with the error that ended the batch."""
        if isinstance(error, asyncio.CancelledError):
            error = RuntimeError("the agent was cancelled under a batch")
        if not self.done.done():
            self.done.set_exception(error)


class Intake(Service):
    """Feeds the agent with batches: the next one is taken when the one before is committed.

    librdkafka prefetches meanwhile, so nothing idles; at shutdown at most one batch is under way.
    """

    def __init__(
        self, app: faust.App, pipeline: Pipeline, processor: Processor, settings: ServiceSettings
    ) -> None:
        super().__init__()
        self._app = app
        self._pipeline = pipeline
        self._processor = processor
        self._settings = settings
        self._tracing = TracingSettings()
        self.channel: ChannelT[Any] = app.channel(maxsize=1)
        self._consumer: BatchConsumer | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="consumer")
        self._under_way: _Delivery | None = None
        self._due_work: asyncio.Future[int] | None = None
        self._is_open = False
        self._identity_trouble: str | None = None
        self._due_trouble: str | None = None
        self._gap_trouble: str | None = None
        self._count_gaps_at = 0.0
        self._readiness = Readiness(settings.dsn(processor.name), processor.name)
        self._pages: HealthServer | None = None

    async def on_start(self) -> None:
        """Serve the health pages, and open the app's flow control.

        Faust would wait for partitions that its own consumer is never assigned.
        """
        self._readiness.beat()
        metrics.READY.set_function(lambda: not self.waits_for())
        if self._settings.http_port:
            self._pages = HealthServer(
                self._settings.http_host, self._settings.http_port, self._alive, self._ready, REGISTRY
            )
        self._app.flow_control.resume()
        collect_rarely()
        tracing.configure(self._processor.name, settings=self._tracing)
        for topic in self._processor.topics:
            for counter in (metrics.DEAD_LETTERS, metrics.MISSED):
                counter.labels(topic.name)  # so that the first one shows as an increase

    @Service.task
    async def _feed(self) -> None:
        await self._open()
        consumer = self._consumer = await self._join()
        processor, loop = self._processor, asyncio.get_running_loop()
        while consumer is not None and not self.should_stop:
            records = await loop.run_in_executor(self._thread, consumer.take)
            await self._note_gaps(consumer)
            await self._count_gaps()
            if self.should_stop:
                break
            delivery = _Delivery(records) if records else None
            del records
            if delivery is not None:
                failpoints.hit(f"{processor.name}.batch-taken")
                self._under_way = delivery
                await self.channel.send(value=delivery)
                await delivery.done  # an error that leaves the pipeline ends the process
            consumer.store_offsets()
            if delivery is not None:
                failpoints.hit(f"{processor.name}.offsets-stored")
                self._under_way = None

    async def _note_gaps(self, consumer: BatchConsumer) -> None:
        """Record offsets deleted unread, before any offset behind them is committed."""
        loop = asyncio.get_running_loop()
        while consumer.jumped and not self.should_stop:
            try:
                if found := await loop.run_in_executor(self._thread, consumer.gaps):
                    async with self._processor.database.transaction() as connection:
                        await gaps.write(connection, found)
                    for gap in found:
                        metrics.MISSED.labels(gap.topic).inc(gap.until - gap.first)
                        log.error("Kafka deleted records before they were read", **msgspec.structs.asdict(gap))
                break
            except (KafkaException, psycopg.Error) as error:
                self._gap_trouble = f"it cannot note what was deleted unread: {first_line(error)}"
                log.warning("what was deleted unread is not noted yet, waiting", error=str(error).strip())
            await self.sleep(BATCH_RETRY_S[-1])
        self._gap_trouble = None

    async def _count_gaps(self) -> None:
        """Update the gauge of unacknowledged gaps now and then, on the connection that no batch uses just now."""
        if (now := time.monotonic()) < self._count_gaps_at:
            return
        self._count_gaps_at = now + GAPS_S
        try:
            found = await gaps.unacknowledged(await self._processor.database.connect())
        except psycopg.Error:
            return  # unknown just now; readiness reports the cause
        for topic in self._processor.topics:
            metrics.GAPS.labels(topic.name).set(found.get(topic.name, 0))

    async def _open(self) -> None:
        told: str | None = None
        while not self.should_stop:
            try:
                await self._processor.open()
                self._is_open = True
                return
            except psycopg.OperationalError as error:
                if (line := first_line(error)) != told:
                    told = line
                    log.warning(f"database {unavailable(error)}, waiting", error=line)
                await self.sleep(BATCH_RETRY_S[-1])

    async def _join(self) -> BatchConsumer | None:
        """A consumer, once one can be made; files of the identity may be wrong by now. None at the end."""
        settings, processor = self._settings, self._processor
        handled = {event_type.__name__ for event_type in processor.handles}
        while not self.should_stop:
            try:
                consumer = BatchConsumer(
                    settings.kafka_bootstrap,
                    consumer_group(processor.name),
                    [topic.name for topic in processor.topics],
                    settings.batch_max,
                    processor.gather_s_max,
                    processor.enough,
                    ignored=EVENT_TYPES.keys() - handled,
                    protocol=settings.kafka_group_protocol,
                )
            except KafkaSettingsError as error:
                if (line := str(error)) != self._identity_trouble:
                    self._identity_trouble = line
                    log.warning("Kafka cannot be used, waiting", error=line)
                await self.sleep(BATCH_RETRY_S[-1])
            else:
                self._identity_trouble = None
                return consumer
        return None

    @Service.task
    async def _due(self) -> None:
        while not self.should_stop:
            worked = 0
            if self._is_open:  # Kafka may be away: due work needs the database
                self._due_work = asyncio.ensure_future(self._processor.work_due())
                try:
                    worked = await self._due_work
                    self._due_trouble = None
                except asyncio.CancelledError:
                    if not self.should_stop:
                        raise
                except Exception as error:
                    if is_refusal(error):
                        self._due_trouble = f"the database refuses due work: {first_line(error)}"
                    if is_transient(error):
                        log.warning("due work waits for the database", error=first_line(error))
                    else:
                        log.exception("due work failed, trying again")
                    await self.sleep(DUE_AGAIN_S)
            if not worked:
                await self.sleep(DUE_S)

    @Service.task
    async def _look(self) -> None:
        while not self.should_stop:
            await self._readiness.look(self._ask_kafka)
            await self.sleep(LOOK_AGAIN_S if self.waits_for() else LOOK_EVERY_S)

    def waits_for(self) -> list[str]:
        """What blocks the service, one entry for each cause; thread-safe."""
        return [*self._readiness.waits_for, *self._ask_itself()]

    def _ask_itself(self) -> Iterator[str]:
        for trouble in (self._due_trouble, self._gap_trouble, self._pipeline.trouble):
            if trouble is not None:
                yield trouble
        under_way = self._under_way
        if under_way is not None and (stands_s := time.monotonic() - under_way.since) > STANDS_S:
            yield f"a batch has stood for {stands_s:.0f} s: it waits for {self._pipeline.stage}"

    def _alive(self) -> Page:
        # A service that waits is alive; one that only a restart can fix is not.
        hangs = self._readiness.hangs
        return Page(200, "ok\n") if hangs is None else Page(503, f"{hangs}\n")

    def _ready(self) -> Page:
        if waits_for := self.waits_for():
            return Page(503, "".join(f"waiting: {reason}\n" for reason in waits_for))
        return Page(200, "ready\n")

    async def _ask_kafka(self) -> str | None:
        consumer = self._consumer
        if consumer is None:
            return self._identity_trouble or "it is starting"
        # On the consumer's own thread: its calls must not overlap, least of all with close().
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, consumer.waits_for, ANSWER_S)

    @Service.task
    async def _check_recovery(self) -> None:
        """Log once whether Kafka is set up for the time in which a dead instance is to be replaced."""
        bootstrap, protocol = self._settings.kafka_bootstrap, self._settings.kafka_group_protocol
        while not self.should_stop:
            if self._consumer is not None and self._consumer.assigned:
                try:
                    slow = await asyncio.to_thread(slow_recovery, bootstrap, protocol)
                except (KafkaException, KafkaSettingsError) as error:
                    slow = f"how soon a dead instance is replaced is not known: {first_line(error)}"
                if slow is not None:
                    log.warning(slow)
                return
            await self.sleep(LOOK_EVERY_S)

    @Service.task
    async def _measure(self) -> None:
        before: _Delivery | None = None
        while not self.should_stop:
            await self.sleep(LAG_S)
            consumer, under_way = self._consumer, self._under_way
            if consumer is None or self.should_stop:
                continue
            taken = Tally(record.topic for record in under_way.records) if under_way is not None else Tally[str]()
            # While a batch waits nothing is fetched, so the end offsets from the last fetch are outdated.
            stalled = under_way is not None and under_way is before
            before = under_way
            loop = asyncio.get_running_loop()
            try:
                behind = await loop.run_in_executor(self._thread, consumer.lag, stalled)
            except (KafkaException, KafkaSettingsError):
                continue  # unknown just now; readiness reports the cause
            if not consumer.assigned:
                continue  # what it reads no more is not known to be read
            for topic in self._processor.topics:
                metrics.LAG.labels(topic.name).set(behind.get(topic.name, 0) + taken[topic.name])

    async def on_stop(self) -> None:
        """Finish the batch and the due work under way, commit the offsets, leave the group."""
        batch = self._under_way.done if self._under_way is not None else None
        if under_way := [future for future in (batch, self._due_work) if future is not None]:
            await asyncio.wait(under_way, timeout=STOP_S)
        if self._due_work is not None:
            self._due_work.cancel()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, _nothing)  # after the call under way
            if not await _within(LEAVE_S, consumer.close):
                log.warning("Kafka does not answer, ending without leaving the group; a batch may be redelivered")
        self._thread.shutdown(wait=False)
        await self._readiness.close()
        await self._processor.close()
        if self._pages is not None:
            await asyncio.to_thread(self._pages.close)
        tracing.shutdown()


def _nothing() -> None:
    """Do nothing: it runs when all calls queued before it have ended."""


async def _within(limit_s: float, call: Callable[[], None]) -> bool:
    """Whether a blocking call ended in time; if not, it is abandoned on a daemon thread, so the process can exit.

    Without a broker librdkafka's close never returns.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        call()
        with suppress(RuntimeError):  # the loop is closed: no waiter is left
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=run, name="leave", daemon=True).start()
    try:
        await asyncio.wait_for(ended.wait(), limit_s)
    except TimeoutError:
        return False
    return True


def create_app(processor_type: Callable[[ServiceSettings], Processor]) -> faust.App:
    """The Faust app of a processor, configured by the environment.

    Raises:
        SystemExit: a variable is invalid, production refuses it, or nobody can connect to Kafka as the variables
            say; the text is one line. For another exception Faust's own command, which calls this while it imports
            the app, would print a traceback.
    """
    try:
        begin()
        settings = ServiceSettings()
        security.check(settings.kafka_bootstrap)
    except ValidationError as error:
        raise SystemExit(f"settle: {complaint(error)}") from None
    except EnvironmentRefusedError as error:
        raise SystemExit(f"settle: {error}") from None
    processor = processor_type(settings)
    pipeline = Pipeline(
        processor, DeadLetters(settings.kafka_bootstrap, processor.name), brokers(settings.kafka_bootstrap)
    )
    app = _App(
        f"settle-{processor.name}",
        broker=f"kafka://{settings.kafka_bootstrap.replace(',', ';kafka://')}",
    )
    intake = Intake(app, pipeline, processor, settings)

    @app.agent(intake.channel, name=processor.name)
    async def handle(deliveries: StreamT[_Delivery]) -> None:
        async for delivery in deliveries:
            try:
                await pipeline.run(delivery.records)
            except BaseException as error:
                # Faust would restart the agent while the intake waits forever: so the intake ends the process.
                delivery.fail(error)
                if not isinstance(error, Exception):
                    raise
            else:
                delivery.succeed()

    # Started after the agent and stopped before it, so a batch under way finds its agent alive.
    app.service(intake)  # type: ignore[arg-type] # an instance is as good as a class
    return app
