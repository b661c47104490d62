"""The relay ends on a signal, however many come at once."""

import subprocess
import sys

PROGRAM = """
import os, signal, threading, structlog
from outbox_relay import process

class Log:
{log}
    def flush(self):
        pass

structlog.configure(logger_factory=structlog.PrintLoggerFactory(Log()))
stop = threading.Event()
process.stop_on_signals(stop)
os.kill(os.getpid(), signal.SIGTERM)
stop.wait()
print("stopped", flush=True)
"""

# The second signal comes while the first one is being logged.
TWICE = PROGRAM.format(
    log="""
    def __init__(self):
        self.lines = 0

    def write(self, text):
        self.lines += 1
        if self.lines == 1:
            os.kill(os.getpid(), signal.SIGTERM)
"""
)

# Standard error waits for somebody who does not read it, so the thread that writes to it does not end.
UNREAD = PROGRAM.format(
    log="""
    def write(self, text):
        threading.Event().wait()
"""
)


def ended(program: str) -> str:
    """What a program has printed by its end."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_second_signal_that_comes_while_the_first_is_logged_ends_the_relay_too():
    assert ended(TWICE) == "stopped\n"


def test_a_relay_whose_log_cannot_be_written_ends_all_the_same():
    assert ended(f"{UNREAD}os._exit(0)\n") == "stopped\n"
