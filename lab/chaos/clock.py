"""A module run with a shifted clock: ``python -m lab.chaos.clock <seconds> <module> <arguments>``.

Python's clocks are shifted; those that libraries read from the kernel are not, nor is monotonic time.
"""

import runpy
import sys
from collections.abc import Sequence
from datetime import timedelta


def off(command: Sequence[str], off_s: float) -> list[str]:
    """A command ``python … -m <module> …`` whose clock is so many seconds ahead."""
    module = command.index("-m") + 1
    return [*command[:module], __name__, f"{off_s:g}", *command[module:]]


def main() -> None:
    """Set the clock, then run the module."""
    import time_machine  # only who runs chaos has it

    _, off_s, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    time_machine.travel(timedelta(seconds=float(off_s))).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
