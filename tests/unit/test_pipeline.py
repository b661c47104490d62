"""Failures in the pipeline: which are waited for, which are dead-lettered, and everybody else goes on in order."""

import asyncio
import json
import time
from contextlib import ExitStack
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from broker.records import Record
from broker.security import KafkaSettingsError
from contracts.events import WithdrawalRequested, encode
from contracts.health import metrics_page
from processors.runtime import pipeline
from processors.runtime.database import LostRace, is_transient
from processors.runtime.pipeline import ALL_FAIL_MIN, FAILS, TRIES_ALONE, TRIES_TOGETHER, Pipeline, last_line
from tests.unit.messages import request

PAUSES_S = pipeline.BATCH_RETRY_S
TRANSACTIONS_MAX = 2_000


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(pipeline, "BATCH_RETRY_S", (0.0,))
    with capture_logs():
        yield


def records(count):
    headers = [("eventType", b"WithdrawalRequested")]
    return [
        Record("withdrawal.requests", 0, n, b"acc-1", encode(request()), [*headers, ("id", str(uuid4()).encode())])
        for n in range(count)
    ]


class Endless(BaseException):
    """A batch is tried so often that it will be for ever."""


class Service:
    """A processor that notes the offsets of each transaction that succeeds, and fails where it is told to."""

    name = "test"
    handles = (WithdrawalRequested,)

    def __init__(self, culprits=(), first=(), keeps=()):
        self.keeps = set(keeps)
        self.kept = []
        self.culprits = set(culprits)
        self.first = list(first)  # raised by the first tries, one after the other
        self.done = []
        self.transactions = 0
        self.letters = []

    async def process(self, batch):
        self.transactions += 1
        if self.transactions > TRANSACTIONS_MAX:
            raise Endless
        if self.first:
            raise self.first.pop(0)
        offsets = [message.record.offset for message in batch.messages]
        if self.culprits & set(offsets):
            raise ZeroDivisionError("a bug")
        self.done += offsets

    async def keep(self, message, error):
        if message.record.offset not in self.keeps:
            return False
        self.kept.append((message.record.offset, error))
        return True

    async def publish(self, letters):
        self.letters += letters

    def run(self, count):
        asyncio.run(Pipeline(self, self).run(records(count)))
        return self


@given(count=st.integers(1, 60), data=st.data())
@settings(max_examples=100)
def test_the_culprits_are_found_and_everybody_else_is_done_once_and_in_order(count, data):
    most = count if count < ALL_FAIL_MIN else count - 1
    culprits = data.draw(st.sets(st.integers(0, count - 1), max_size=most))
    service = Service(culprits).run(count)
    assert service.done == [offset for offset in range(count) if offset not in culprits]
    assert [letter.record.offset for letter in service.letters] == sorted(culprits)


def test_what_a_service_keeps_is_no_dead_letter():
    service = Service(culprits={3, 7}, keeps={7}).run(10)
    assert [letter.record.offset for letter in service.letters] == [3]
    assert [offset for offset, _ in service.kept] == [7]
    assert "ZeroDivisionError: a bug" in service.kept[0][1]


def test_a_batch_that_succeeds_costs_one_transaction_and_a_culprit_a_logarithm():
    assert Service().run(4000).transactions == 1
    service = Service({1234}).run(4000)
    assert service.transactions <= TRIES_TOGETHER + 2 * 12 + TRIES_ALONE
    assert [(one.reason, one.error.split(" (")[0]) for one in service.letters] == [
        (FAILS, "ZeroDivisionError: a bug")
    ]
    assert "in process)" in service.letters[0].error


@pytest.mark.parametrize(("count", "transactions"), [(1, 3 + 2), (2, 3 + 1 + 1 + 2), (4, 3 + 1 + 1 + 1 + 1 + 2)])
def test_a_batch_is_tried_three_times_each_half_once_and_who_is_alone_twice(count, transactions):
    service = Service({count - 1}).run(count)
    assert service.transactions == transactions
    assert [letter.record.offset for letter in service.letters] == [count - 1]


def test_the_first_pause_is_none_and_the_longest_five_seconds(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(pipeline, "BATCH_RETRY_S", PAUSES_S)
    monkeypatch.setattr(pipeline, "asyncio", SimpleNamespace(sleep=sleep))
    Service(first=[psycopg.OperationalError("away")] * 7).run(1)
    assert slept == [0.0, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize(
    "away",
    [
        psycopg.OperationalError("the connection is lost"),
        psycopg.errors.AdminShutdown("terminating connection"),
        psycopg.errors.DiskFull("No space left on device"),
        psycopg.errors.DeadlockDetected("deadlock detected"),
        LostRace("1 of 3 withdrawals have moved on"),
        psycopg.errors.UndefinedTable('relation "saga_log" does not exist'),
        psycopg.errors.InsufficientPrivilege("permission denied"),
        psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"),
        psycopg.errors.IdleInTransactionSessionTimeout(
            "terminating connection due to idle-in-transaction timeout"
        ),
        psycopg.errors.TransactionTimeout("terminating connection due to transaction timeout"),
        psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"),
        psycopg.errors.QueryCanceled("canceling statement due to statement timeout"),
        psycopg.InterfaceError("the connection is closed"),
    ],
)
def test_what_is_no_messages_fault_is_waited_for_and_never_dead_lettered(away):
    service = Service(first=[away] * 50).run(3)
    assert (service.done, service.letters, service.transactions) == ([0, 1, 2], [], 51)


def test_a_database_that_goes_away_while_the_culprit_is_looked_for_condemns_nobody():
    outage = [psycopg.OperationalError("away")] * 5
    bug = [ZeroDivisionError()] * TRIES_TOGETHER
    service = Service({2}, first=[*bug, *outage]).run(8)
    assert [letter.record.offset for letter in service.letters] == [2]
    assert service.done == [0, 1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "fault",
    [
        psycopg.errors.CheckViolation("violates check constraint"),
        psycopg.errors.NumericValueOutOfRange("bigint out of range"),
        psycopg.errors.RaiseException("a trigger says no"),
        psycopg.errors.ProgramLimitExceeded("index row size exceeds maximum"),
        psycopg.errors.StatementTooComplex("stack depth limit exceeded"),
        psycopg.errors.TooManyArguments("cannot pass more than 100 arguments"),
        psycopg.errors.UniqueViolation("duplicate key"),
        psycopg.ProgrammingError("cannot adapt type"),
        KeyError("a bug"),
    ],
)
def test_what_one_message_may_have_caused_is_no_outage(fault):
    assert not is_transient(fault)


def test_where_many_fail_and_none_succeeds_the_service_waits_to_be_mended():
    class Mended(Service):
        async def process(self, batch):
            self.whole += len(batch.messages) == 20
            if self.whole > TRIES_TOGETHER + 1:
                self.culprits = set()  # a new version runs when the search begins again
                shown.append(watched.trouble)
            await super().process(batch)

        whole = 0

    shown = []
    service = Mended(range(20))
    watched = Pipeline(service, service)
    asyncio.run(watched.run(records(20)))
    assert (service.letters, service.done) == ([], list(range(20)))
    (trouble,) = shown
    assert trouble.startswith("not one message of a batch succeeds: ZeroDivisionError: a bug")
    assert watched.trouble is None


def test_of_fewer_than_twenty_that_all_fail_each_is_a_dead_letter():
    assert [letter.record.offset for letter in Service(range(19)).run(19).letters] == list(range(19))


def test_where_anything_succeeds_those_that_fail_are_at_fault():
    """As many of one half as of the other, here."""
    assert [letter.record.offset for letter in Service({0, 10}).run(20).letters] == [0, 10]


def test_the_last_line_of_an_error_names_the_place_in_our_code_and_not_in_a_library():
    with pytest.raises(ValueError) as raised, ExitStack() as stack:
        stack.callback(json.loads, "{")

    line = last_line(raised.value)

    assert line.startswith("JSONDecodeError: Expecting property name")
    assert "(test_pipeline.py:" in line
    assert line.endswith("in test_the_last_line_of_an_error_names_the_place_in_our_code_and_not_in_a_library)")


def test_what_is_not_all_there_or_cannot_be_read_at_all_is_a_dead_letter(monkeypatch):
    def read(record, _handled):
        if record.offset == 1:
            raise RecursionError("too deep")
        return actual(record, _handled)

    actual = pipeline.read_record
    monkeypatch.setattr(pipeline, "read_record", read)
    service = Service()
    whole, deep, part = records(3)
    part = Record(*(getattr(part, name) for name in part.__struct_fields__[:-1]), "half of it is missing")
    asyncio.run(Pipeline(service, service).run([whole, deep, part]))
    assert service.done == [0]
    assert [(one.record.offset, one.reason) for one in service.letters] == [
        (1, FAILS),
        (2, "half of it is missing"),
    ]
    assert service.letters[0].error.startswith("RecursionError: too deep")


@pytest.mark.parametrize("refusal", [psycopg.errors.StatementTooComplex("stack depth"), KeyError("a bug")])
def test_what_cannot_be_kept_is_a_dead_letter(refusal):
    class Refusing(Service):
        async def keep(self, message, error):
            raise refusal

    assert [letter.record.offset for letter in Refusing(culprits={1}).run(3).letters] == [1]


def test_a_message_is_kept_however_long_the_database_is_away_meanwhile():
    class Away(Service):
        outage = 50

        async def keep(self, message, error):
            self.outage -= 1
            if self.outage >= 0:
                raise psycopg.OperationalError("away")
            return await super().keep(message, error)

    service = Away(culprits={1}, keeps={1}).run(3)
    assert ([offset for offset, _ in service.kept], service.letters) == ([1], [])


@pytest.mark.parametrize(
    "error",
    [
        KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN, "all brokers down")),
        KafkaSettingsError("SETTLE_KAFKA_SSL_CA=/ca is wrong"),
    ],
)
def test_dead_letters_wait_for_kafka_which_is_shown_until_it_takes_them(error):
    shown, reason = [], str(error) if isinstance(error, KafkaSettingsError) else "all brokers down"

    class Watched(Service):
        refused = 3

        async def publish(self, letters):
            shown.append(watched.trouble)
            self.refused -= 1
            if self.refused >= 0:
                raise error
            await super().publish(letters)

    service = Watched(culprits={1})
    watched = Pipeline(service, service)
    asyncio.run(watched.run(records(3)))
    assert [letter.record.offset for letter in service.letters] == [1]
    assert shown == [None] + [f"Kafka does not take dead letters for withdrawal.requests.dlq: {reason}"] * 3
    assert watched.trouble is None


@pytest.mark.parametrize("words", ["", "x" * 501], ids=["none", "501"])
def test_an_error_is_quoted_with_up_to_500_characters(words):
    class Failing(Service):
        async def process(self, batch):
            raise ZeroDivisionError(words)

    (letter,) = Failing().run(1).letters
    assert letter.error.startswith(f"ZeroDivisionError: {words[:500]} (test_pipeline.py:")


@pytest.mark.parametrize("count", [1, 3])
def test_a_failure_is_logged_with_the_number_of_messages_and_the_withdrawal_if_it_is_one(count):
    failing = records(count)
    service = Service(first=[KeyError("a bug")])
    with capture_logs() as lines:
        asyncio.run(Pipeline(service, service).run(failing))
    (line,) = lines
    assert line["messages"] == count
    assert line.get("payment_id") == (failing[0].payment_id if count == 1 else None)


def test_a_lost_race_is_no_failure_to_tell_people_of():
    with capture_logs() as lines:
        service = Service(first=[psycopg.errors.UniqueViolation("duplicate key"), LostRace("moved on")]).run(3)
    assert (service.done, lines) == ([0, 1, 2], [])


def test_the_time_of_a_batch_is_measured_from_its_start_to_its_end():
    before, started = REGISTRY.get_sample_value("settle_batch_seconds_sum"), time.perf_counter()
    Service().run(3)
    took_s = REGISTRY.get_sample_value("settle_batch_seconds_sum") - before
    assert 0 < took_s < time.perf_counter() - started


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (
            psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT"),
            "the database refuses: cannot execute INSERT",
        ),
        (psycopg.errors.UndefinedTable("no relation\nLINE 1"), "the database refuses: no relation"),
        (psycopg.OperationalError("away"), None),
        (LostRace("1 of 3 have moved on"), None),
    ],
)
def test_a_refusal_that_waiting_does_not_mend_is_shown_until_it_is_over(error, trouble):
    shown = []

    class Watched(Service):
        async def process(self, batch):
            shown.append(watched.trouble)
            await super().process(batch)

    service = Watched(first=[error])
    watched = Pipeline(service, service)
    asyncio.run(watched.run(records(1)))
    assert (shown, watched.trouble) == ([None, trouble], None)


def test_unknown_types_make_no_metric_no_transaction_and_one_line_of_bounded_length():
    unknown = [
        Record("withdrawal.requests", 0, n, b"k", b"{}", [("eventType", b"Type%d" % n * 5_000)])
        for n in range(500)
    ]
    service = Service()
    with capture_logs() as lines:
        asyncio.run(Pipeline(service, service).run(unknown))
    (line,) = lines
    assert (line["types"], line["count"]) == (500, 500)
    assert len(line["event_types"]) == 5
    assert len(str(line)) < 5_000
    assert service.transactions == 0
    assert b"Type1" not in metrics_page(REGISTRY, "").text
