"""What every program of Settle does before anything else, whichever command starts it."""

import os
from collections.abc import Mapping

from contracts.production import refuse_unsafe
from contracts.redaction import guard_tracebacks
from contracts.variables import FILE, remember_secrets, secrets


def begin(given: Mapping[str, str] | None = None) -> None:
    """Hide secrets wherever this process writes, and refuse what production refuses.

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
