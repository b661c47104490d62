"""Sources that are spread over worker processes: one command, one port, no worker that is lost or left behind."""

import signal
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from stack import ports
from tests.integration.relay.outbox import (
    DEADLINE_S,
    Outbox,
    answer,
    metric,
    relay_process,
    wait_until,
    writing,
)


@pytest.fixture
def pair(stack):
    return Outbox(stack), Outbox(stack)


@contextmanager
def relay(pair, log):
    """A relay of two processes, once it is ready; the process, its port, and its workers."""
    port = ports.choose(taken=set())
    environment = {"SETTLE_RELAY_PROCESSES": "2", "SETTLE_HTTP_PORT": str(port)}
    with log.open("ab") as stderr:
        dsn = " ".join(one.dsn for one in pair)
        with relay_process(pair[0], dsn=dsn, stderr=stderr, **environment) as process:
            wait_until(lambda: answer(port, "/readyz")[0] == 200, "the relay is ready")
            yield process, port, workers(process)


def workers(process):
    """The worker processes, in the order of their numbers."""
    return sorted(psutil.Process(process.pid).children(), key=lambda one: one.create_time())


def test_sources_are_spread_over_processes_that_are_started_again_and_end_in_order(pair, tmp_path):
    first, second = pair
    log = tmp_path / "log"
    with relay(pair, log) as (process, port, each):
        assert len(each) == 2
        # A process that does not answer for a second is not ready.
        wait_until(lambda: answer(port, "/readyz") == (200, "ready\n"), "both are ready at the same time")
        with writing(first), writing(second):
            wait_until(lambda: all(metric(port, one, "events_published_total") for one in pair), "both publish")
            killed = each[0]
            killed.kill()
            wait_until(
                lambda: len(workers(process)) == 2 and killed not in workers(process), "it is started again"
            )
            wait_until(lambda: answer(port, "/readyz")[0] == 200, "the relay is ready again")
        for one in pair:
            one.wait_published(one.written())
            one.wait_confirmed()
            wait_until(lambda one=one: metric(port, one, "active") == 1, "it reads")
        # One that hangs is told from one that works, and holds up no page.
        hanging = next(one for one in workers(process) if one in each)
        hanging.suspend()
        status, _ = wait_until(
            lambda: (found := answer(port, "/readyz"))[1].count("its process does not answer") == 1 and found,
            "a worker that hangs is not ready, and the other one is",
        )
        assert metric(port, second, "events_published_total") > 0
        hanging.resume()
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it goes on")
        left = workers(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
        assert not any(one.is_running() for one in left)
    for one in pair:
        assert one.assert_exactly_once_in_order() > 0
    lines = log.read_text().splitlines()
    (again,) = (line for line in lines if "starting it again" in line)
    assert "was ended by SIGKILL" in again
    assert sum("stopping" in line for line in lines) == 1
    assert status == 503


def test_workers_end_with_their_supervisor_however_that_ends(pair, tmp_path):
    log = tmp_path / "log"
    with relay(pair, log) as (process, _, each), writing(pair[0]), writing(pair[1]):
        for one in pair:
            one.wait_published(one.written())
        process.kill()
        gone, alive = psutil.wait_procs(each, DEADLINE_S)
    assert (len(gone), alive) == (2, [])
    assert log.read_text().count("the relay's supervisor is gone") == 2
    with relay(pair, log) as (process, _, _):
        for one in pair:
            one.wait_published(one.written())
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
    for one in pair:
        assert one.assert_exactly_once_in_order() > 0


def test_workers_are_started_again_though_no_line_can_be_logged(pair):
    with relay(pair, Path("/dev/full")) as (process, port, each):
        each[0].kill()
        wait_until(lambda: len(workers(process)) == 2 and each[0] not in workers(process), "it is started again")
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "the relay is ready again")
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
