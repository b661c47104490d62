"""A line of the log that cannot be written ends nothing."""

import json
import os
import pty
import subprocess
import sys
import threading
from contextlib import contextmanager
from io import StringIO

import pytest

from contracts.standard_error import _Dropping

LOGS = """
import logging
import structlog
from contracts.redaction import guard_tracebacks
from {module} import configure_logs

guard_tracebacks()
configure_logs({name})
log = {logger}
for number in range(100):
    log.warning("a line, with much more: " + "x" * 1_000)
print("went on")
"""
STRUCTURED, LIBRARY = "structlog.get_logger()", "logging.getLogger('a library')"


@contextmanager
def nobody():
    """A pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


def full():
    """A disk without room."""
    return open("/dev/full", "w")


@contextmanager
def held(reader, writer):
    """The end that is written to, of two of which the other one stays open."""
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


def standing():
    """A pipe whose reader is there, and reads nothing."""
    return held(*os.pipe())


def unread():
    """A terminal that nobody reads, and which has room for a part of a line."""
    return held(*pty.openpty())


@pytest.mark.parametrize("sink", [nobody, full, standing, unread])
@pytest.mark.parametrize("logger", [STRUCTURED, LIBRARY])
@pytest.mark.parametrize(
    ("module", "name"), [("outbox_relay.process", ""), ("processors.runtime.logs", "'account'")]
)
def test_whoever_logs_goes_on(sink, logger, module, name):
    with sink() as stderr:
        done = subprocess.run(
            [sys.executable, "-c", LOGS.format(module=module, name=name, logger=logger)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=60,
        )
    assert done.stdout == "went on\n"


def test_whoever_reads_again_has_whole_lines_and_how_many_are_missing():
    reader, writer = os.pipe()
    with os.fdopen(reader) as lines, os.fdopen(writer, "w") as sink:
        logs = _Dropping(sink)

        def log(number):
            print(json.dumps({"number": number, "more": "x" * 10_000}), file=logs, flush=True)

        taken = 0
        while not logs._dropped:
            log(taken)
            taken += 1
        for number in range(taken, taken + 3):
            log(number)
        os.set_blocking(reader, False)
        found = [lines.read()]
        log("last")
        found += lines.read()
    *whole, cut, missing, last = "".join(found).splitlines()
    assert [json.loads(line)["number"] for line in whole] == list(range(taken - 1))
    assert cut.startswith(f'{{"number": {taken - 1}, ')
    assert missing == "lines of the log that were dropped here, as nobody read it: 4"
    assert json.loads(last)["number"] == "last"


def test_a_log_without_a_stream_is_dropped():
    print("a line", file=_Dropping(None), flush=True)


def test_a_log_that_is_no_file_is_written_to_as_it_is():
    sink = StringIO()
    print("a line", file=_Dropping(sink), flush=True)
    assert sink.getvalue() == "a line\n"


ASKS = """
import cli, cli.main
from cli.confirm import confirm
from cli.errors import in_one_line

def app():
    with in_one_line():
        confirm("redrive 2 dead letters", yes=False)

cli.main.app = app
cli.start()
"""
LOGS_WITHOUT = """
import sys
from {module} import {main}
import structlog

def app(*_, **__):
    from {logs} import configure_logs
    configure_logs({name})
    structlog.get_logger().warning("a line")
    print("went on")

import typer, cli.main
cli.main.app = typer.Typer.__call__ = app
{main}()
"""


def closed(redirection: str, *command: str) -> subprocess.CompletedProcess[str]:
    """A process that was started with one of its standard streams closed."""
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, *command]
    return subprocess.run(shell, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_nobody_can_be_asked_where_standard_input_is_closed():
    done = closed("<&-", "-c", ASKS)
    assert done.stderr.startswith("settle: to redrive 2 dead letters without a terminal to ask at, pass --yes")


def test_a_connector_is_not_read_from_a_closed_standard_input():
    done = closed("<&-", "-m", "outbox_relay", "import-debezium", "-")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("outbox-relay: -: ")


@pytest.mark.parametrize(
    ("module", "main", "logs", "name"),
    [
        ("cli", "start", "processors.runtime.logs", "'account'"),
        ("outbox_relay.__main__", "main", "outbox_relay.process", ""),
    ],
)
def test_a_closed_standard_error_ends_nothing_and_is_no_part_of_the_output(module, main, logs, name):
    done = closed("2>&-", "-c", LOGS_WITHOUT.format(module=module, main=main, logs=logs, name=name))
    assert (done.returncode, done.stdout) == (0, "went on\n")


def test_what_is_wrong_with_a_command_is_not_printed_instead_of_its_output():
    done = closed("2>&-", "-m", "cli", "status", "nonsense")
    assert (done.returncode, done.stdout) == (2, "")


def test_the_stack_starts_where_standard_output_is_closed(tmp_path):
    """As far as to find that the folder cannot be one."""
    (tmp_path / "file").touch()
    done = closed(">&-", "-m", "cli", "up", "--data", str(tmp_path / "file"))
    assert done.returncode != 0
    assert "AttributeError" not in done.stderr


@pytest.fixture
def piped():
    """A log that is written to a pipe, and what reads it."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as lines, os.fdopen(writer, "w") as sink:
        yield _Dropping(sink), lines


def on_a_thread(call):
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_lines_of_several_threads_are_whole(piped):
    logs, lines = piped
    logs.write("one ")
    on_a_thread(lambda: print("another", file=logs, flush=True)).join()
    print("line", file=logs, flush=True)
    assert [lines.readline() for _ in range(2)] == ["another\n", "one line\n"]


def test_one_thread_writes_at_a_time(piped, monkeypatch):
    logs, _ = piped
    writing, may_end, order, write = threading.Event(), threading.Event(), [], logs._write

    class Watched:
        """The lock, which has the first line written to its end once somebody waits for it."""

        def __enter__(self):
            if not lock.acquire(blocking=False):
                may_end.set()
                lock.acquire()

        def __exit__(self, *_):
            lock.release()

    def slow(file, line):
        order.append(("begins", line))
        writing.set()
        assert may_end.wait(60)
        write(file, line)
        order.append(("ends", line))

    lock = logs._lock
    monkeypatch.setattr(logs, "_lock", Watched())
    monkeypatch.setattr(logs, "_write", slow)
    first = on_a_thread(lambda: print("first", file=logs, flush=True))
    assert writing.wait(60)
    second = on_a_thread(lambda: (print("second", file=logs, flush=True), may_end.set()))
    for thread in (first, second):
        thread.join(60)
    assert order == [(does, line) for line in (b"first\n", b"second\n") for does in ("begins", "ends")]


def test_an_object_that_logs_as_it_is_collected_while_its_thread_logs_waits_for_nobody(piped, monkeypatch):
    logs, lines = piped
    write = logs._write

    def collect(file, line):
        monkeypatch.setattr(logs, "_write", write)
        print("of what is collected", file=logs, flush=True)
        write(file, line)

    monkeypatch.setattr(logs, "_write", collect)
    thread = on_a_thread(lambda: print("a line", file=logs, flush=True))
    thread.join(60)
    assert not thread.is_alive()
    assert [lines.readline() for _ in range(2)] == ["of what is collected\n", "a line\n"]
