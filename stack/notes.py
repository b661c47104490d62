"""Lines for a person: what a stack notes of itself, a restart for example, and goes on without."""

from collections.abc import Callable
from contextlib import suppress


def unfailing(note: Callable[[str], None]) -> Callable[[str], None]:
    """A note that raises nothing: a full disk, or a reader that has gone, ends no supervisor."""

    def noted(line: str) -> None:
        with suppress(Exception):
            note(line)

    return noted
