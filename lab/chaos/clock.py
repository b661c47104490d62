"""Runs a module with a clock that is off: ``python -m lab.chaos.clock <seconds> <module> <arguments>``.

What Python asks the time of is off; what libraries ask the kernel themselves is not, nor is time that only grows.
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
    """Set the clock, then be the module."""
    import time_machine  # only who runs chaos has it

    _, off_s, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    time_machine.travel(timedelta(seconds=float(off_s))).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
