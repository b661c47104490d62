"""The lifecycle of one supervised part: start, readiness checks, restart with backoff, stop."""

import signal
import time
from collections.abc import Callable

from stack.errors import ChildFailed, StackError
from stack.part import Part, PartStatus
from stack.process import Child

PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 10.0
HEALTHY_AFTER_S = 30.0
"""A part that was ready for this long restarts with the first pause again."""
PROBE_EVERY_S = 2.0
KILL_WAIT_S = 5.0


def pause_s(deaths_in_a_row: int) -> float:
    """Seconds to wait before the next start after so many deaths in a row (1 and up)."""
    return min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** min(deaths_in_a_row - 1, 10))


class Supervised:
    """A part and its state. Not thread-safe: only the supervising thread calls it.

    Args:
        note: called with a line that a person may want to read.
        clock: monotonic seconds.
    """

    def __init__(self, part: Part, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self.part = part
        self.child: Child | None = None
        self._state = "pending"
        self._restarts = 0
        self._note = note
        self._clock = clock
        self._deaths_in_a_row = 0
        self._ready_since: float | None = None
        self._act_at = 0.0
        self._waits_for: str | None = None

    def status(self) -> PartStatus:
        """How it is."""
        pid = self.child.pid if self.child is not None else None
        return PartStatus(self.part.name, self.part.address, self._state, self._restarts, pid, self._waits_for)

    def launch(self) -> None:
        """Start it; it is ``starting`` until it is ready."""
        self.child = self.part.launch()
        self._state = "starting"
        self._waits_for = None
        self._ready_since = None

    def check(self) -> None:
        """Check a part that is being started for the first time.

        Raises:
            ChildFailed: it ended instead.
        """
        if self.child is not None and self.child.exit_code() is not None:
            child, self.child, self._state = self.child, None, "stopped"
            raise ChildFailed(
                f"{self.part.name} ended at its start ({child.ending()}): {child.last_log_line()} "
                f"(see {child.log})"
            )
        self._ask()

    def tick(self) -> None:
        """Supervise it: detect its end, restart it after its pause, check its readiness. Raises nothing."""
        if self._state in ("pending", "stopped"):
            return
        try:
            self._supervise()
        except Exception as error:  # an exception in this thread would end every part
            self._waits_for = f"it cannot be supervised: {error!r}"

    def kill(self) -> None:
        """End it as a crash would; the next ticks start it again."""
        if self.child is None:
            raise StackError(f"{self.part.name} is not running")
        self.child.signal(signal.SIGKILL)
        self.child.wait(KILL_WAIT_S)
        self.tick()

    def request_stop(self, *, hurry: bool = False) -> None:
        """Send its stop signal, without waiting; it is not restarted any more."""
        if self.child is not None:
            self._state = "stopping"
            self.child.signal(self.part.hurry_signal if hurry else self.part.stop_signal)
        else:
            self._state = "stopped"

    def gone(self) -> bool:
        """Whether it has ended after :meth:`request_stop`."""
        if self.child is not None and self.child.exit_code() is not None:
            self.child = None
            self._state = "stopped"
        return self.child is None

    def force(self, why: str) -> None:
        """Kill it if it did not end after its stop signal."""
        if self.child is not None:
            self._note(f"{self.part.name} {why} and was killed")
            self.child.signal(signal.SIGKILL)
            self.child.wait(KILL_WAIT_S)
            self.gone()

    def _supervise(self) -> None:
        if self.child is None:
            if self._clock() >= self._act_at:
                self._restart()
        elif self.child.exit_code() is not None:
            self._died(self.child.ending())
        else:
            self._ask()

    def _ask(self) -> None:
        now = self._clock()
        if self._state != "starting" and now < self._act_at:
            return
        self._act_at = now + PROBE_EVERY_S
        try:
            self._waits_for = self.part.waits_for()
        except Exception as error:  # an exception in this thread would end every part
            self._waits_for = f"it cannot be asked: {error!r}"
        if self._waits_for is None:
            self._state = "ready"
            self._ready_since = self._ready_since or now
            if now - self._ready_since > HEALTHY_AFTER_S:
                self._deaths_in_a_row = 0
        elif self._state == "ready":
            self._state = "waiting"

    def _died(self, ending: str) -> None:
        self.child = self._waits_for = None
        self._state = "restarting"
        self._deaths_in_a_row += 1
        pause = pause_s(self._deaths_in_a_row)
        self._act_at = self._clock() + pause
        self._note(f"{self.part.name} ended ({ending}); it starts again in {pause:g} s")

    def _restart(self) -> None:
        self._restarts += 1
        try:
            self.launch()
        except Exception as error:  # an exception in this thread would end every part
            self._died(str(error) if isinstance(error, StackError | OSError) else repr(error))
