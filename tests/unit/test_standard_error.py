"""A line of the log that cannot be written ends nothing."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

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


@pytest.mark.parametrize("sink", [nobody, full])
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
