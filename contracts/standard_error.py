"""Standard error as logs write to it: a line that cannot be written is dropped, and whoever logs goes on.

The disk may be full, or whoever read the pipe gone. What the process does is worth more than a line about it.
"""

import sys
from contextlib import suppress
from typing import TextIO, cast


class _Dropping:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def for_logs() -> TextIO:
    """What a logger writes lines to; raises no ``OSError``."""
    return cast(TextIO, _Dropping(sys.stderr))
