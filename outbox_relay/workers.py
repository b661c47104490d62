"""The supervisor of worker processes, among which the sources of a relay are spread, and which are started again.

An interpreter uses one core, so sources that are to use several need as many processes. Each has some of the
sources, and a connection here, by which it is asked for their reports.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import structlog

from outbox_relay.names import name_of
from outbox_relay.report import Report
from outbox_relay.source import BACKOFF_MAX_S, BACKOFF_MIN_S
from outbox_relay.source_settings import SourceSettings
from outbox_relay.state import State
from outbox_relay.threads import JOIN_WAIT_S

# How long a worker that is stopped may take: its sources' time, and some for the interpreter.
END_WAIT_S = JOIN_WAIT_S + 5.0
# How long all workers together are waited for with their reports.
ANSWER_WAIT_S = 1.0

_log = structlog.get_logger(__name__)


class Workers:
    """Carries sources in processes until told to stop.

    Args:
        sources: which; each belongs to one worker.
        processes: how many workers.
        stop: set when they shall end.
    """

    def __init__(self, sources: Sequence[SourceSettings], processes: int, stop: threading.Event) -> None:
        self._names = [name_of(one) for one in sources]
        self._workers = [_Worker(number + 1, part, stop) for number, part in enumerate(spread(sources, processes))]
        self._asking = threading.Lock()

    def start(self) -> None:
        """Begin."""
        for worker in self._workers:
            worker.start()

    def reports(self) -> Sequence[Report]:
        """The report of each source, in the order given; of a worker that does not answer, what it said last."""
        with self._asking:  # or one who asks would take the answer to another
            give_up = time.monotonic() + ANSWER_WAIT_S
            for worker in self._workers:
                worker.ask()
            found = {one.name: one for worker in self._workers for one in worker.answer(give_up)}
        return [found[name] for name in self._names]

    def join(self) -> Sequence[str]:
        """End all, once told to stop; the names of sources that have not ended in time."""
        for worker in self._workers:
            worker.end()
        return [name for worker in self._workers for name in worker.join()]


def spread(sources: Sequence[SourceSettings], processes: int) -> list[tuple[SourceSettings, ...]]:
    """Which sources each process has, in turn."""
    return [tuple(sources[number::processes]) for number in range(min(processes, len(sources)))]


class _Worker:
    """One worker, whichever process that is at the time."""

    def __init__(self, number: int, sources: tuple[SourceSettings, ...], stop: threading.Event) -> None:
        self._sources = sources
        self._stop = stop
        self._log = _log.bind(worker=number)
        self._thread = threading.Thread(target=self._run, name=f"worker-{number}", daemon=True)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._is_asked = False
        self._last = [Report(name_of(one)) for one in sources]
        self._why = "starting"

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> None:
        with self._lock:
            if self._connection is None:
                return
            try:
                while self._connection.poll(0):  # came too late for whoever asked
                    self._connection.recv()
                    self._is_asked = False
                if not self._is_asked:  # else nothing would ever read it
                    self._connection.send(None)
                    self._is_asked = True
            except (EOFError, OSError):
                self._disconnect()

    def answer(self, give_up: float) -> Sequence[Report]:
        with self._lock:
            if self._connection is not None:
                try:
                    if self._connection.poll(max(0.0, give_up - time.monotonic())):
                        self._last = self._connection.recv()
                        self._is_asked = False
                        return self._last
                    self._why = "its process does not answer"
                except (EOFError, OSError):
                    self._disconnect()
            return [replace(one, state=State.WAITING, reason=self._why) for one in self._last]

    def end(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.terminate()

    def join(self) -> Sequence[str]:
        self._thread.join(END_WAIT_S)
        if not self._thread.is_alive():
            return ()
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self._thread.join(END_WAIT_S)
        return [name_of(one) for one in self._sources]

    def _run(self) -> None:
        pause_s = BACKOFF_MIN_S
        while not self._stop.is_set():
            began = time.monotonic()
            ended = self._one_process()
            if self._stop.is_set():
                return
            if time.monotonic() - began > BACKOFF_MAX_S:
                pause_s = BACKOFF_MIN_S
            names = [name_of(one) for one in self._sources]
            self._log.warning(f"a worker process {ended}: starting it again", sources=names, in_s=pause_s)
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_MAX_S)

    def _one_process(self) -> str:
        """Start a process and wait for its end; how it ended."""
        try:
            process, ours = _started()
        except OSError as error:
            return f"cannot be started ({error.strerror or error})"
        with self._lock:
            self._process, self._connection, self._is_asked = process, ours, False
            try:
                ours.send(self._sources)
            except OSError:
                self._disconnect()
            if self._stop.is_set():
                process.terminate()
        code = process.wait()
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        with self._lock:
            self._process = None
            self._why = f"its process {ended}"
            self._disconnect()
        return ended

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _started() -> "tuple[subprocess.Popen[bytes], Connection[Any, Any]]":
    """A new process, and the connection to it.

    Raises:
        OSError: there can be none now.
    """
    ours, theirs = Pipe()
    command = [sys.executable, "-P", "-m", "outbox_relay.worker", str(theirs.fileno())]
    try:
        with theirs:
            process = subprocess.Popen(  # noqa: S603 our own module
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
    except OSError:
        ours.close()
        raise
    return process, ours
