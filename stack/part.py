"""The interfaces of a supervised part (broker, database or service): start, readiness, stop."""

import signal
from dataclasses import dataclass
from typing import Protocol

from stack.process import Child


class Preparation(Protocol):
    """What must be done once before parts can be launched."""

    name: str

    def prepare(self) -> Child | None:
        """Start the process that does it, if it is not done yet."""
        ...

    def prepared(self) -> None:
        """Commit the result of :meth:`prepare`, which has succeeded or was not needed."""
        ...


class Part(Protocol):
    """One supervised process."""

    name: str
    address: str
    """The address that it listens on, for people."""
    start_timeout_s: float
    stop_timeout_s: float
    stop_signal: signal.Signals
    hurry_signal: signal.Signals
    """The signal for a hurried stop: ends it at once, losing nothing that was committed."""

    def launch(self) -> Child:
        """Start the process."""
        ...

    def waits_for(self) -> str | None:
        """Why it is not ready, in words; None if it is. Takes a second at most."""
        ...


@dataclass(frozen=True)
class PartStatus:
    """The status of a part, for people.

    Attributes:
        state: ``pending`` (not started yet), ``starting``, ``ready``, ``waiting`` (it runs, but its broker or
            database is away), ``restarting``, ``stopping`` or ``stopped``.
        restarts: since the stack started.
        pid: None while it does not run.
        waits_for: why it is ``starting`` or ``waiting``, in words.
    """

    name: str
    address: str
    state: str
    restarts: int
    pid: int | None
    waits_for: str | None = None
