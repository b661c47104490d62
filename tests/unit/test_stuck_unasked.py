"""A list of stuck withdrawals says what could not be asked for lost requests, and comes all the same."""

import asyncio
from contextlib import nullcontext
from types import SimpleNamespace
from uuid import UUID

import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException

from api import stuck as api_stuck
from api.problems import Problem
from operations import stuck
from operations.hold_ups import ANSWER_S, Found

ONE = UUID(int=1)
GONE = psycopg.OperationalError("the connection is gone")
SILENT = Problem("unavailable", "the api database does not answer in time")
MUTE = KafkaException(KafkaError(KafkaError._TIMED_OUT))


def because(error):
    problem = Problem("unavailable", "away")
    problem.__cause__ = error
    return problem


class Asked:
    """Answers reads and operations by the name of their function; those with an error do not answer."""

    dsns, bootstrap = {}, "kafka:9092"

    def __init__(self, **failing):
        self._answers = {"newest_accepted": [str(ONE)], "unknown": [ONE], "still_lost": [ONE], "lost_ones": []}
        self._answers |= failing
        self.limits_s = {}

    async def run(self, *given, limit_s=None):
        read = next(one for one in given if callable(one))
        self.limits_s[read.__name__] = limit_s
        answer = self._answers[read.__name__]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("failing", "unasked"),
    [
        ({"newest_accepted": because(GONE)}, {"the api database": GONE}),
        ({"newest_accepted": SILENT}, {"the api database": SILENT}),
        ({"lost_ones": because(GONE)}, {"the api database": GONE}),
        ({"still_lost": because(GONE)}, {"the api database": GONE}),
        ({"still_lost": because(MUTE)}, {"Kafka": MUTE}),
        ({}, {}),
    ],
)
def test_the_api_lists_without_what_its_own_database_or_kafka_does_not_say(failing, unasked):
    asked = Asked(**failing)
    front = SimpleNamespace(readers=asked, operators=asked)
    assert asyncio.run(api_stuck._lost(front, 60.0)) == ([], unasked)
    reads = {"newest_accepted", "lost_ones"} & asked.limits_s.keys()
    assert {asked.limits_s[name] for name in reads} == {ANSWER_S}


@pytest.mark.parametrize(
    ("error", "what"), [(GONE, "the api database"), (MUTE, "Kafka")], ids=["database", "Kafka"]
)
@pytest.mark.parametrize("failing", ["newest_accepted", "still_lost", "lost_ones"])
def test_a_command_lists_without_it_as_well(monkeypatch, failing, error, what):
    def fail(*_):
        raise error

    answers = {
        "silent": [], "unpublished": [], "find": Found({}, {}, set(), {}), "refused_requests": {},
        "newest_accepted": [str(ONE)], "unknown": [ONE], "still_lost": [ONE], "lost_ones": [],
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(stuck, name, fail if name == failing else lambda *_, answer=answer: answer)
    monkeypatch.setattr(stuck, "session", lambda *_, **__: nullcontext())
    found, said = stuck.stuck({"saga": "", "api": ""}, "kafka:9092", 60.0, 10)
    assert (found, said.unasked) == ([], {what: error})
