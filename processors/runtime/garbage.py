"""The garbage collector of a process that handles many small things: to search for cycles less often."""

import gc

THRESHOLD = 200_000
"""Objects made and not freed, between two searches."""


def collect_rarely() -> None:
    """Leave out what was imported, and search the rest for cycles seldom.

    A batch creates tens of thousands of short-lived objects; to search them for cycles, and all that was imported,
    would cost as much as the work itself, and hold everything up meanwhile.
    """
    gc.freeze()
    gc.set_threshold(THRESHOLD)
