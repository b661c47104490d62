"""A list of stuck withdrawals says what could not be asked for lost requests, and comes all the same."""

import asyncio
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException

from api import readers
from api import stuck as api_stuck
from api.problems import Problem
from api.readers import Readers
from operations import lost_requests, stuck
from operations.errors import BacklogError, UnaskedError
from operations.hold_ups import ANSWER_S, Found

ONE = UUID(int=1)
GONE = psycopg.OperationalError("the connection is gone")
SILENT = Problem("unavailable", "the api database does not answer in time")
BUSY = Problem("unavailable", "4 operations are under way already")
MUTE = KafkaException(KafkaError(KafkaError._TIMED_OUT))
MANY = BacklogError("the api database", "requests of the last 60 s are too many to look behind")
SAGA_GONE = UnaskedError("the saga database", str(GONE))
SAGA_GONE.__cause__ = GONE


def because(error):
    problem = Problem("unavailable", "away")
    problem.__cause__ = error
    return problem


class Asked:
    """Answers reads and operations by the name of their function; those with an error do not answer."""

    dsns, bootstrap = {}, "kafka:9092"

    def __init__(self, **failing):
        self._answers = {
            "newest_accepted": [str(ONE)],
            "unknown": [ONE],
            "still_lost": {ONE: False},
            "lost_ones": [],
        }
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
        ({"newest_accepted": because(MANY)}, {"the api database": MANY}),
        ({"still_lost": because(SAGA_GONE)}, {"the saga database": GONE}),
        ({"still_lost": because(MUTE)}, {"Kafka": MUTE}),
        ({"still_lost": BUSY}, {"the API": BUSY}),
        ({}, {}),
    ],
)
def test_the_api_lists_without_what_its_own_database_or_kafka_does_not_say(failing, unasked):
    asked = Asked(**failing)
    front = SimpleNamespace(readers=asked, operators=asked)
    assert asyncio.run(api_stuck._lost(front, 60.0)) == ([], unasked)
    reads = {"newest_accepted", "lost_ones"} & asked.limits_s.keys()
    assert {asked.limits_s[name] for name in reads} == {ANSWER_S}


def test_a_read_that_finds_too_much_says_so_and_not_that_the_database_is_silent(monkeypatch):
    connection = SimpleNamespace(execute=lambda *_: None, close=lambda: None, closed=True)
    monkeypatch.setattr(readers, "session", lambda *_, **__: connection)

    def read(_):
        raise MANY

    with pytest.raises(Problem, match="too many to look behind") as problem:
        asyncio.run(Readers(str).run("api", read))
    assert problem.value.__cause__ is MANY


@pytest.mark.parametrize(
    ("failing", "error", "unasked"),
    [
        ("newest_accepted", GONE, {"the api database": GONE}),
        ("newest_accepted", MANY, {"the api database": MANY}),
        ("unknown", GONE, {"the saga database": GONE}),
        ("still_lost", SAGA_GONE, {"the saga database": GONE}),
        ("still_lost", MUTE, {"Kafka": MUTE}),
        ("lost_ones", GONE, {"the api database": GONE}),
    ],
)
def test_a_command_lists_without_it_as_well(monkeypatch, failing, error, unasked):
    def fail(*_):
        raise error

    answers = {
        "silent": [], "unpublished": [], "find": Found({}, {}, set(), {}), "refused_requests": {},
        "newest_accepted": [str(ONE)], "unknown": [ONE], "still_lost": {ONE: False}, "lost_ones": [],
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(stuck, name, fail if name == failing else lambda *_, answer=answer: answer)
    monkeypatch.setattr(stuck, "session", lambda *_, **__: nullcontext())
    monkeypatch.setattr(lost_requests, "session", lambda *_: nullcontext(SimpleNamespace(execute=lambda *_: None)))
    found, said = stuck.stuck({"saga": "", "api": ""}, "kafka:9092", 60.0, 10)
    assert (found, said.unasked) == ([], unasked)


def test_a_lost_request_that_was_cancelled_is_named_apart(monkeypatch):
    at = datetime(2026, 12, 1, tzinfo=UTC)
    two = UUID(int=2)
    rows = [(ONE, "acct-1", 500, "USD", at), (two, "acct-1", 700, "USD", at)]
    monkeypatch.setattr(stuck.utc, "cursor", lambda _: SimpleNamespace(execute=lambda *_: rows))
    lost = stuck.lost_ones(None, {ONE: False, two: True})
    found = stuck.with_lost(Found({}, {}, set(), {}), lost)
    listed = stuck.listed(lost, found, {}, 60.0, 10)
    assert [(one.reason, one.held_up_by) for one in listed] == [
        (None, stuck.LOST.format(payment_id=ONE)),
        ("cancelled", stuck.LOST_CANCELLED.format(payment_id=two)),
    ]
