"""The sources of a relay over its processes, and what a worker is handed."""

import errno
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe

import pytest

from outbox_relay import workers as supervision
from outbox_relay.names import named
from outbox_relay.outbox import Additional, Outbox, Route
from outbox_relay.report import Report
from outbox_relay.source_settings import SourceSettings
from outbox_relay.state import State
from outbox_relay.workers import Workers, spread

DSN = "postgresql://relay@db/shop"


def sources(count):
    return named([SourceSettings(f"postgresql://relay@db/shop{number}", "kafka:9092") for number in range(count)])


def test_each_source_belongs_to_one_process_and_none_is_without():
    for count in range(1, 9):
        for processes in range(1, 5):
            parts = spread(sources(count), processes)
            assert len(parts) == min(count, processes)
            assert sorted(one.name for part in parts for one in part) == sorted(one.name for one in sources(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_worker_is_handed_what_the_supervisor_has():
    outbox = Outbox(
        table="mails", route=Route(regex="(?<a>.+)", replacement="${a}.x"), additional=(Additional("tenant"),)
    )
    assert outbox.label  # kept once it was asked for
    settings = SourceSettings(DSN, "kafka:9092", outbox, fencing=True)
    found = pickle.loads(pickle.dumps(settings))
    assert found == settings
    assert found.outbox.route.name("mail") == "mail.x"


def test_sources_whose_worker_has_not_answered_yet_are_not_ready():
    workers = Workers(sources(3), 2, threading.Event())
    reports = workers.reports()
    assert [one.name for one in reports] == ["shop0", "shop1", "shop2"]
    assert {(one.state, one.reason) for one in reports} == {(State.WAITING, "starting")}
    assert reports[0].gauges["lag_bytes"] == Report("shop0").published_rows == 0


@pytest.fixture
def answering():
    """Two workers, each of which answers whenever it is asked."""
    workers = Workers(sources(2), 2, threading.Event())
    ends = []

    def answer(end, name):
        try:
            while True:
                end.recv()
                end.send([Report(name, state=State.READING)])
        except (EOFError, OSError):
            end.close()

    for number, worker in enumerate(workers._workers):
        worker._connection, end = Pipe()
        ends.append(threading.Thread(target=answer, args=(end, f"shop{number}")))
        ends[-1].start()
    yield workers
    for worker, end in zip(workers._workers, ends, strict=True):
        worker._disconnect()
        end.join()


def test_two_who_ask_at_the_same_time_are_both_answered(answering):
    both = threading.Barrier(2)

    def ask(_):
        both.wait()
        return {one.state for one in answering.reports()}

    with ThreadPoolExecutor(2) as pool:
        for _ in range(50):
            assert list(pool.map(ask, range(2))) == [{State.READING}] * 2


def test_a_worker_that_cannot_be_started_for_want_of_files_is_started_later(monkeypatch):
    def none():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(supervision, "Pipe", none)
    workers = Workers(sources(1), 1, threading.Event())
    assert workers._workers[0]._one_process() == "cannot be started (Too many open files)"
