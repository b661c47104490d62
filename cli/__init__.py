"""``settle …``: everything a person does with Settle from a terminal.

Each command imports what it needs when it runs, so that ``settle --help`` and ``settle run`` start fast.
"""

import gc
import signal
import sys
from io import TextIOWrapper

# What is imported stays. Looking for garbage among it takes a seventh of a service's start.
gc.set_threshold(50_000)


def start() -> None:
    """Run ``settle`` with the arguments of this process."""
    # Ctrl-C before there is anything to end in order: just go, without a traceback out of an import.
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli.main import app

    if is_heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A terminal that lacks a character gets its code.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _refuse_other_bytes()
    app()


def _refuse_other_bytes() -> None:
    """Bytes that are no UTF-8 reach us as halves of characters, which neither Kafka nor a database takes."""
    from cli.errors import BAD_INPUT
    from cli.text import complain

    for argument in sys.argv[1:]:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            complain(f"{argument} is not UTF-8")
            sys.exit(BAD_INPUT)
