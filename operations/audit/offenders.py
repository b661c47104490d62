"""The offenders that a check of the audit found: all counted, the first few kept as text."""

from collections.abc import Iterable

EXAMPLES_MAX = 5
"""Offenders that a check names; further ones are only counted."""


class Offenders:
    """Collects offenders; memory does not grow with their number.

    Args:
        found: those that are known already, one line each.

    Attributes:
        count: how many there are.
    """

    def __init__(self, found: Iterable[str] = ()) -> None:
        self.count = 0
        self._examples: list[str] = []
        for words in found:
            self.add(words)

    def add(self, words: str) -> None:
        """Count one."""
        self.count += 1
        if len(self._examples) < EXAMPLES_MAX:
            self._examples.append(words)

    def in_words(self) -> str:
        """The first of them, and how many more there are; empty if there is none."""
        more = f"; and {self.count - len(self._examples)} more" if self.count > len(self._examples) else ""
        return "; ".join(self._examples) + more
