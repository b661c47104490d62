"""What every program of Settle does before anything else, whichever command starts it."""

import os
import sys
from collections.abc import Mapping

from contracts.production import refuse_unsafe
from contracts.redaction import guard_tracebacks
from contracts.variables import FILE, PREFIX, padded, remember_secrets, secrets

_warned: set[str] = set()


def open_standard_streams() -> None:
    """Open ``/dev/null`` for each standard stream that was closed when the process started (``<&-``, ``2>&-``).

    Python has None instead of such a stream, and the next file or socket would get its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def begin(given: Mapping[str, str] | None = None) -> None:
    """Hide secrets wherever this process writes, and refuse what production refuses; warn of misspelt variables.

    Args:
        given: values of the command line that hold instead of variables, by the name that people know them by.

    Raises:
        EnvironmentRefusedError: the environment is not one to start in; the text is one line.
    """
    guard_tracebacks()
    remember_secrets()
    refuse_unsafe(given)
    for name, value in secrets().items():
        # OpenTelemetry's exporter reads variables only.
        if name.startswith("OTEL_") and os.environ.get(name + FILE):
            os.environ[name] = value
            del os.environ[name + FILE]
    _warn()


def _warn() -> None:
    if not any(name.startswith(PREFIX) for name in os.environ):
        return
    # Imported here: it takes the registry of services along.
    from contracts.known import unknown

    for line in (*unknown(), *padded()):
        if line not in _warned:  # a service's command begins, and so does the app that it loads
            _warned.add(line)
            print(f"settle: warning: {line}", file=sys.stderr)
