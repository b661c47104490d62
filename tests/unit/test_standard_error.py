"""A line of the log that cannot be written ends nothing."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from io import StringIO

import pytest

from contracts.standard_error import _Dropping

LOGS = """
import structlog
from {module} import configure_logs

configure_logs({name})
for number in range(100):
    structlog.get_logger().warning("a line", number=number, more="x" * 1_000)
print("went on")
"""


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
def standing():
    """A pipe whose reader is there, and reads nothing."""
    reader, writer = os.pipe()
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("sink", [nobody, full, standing])
@pytest.mark.parametrize(
    ("module", "name"), [("outbox_relay.process", ""), ("processors.runtime.logs", "'account'")]
)
def test_whoever_logs_goes_on(sink, module, name):
    with sink() as stderr:
        done = subprocess.run(
            [sys.executable, "-c", LOGS.format(module=module, name=name)],
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


def test_a_log_that_is_no_file_is_written_to_as_it_is():
    sink = StringIO()
    print("a line", file=_Dropping(sink), flush=True)
    assert sink.getvalue() == "a line\n"
