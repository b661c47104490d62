"""Start commands of a stack's services: with a failpoint, once, or with a shifted clock."""

from collections import deque
from collections.abc import Mapping, Sequence

from contracts import failpoints
from lab.chaos import clock
from stack.service import Command, settle_run


class Arming:
    """The command of a :class:`stack.supervisor.Stack`: arms a service's next starts, one failpoint a start.

    It also shifts their clocks.

    Args:
        command: how a service is run.
    """

    def __init__(self, command: Command = settle_run) -> None:
        self._command = command
        self._next: dict[str, deque[str]] = {}
        self._off_s: dict[str, float] = {}

    def arm(self, service: str, *names: str) -> None:
        """Make the next starts of a service die at these failpoints, one a start (``name`` or ``name:count``)."""
        self._next.setdefault(service, deque()).extend(names)

    def set_clock(self, service: str, off_s: float) -> None:
        """Shift the clock of every further start of a service by so many seconds; 0: not at all."""
        self._off_s[service] = off_s

    def left(self) -> Mapping[str, Sequence[str]]:
        """The failpoints that no start has received yet."""
        return {service: tuple(names) for service, names in self._next.items() if names}

    def __call__(self, service: str) -> Sequence[str]:
        """The command that runs a service now."""
        command = self._command(service)
        if off_s := self._off_s.get(service):
            command = clock.off(command, off_s)
        names = self._next.get(service)
        if not names:
            return command
        return ["env", f"{failpoints.VARIABLE}={names.popleft()}", *command]
