"""A part (broker, database or service) as the supervisor knows it: how to start it, ask it and stop it."""

import signal
from dataclasses import dataclass
from typing import Protocol

from stack.process import Child


class Part(Protocol):
    """One supervised process."""

    name: str
    address: str
    """Where it listens, for people."""
    start_timeout_s: float
    stop_timeout_s: float
    stop_signal: signal.Signals
    hurry_signal: signal.Signals
    """When nobody wants to wait: ends it at once, losing nothing that was committed."""

    def prepare(self) -> Child | None:
        """Start what must run to its end once before the first launch, if anything."""
        ...

    def prepared(self) -> None:
        """Keep what :meth:`prepare` made, now that it ended well or was not needed."""
        ...

    def launch(self) -> Child:
        """Start the process."""
        ...

    def waits_for(self) -> str | None:
        """Why it does not do its work now, in words; None if it does. Asked for a second at most."""
        ...


@dataclass(frozen=True)
class PartStatus:
    """How a part is, for people.

    Attributes:
        state: ``pending`` (not its turn yet), ``starting``, ``ready``, ``waiting`` (it runs, but its broker or
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
