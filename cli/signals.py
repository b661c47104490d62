"""The signals that end a command that runs a stack: Ctrl-C, and likewise SIGTERM or a terminal that closes."""

import signal
from collections.abc import Callable
from types import FrameType


def on_end(handler: Callable[[int, FrameType | None], object] = signal.default_int_handler) -> None:
    """Handle every termination signal alike: by default as Ctrl-C, so that nothing is left running.

    A shell starts background jobs with SIGINT ignored; that is undone as well.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)
