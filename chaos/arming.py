"""How does a service of a stack get its failpoint? By the command that starts it, and only that once."""

from collections import deque
from collections.abc import Mapping, Sequence

import failpoints
from stack.service import Command, settle_run


class Arming:
    """The command of a :class:`stack.supervisor.Stack`: arms a service's next starts, one failpoint a start.

    Args:
        command: how a service is run.
    """

    def __init__(self, command: Command = settle_run) -> None:
        self._command = command
        self._next: dict[str, deque[str]] = {}

    def arm(self, service: str, *names: str) -> None:
        """Let the next starts of a service die at these places, one a start (``name`` or ``name:count``)."""
        self._next.setdefault(service, deque()).extend(names)

    def left(self) -> Mapping[str, Sequence[str]]:
        """What no start has been given yet."""
        return {service: tuple(names) for service, names in self._next.items() if names}

    def __call__(self, service: str) -> Sequence[str]:
        """The command that runs a service now."""
        command = self._command(service)
        names = self._next.get(service)
        if not names:
            return command
        return ["env", f"{failpoints.VARIABLE}={names.popleft()}", *command]
