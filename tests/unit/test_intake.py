"""A service that is to end while its database is away ends, and makes no client of Kafka for that."""

import asyncio

import faust
import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException

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
