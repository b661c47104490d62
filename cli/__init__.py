"""``settle …``: everything a person does with Settle from a terminal.

Each command imports what it needs when it runs, so that ``settle --help`` and ``settle run`` start fast.
"""

import gc
import signal

# What is imported stays. Looking for garbage among it takes a seventh of a service's start.
gc.set_threshold(50_000)


def main() -> None:
    """Run ``settle`` with the arguments of this process."""
    # Ctrl-C before there is anything to end in order: just go, without a traceback out of an import.
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli.main import app

    if is_heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app()
