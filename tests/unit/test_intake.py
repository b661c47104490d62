"""A service whose database or Kafka is away or cannot be used: what it does meanwhile, and an end in order."""

import asyncio
import contextlib
import threading

import faust
import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException

from broker.security import KafkaSettingsError
from contracts.topics import Topic
from processors.runtime import app as runtime
from processors.runtime.settings import ServiceSettings
from tests.conftest import WAIT_S


class Away:
    """A processor whose database does not answer."""

    name = "account"
    topics: tuple[Topic, ...] = ()
    handles = ()
    gather_s_max = 0.0
    enough = 1

    def __init__(self):
        self.asked = asyncio.Event()

    async def open(self):
        self.asked.set()
        raise psycopg.OperationalError("connection refused")

    async def close(self):
        pass


class Idle:
    """A pipeline without work."""

    trouble = None
    stage = "nothing"


def test_the_end_while_the_database_is_away_is_no_crash(monkeypatch):
    monkeypatch.setattr(runtime, "LAG_S", 0.01)
    monkeypatch.setattr(runtime, "BatchConsumer", lambda *_args, **_named: pytest.fail("a consumer was made"))

    async def run():
        app = faust.App("ends", broker="kafka://127.0.0.1:1")
        processor = Away()
        settings = ServiceSettings(account_dsn="postgresql://a@127.0.0.1:1/account")
        intake = runtime.Intake(app, Idle(), processor, settings)
        await intake.start()
        await asyncio.wait_for(processor.asked.wait(), WAIT_S)
        await asyncio.wait_for(intake.stop(), WAIT_S)
        return intake.crashed, intake._consumer

    assert asyncio.run(run()) == (False, None)


def test_what_a_service_waits_for_at_its_start_is_logged_once_and_as_what_it_is(monkeypatch):
    errors = [*["connection refused"] * 3, *["FATAL: password authentication failed"] * 3]
    logged = []
    monkeypatch.setattr(runtime, "BATCH_RETRY_S", (0.0,))
    monkeypatch.setattr(runtime.log, "warning", lambda event, **fields: logged.append((event, fields["error"])))

    class Waiting(Away):
        async def open(self):
            if errors:
                raise psycopg.OperationalError(errors.pop(0))

    async def run():
        intake = runtime.Intake(
            faust.App("waits", broker="kafka://127.0.0.1:1"), Idle(), Waiting(), ServiceSettings()
        )
        await intake._open()

    asyncio.run(run())
    assert logged == [
        ("database does not answer, waiting", "connection refused"),
        ("database turns this service away, waiting", "FATAL: password authentication failed"),
    ]


def test_a_service_that_cannot_note_what_was_deleted_unread_is_not_ready_until_it_can(monkeypatch):
    errors = [
        KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE, "no coordinator")),
        psycopg.errors.InsufficientPrivilege("permission denied for table gaps"),
    ]
    waits_for = []
    monkeypatch.setattr(runtime, "BATCH_RETRY_S", (0.0,))

    async def run():
        intake = runtime.Intake(
            faust.App("misses", broker="kafka://127.0.0.1:1"), Idle(), Away(), ServiceSettings()
        )

        class Behind:
            jumped = True

            def gaps(self):
                waits_for.append("; ".join(intake._ask_itself()))
                if errors:
                    raise errors.pop(0)
                return []

        await intake._note_gaps(Behind())
        waits_for.append("; ".join(intake._ask_itself()))

    asyncio.run(run())
    start, kafka, database, end = waits_for
    assert (start, end) == ("", "")
    assert "cannot note what was deleted unread" in kafka
    assert "no coordinator" in kafka
    assert database == "it cannot note what was deleted unread: permission denied for table gaps"


WRONG = "SETTLE_KAFKA_SSL_CA=/ca is wrong: not a PEM file"


class There(Away):
    """A processor whose database answers, and which tells when due work was done."""

    def __init__(self):
        super().__init__()
        self.worked = asyncio.Event()
        self.database = self

    async def open(self):
        pass

    async def connect(self):
        raise psycopg.OperationalError("nobody asks for gaps here")

    async def work_due(self):
        self.worked.set()
        return 0


class Member:
    """A consumer to which nothing comes."""

    jumped = assigned = False

    def __init__(self, error=None):
        self.error = error
        self.measured = self.closed = False

    def take(self):
        return []

    def store_offsets(self):
        pass

    def lag(self, _ask_kafka):
        self.measured = True
        if self.error is not None:
            raise self.error
        return {}

    def waits_for(self, _timeout_s):
        return None

    def close(self):
        self.closed = True


async def until(condition):
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - others change what it looks at
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def started(processor):
    app = faust.App("starts", broker="kafka://127.0.0.1:1")
    intake = runtime.Intake(
        app, Idle(), processor, ServiceSettings(account_dsn="postgresql://a@127.0.0.1:1/account")
    )
    await intake.start()
    try:
        yield intake
    finally:
        await asyncio.wait_for(intake.stop(), WAIT_S)


def test_due_work_is_done_while_kafka_is_away(monkeypatch):
    away = threading.Event()

    class NotAnswered(Member):
        def take(self):
            away.wait(WAIT_S)
            return []

    async def run():
        processor = There()
        monkeypatch.setattr(runtime, "BatchConsumer", lambda *_args, **_named: NotAnswered())
        async with started(processor):
            try:
                await asyncio.wait_for(processor.worked.wait(), WAIT_S)
            finally:
                away.set()

    asyncio.run(run())


def test_no_due_work_is_done_before_the_database_has_answered(monkeypatch):
    monkeypatch.setattr(runtime, "DUE_S", 0.001)
    monkeypatch.setattr(runtime, "BatchConsumer", lambda *_args, **_named: Member())
    pauses, sleep = [], runtime.Intake.sleep

    async def counted(intake, seconds):
        pauses.append(seconds)
        await sleep(intake, seconds)

    class Opening(There):
        async def open(self):
            await until(lambda: pauses.count(runtime.DUE_S) > 3)
            self.had_worked = self.worked.is_set()

    monkeypatch.setattr(runtime.Intake, "sleep", counted)

    async def run():
        processor = Opening()
        async with started(processor):
            await until(lambda: hasattr(processor, "had_worked") and processor.worked.is_set())
        return processor.had_worked

    assert asyncio.run(run()) is False


def test_a_service_waits_for_an_identity_that_can_be_used_and_says_so_once(monkeypatch):
    member, said, logged, mended = Member(), [], [], threading.Event()
    monkeypatch.setattr(runtime, "BATCH_RETRY_S", (0.01,))
    monkeypatch.setattr(runtime.log, "warning", lambda event, **fields: logged.append((event, fields["error"])))

    async def run():
        async with started(There()) as intake:
            await until(lambda: logged)
            said.append(await intake._ask_kafka())
            mended.set()
            await until(lambda: intake._consumer is member)
            said.append(await intake._ask_kafka())

    def make(*_args, **_named):
        if mended.is_set():
            return member
        raise KafkaSettingsError(WRONG)

    monkeypatch.setattr(runtime, "BatchConsumer", make)
    asyncio.run(run())
    assert said == [WRONG, None]
    assert logged == [("Kafka cannot be used, waiting", WRONG)]
    assert member.closed


def test_what_cannot_be_measured_ends_nothing(monkeypatch):
    monkeypatch.setattr(runtime, "LAG_S", 0.01)
    member = Member(KafkaSettingsError(WRONG))
    monkeypatch.setattr(runtime, "BatchConsumer", lambda *_args, **_named: member)

    async def run():
        async with started(There()) as intake:
            await until(lambda: member.measured)
            member.measured = False
            await until(lambda: member.measured)
            return intake.crashed

    assert asyncio.run(run()) is False
