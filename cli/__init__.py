"""``settle …``: the command line.

Each command imports what it needs when it runs, so that ``settle --help`` and ``settle run`` start fast.
"""

import gc
import signal
import sys
from io import TextIOWrapper

from contracts.start import open_standard_streams

# Imported modules stay. The garbage collector's passes over them take a seventh of a service's start.
gc.set_threshold(50_000)


def start() -> None:
    """Run ``settle`` with the arguments of this process."""
    open_standard_streams()
    # Ctrl-C before there is anything to stop in order: end at once, without a traceback from an import.
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli.main import app

    if is_heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A character that the terminal cannot encode is printed as its code.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _refuse_non_utf8()
    app()


def _refuse_non_utf8() -> None:
    """Arguments that are not UTF-8 arrive as surrogates, which neither Kafka nor a database accepts."""
    from cli.errors import BAD_INPUT
    from cli.text import complain

    for argument in sys.argv[1:]:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            complain(f"{argument} is not UTF-8")
            sys.exit(BAD_INPUT)
