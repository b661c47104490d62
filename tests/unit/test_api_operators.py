"""Operations on threads: however many callers leave, no more are under way than there are places."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from api import operators
from api.operators import AT_ONCE, Operators
from api.problems import Problem
from broker.security import KafkaSettingsError

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
