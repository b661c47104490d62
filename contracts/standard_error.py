"""Standard error as logs write to it: a line that cannot be written is dropped, and whoever logs goes on.

The disk may be full, whoever read the pipe gone, or there without reading (a pager, a terminal that is stopped, a
log driver that hangs). What the process does is worth more than a line about it.
"""

import os
import select
import sys
import time
from contextlib import suppress
from typing import TextIO, cast

WAIT_S = 0.5
"""How long the first line waits for a reader that does not read; those after it do not wait, until it does."""

# As much as can be written at once without waiting, once anything can.
_CHUNK_BYTES = select.PIPE_BUF


class _Dropping:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""
        self._dropped = 0
        self._is_cut = False

    def write(self, text: str) -> int:
        self._line += text
        return len(text)

    def flush(self) -> None:
        """Write what has been collected; a logger calls this with its lock, once a line."""
        line, self._line = self._line, ""
        try:
            file = self._stream.fileno()
        except ValueError:  # it is no file of the system's, or closed
            with suppress(ValueError):
                self._stream.write(line)
            return
        missing = f"lines of the log that were dropped here, as nobody read it: {self._dropped}\n"
        text = ("\n" if self._is_cut else "") + (missing if self._dropped else "") + line
        try:
            self._write(file, text.encode(self._stream.encoding, "backslashreplace"))
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


def for_logs() -> TextIO:
    """What a logger writes lines to, and flushes after each; raises no ``OSError``, and waits for no reader."""
    return cast(TextIO, _Dropping(sys.stderr))
