"""Standard error as logs write to it: a line that cannot be written is dropped, and whoever logs goes on.

The disk may be full, whoever read the pipe gone, or there without reading (a pager, a terminal that is stopped, a
log driver that hangs). What the process does is worth more than a line about it.
"""

import os
import select
import sys
import threading
import time
from contextlib import suppress
from typing import TextIO, cast

WAIT_S = 0.5
"""How long the first line waits for a reader that does not read; those after it do not wait, until it does."""

# As much as can be written at once without waiting, once anything can.
_CHUNK_BYTES = select.PIPE_BUF


class _Dropping:
    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self._terminal = _opened_anew(stream)
        self._collected = threading.local()
        # Whoever collects garbage may log while it logs.
        self._lock = threading.RLock()
        self._dropped = 0
        self._is_cut = False

    def write(self, text: str) -> int:
        self._collected.line = getattr(self._collected, "line", "") + text
        return len(text)

    def flush(self) -> None:
        """Write what this thread has written since, which is a line."""
        line, self._collected.line = getattr(self._collected, "line", ""), ""
        with self._lock:
            self._put(line)

    def _put(self, line: str) -> None:
        if self.stream is None:  # it was closed before the process began
            return
        try:
            file = self.stream.fileno() if self._terminal is None else self._terminal
        except ValueError:  # it is no file of the system's, or closed
            with suppress(ValueError):
                self.stream.write(line)
            return
        missing = f"lines of the log that were dropped here, as nobody read it: {self._dropped}\n"
        text = ("\n" if self._is_cut else "") + (missing if self._dropped else "") + line
        try:
            self._write(file, text.encode(self.stream.encoding, "backslashreplace"))
        except OSError:
            self._dropped += 1
        else:
            self._dropped = 0

    def _write(self, file: int, line: bytes) -> None:
        """Write a line.

        Raises:
            OSError: not all of it can be written.
        """
        until = time.monotonic() + (0 if self._dropped else WAIT_S)
        writable = select.poll()
        writable.register(file, select.POLLOUT)
        at = 0
        while at < len(line):
            if not writable.poll(max(0.0, until - time.monotonic()) * 1_000):
                raise TimeoutError("nobody reads it")
            at += os.write(file, line[at : at + _CHUNK_BYTES])
            self._is_cut = at < len(line)


def _opened_anew(stream: TextIO | None) -> int | None:
    """A terminal as a file of its own that never waits: it may take less than it said; None: it is no terminal."""
    if stream is None:
        return None
    with suppress(OSError, ValueError):
        file = stream.fileno()
        if os.isatty(file):
            return os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return None


_shared: _Dropping | None = None


def for_logs() -> TextIO:
    """What a logger writes lines to, and flushes after each; raises no ``OSError``, and waits for no reader.

    One for all loggers of the process, on any thread.
    """
    global _shared
    if _shared is None or _shared.stream is not sys.stderr:
        _shared = _Dropping(sys.stderr)
    return cast(TextIO, _shared)
