"""What a check of the audit found to be off: all of it counted, the first few in words."""

from collections.abc import Iterable

EXAMPLES_MAX = 5
"""Offenders that a check names; the rest is counted, and not kept."""


class Offenders:
    """Collects offenders; memory does not grow with their number.

    Args:
        found: those that are known already, in words.

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
