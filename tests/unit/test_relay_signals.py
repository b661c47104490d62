"""The relay ends on a signal, however many come at once."""

import subprocess
import sys

# The second signal comes while the first one is being logged.
TWICE = """
import os, signal, threading, structlog
from outbox_relay import process

class Log:
    def __init__(self):
        self.lines = 0

    def write(self, text):
        self.lines += 1
        if self.lines == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def flush(self):
        pass

structlog.configure(logger_factory=structlog.PrintLoggerFactory(Log()))
stop = threading.Event()
process.stop_on_signals(stop)
os.kill(os.getpid(), signal.SIGTERM)
stop.wait()
print("stopped")
"""


def test_a_second_signal_that_comes_while_the_first_is_logged_ends_the_relay_too():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "stopped\n"


# Standard error waits for somebody who does not read it.
UNREAD = """
import os, signal, threading, structlog
from outbox_relay import process

class Log:
    def write(self, text):
        threading.Event().wait()

    def flush(self):
        pass

structlog.configure(logger_factory=structlog.PrintLoggerFactory(Log()))
stop = threading.Event()
process.stop_on_signals(stop)
os.kill(os.getpid(), signal.SIGTERM)
stop.wait()
print("stopped", flush=True)
os._exit(0)
"""


def test_a_relay_whose_log_cannot_be_written_ends_all_the_same():
    done = subprocess.run([sys.executable, "-c", UNREAD], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "stopped\n"
