"""Operations on threads: however many callers leave, no more are under way than there are places."""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import SimpleNamespace
from uuid import UUID

import pytest

from api import operators, store, stuck, traces
from api.console import withdrawal
from api.operators import AT_ONCE, Operators
from api.problems import Problem
from api.service import THREADS
from broker.security import KafkaSettingsError
from operations.errors import UnaskedError

LEFT_S = 0.01
"""How long somebody waits who leaves."""

DEADLINE_S = 60.0


def test_an_operation_keeps_its_place_until_its_thread_ends_also_where_its_caller_leaves(monkeypatch):
    ends = threading.Event()

    async def story():
        of_one = Operators(SimpleNamespace(kafka_bootstrap="127.0.0.1:9092"))
        try:
            for _ in range(AT_ONCE):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(LEFT_S):
                        await of_one.run(ends.wait)
            monkeypatch.setattr(operators, "WAIT_S_MAX", LEFT_S)
            with pytest.raises(Problem, match=f"{AT_ONCE} operations are under way already"):
                await of_one.run(lambda: "one too many")
        finally:
            ends.set()  # the loop's end waits for the threads
        monkeypatch.setattr(operators, "WAIT_S_MAX", DEADLINE_S)
        assert await of_one.run(lambda: "done") == "done"

    asyncio.run(story())


def test_an_operation_that_cannot_ask_one_of_several_says_which():
    error = UnaskedError("the saga database", "it does not answer")

    def fail():
        raise error

    with pytest.raises(Problem, match="it does not answer") as problem:
        asyncio.run(Operators(SimpleNamespace(kafka_bootstrap="127.0.0.1:9092")).run(fail))
    assert problem.value.__cause__ is error


def test_what_a_failed_operation_has_open_is_closed_with_its_error():
    """Garbage is collected rarely: a client would last until then, with its threads and connections."""
    opened = []

    class Client:
        """Something that ends with the last reference to it."""

    def fail():
        client = Client()
        opened.append(weakref.ref(client))
        raise UnaskedError("the saga service", "it takes too long")

    async def story():
        with pytest.raises(Problem, match="it takes too long"):
            await Operators(SimpleNamespace(kafka_bootstrap="127.0.0.1:9092")).run(fail)
        await asyncio.sleep(0)
        assert opened[0]() is None

    gc.disable()
    try:
        asyncio.run(story())
    finally:
        gc.enable()


def test_an_operation_that_fails_once_its_caller_has_left_is_no_error_of_the_event_loop():
    ends, logged = threading.Event(), []

    def fail():
        ends.wait()
        raise TimeoutError("Kafka is away")

    async def story():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["message"]))
        of_one = Operators(SimpleNamespace(kafka_bootstrap="127.0.0.1:9092"))
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(LEFT_S):
                    await of_one.run(fail)
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        finally:
            ends.set()  # the loop's end waits for the thread
        await asyncio.wait(left, timeout=DEADLINE_S)
        del left
        gc.collect()  # asyncio tells then of what nobody has retrieved

    asyncio.run(story())
    assert logged == []


def test_an_operation_that_fails_gives_its_place_back():
    def fail():
        raise TimeoutError("Kafka is away")

    async def story():
        of_one = Operators(SimpleNamespace(kafka_bootstrap="127.0.0.1:9092"))
        for _ in range(2 * AT_ONCE):
            with pytest.raises(Problem, match="Kafka is away"):
                await of_one.run(fail)

    asyncio.run(asyncio.wait_for(story(), DEADLINE_S))


def test_an_identity_file_that_is_wrong_by_now_is_a_reason_to_wait():
    def refuse():
        raise KafkaSettingsError("SETTLE_KAFKA_SSL_CA=/ca is wrong: not a PEM file")

    of_one = Operators(SimpleNamespace(kafka_bootstrap="127.0.0.1:9092"))
    with pytest.raises(Problem, match="SETTLE_KAFKA_SSL_CA=/ca is wrong") as found:
        asyncio.run(of_one.run(refuse))
    assert found.value.kind == "unavailable"


def test_what_a_page_stops_waiting_for_takes_no_place_from_operators(monkeypatch):
    ends = threading.Event()

    def hang(*_):
        ends.wait()

    @asynccontextmanager
    async def connected():
        yield None

    async def nothing(*_):
        return None

    async def recent():
        return SimpleNamespace(has_letters=False)

    for module, name in ((traces, "find_status"), (stuck, "find"), (withdrawal, "timestamps")):
        monkeypatch.setattr(module, name, hang)
    monkeypatch.setattr(store, "find", nothing)
    for name in ("TRACE_S", "WAITS_S"):
        monkeypatch.setattr(withdrawal, name, LEFT_S)
    settings = SimpleNamespace(kafka_bootstrap="127.0.0.1:9092", dsn=lambda name: name)
    event = SimpleNamespace(id=1, topic="a", partition=0, offset=0)

    async def story():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        front = SimpleNamespace(
            **{name: Operators(settings) for name in ("operators", "tracing", "glancing")},
            connected=connected,
            readers=SimpleNamespace(run=nothing),
            looks=SimpleNamespace(recent=recent),
        )
        status = SimpleNamespace(state="requested", payment_id=UUID(int=1))
        try:
            for _ in range(AT_ONCE):
                assert (await withdrawal._trace(front, status.payment_id))["trace"] is None
                assert await withdrawal._waits(front, status) is None
                assert await withdrawal._published(front, [event], LEFT_S) == ({}, True)
            monkeypatch.setattr(operators, "WAIT_S_MAX", LEFT_S)
            assert await asyncio.wait_for(front.operators.run(lambda: "done"), DEADLINE_S) == "done"
        finally:
            for task in withdrawal._asking:
                task.cancel()
            ends.set()  # the loop's end waits for the threads

    asyncio.run(story())
