"""Tables and styled lines on the terminal, with foreign text escaped.

A string is always plain text here: markup and emoji codes are not interpreted, and unprintable characters are
escaped. Styles are given per part (:func:`styled`), line breaks by :func:`lines`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

CELL_MAX = 2_000
"""Characters of a text that a table shows; ``--json`` has all of them."""


def styled(*parts: object) -> Text:
    """A line of parts, each a value, or a pair of value and style."""
    line = Text()
    for part in parts:
        if isinstance(part, Text):
            line.append(part)
        elif isinstance(part, tuple):
            line.append(plain(str(part[0]), CELL_MAX), part[1])
        else:
            line.append(plain(str(part), CELL_MAX))
    return line


def lines(*parts: str | Text) -> Text:
    """Several lines of one cell."""
    return Text("\n").join(styled(part) for part in parts)


class Grid(Table):
    """A table whose cells are text; what is too long for its column is wrapped, not cut."""

    def __init__(self, *, head: bool = True, **options: Any) -> None:
        shape: dict[str, Any] = {"box": box.SIMPLE_HEAD} if head else {"box": box.SIMPLE, "show_header": False}
        super().__init__(**{**shape, "pad_edge": False, **options})

    def add_column(self, *head: RenderableType, **options: Any) -> None:
        """Add a column."""
        super().add_column(*head, **{"overflow": "fold", **options})

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row of strings, or of what :func:`styled` and :func:`lines` make."""
        super().add_row(*(styled(cell) if isinstance(cell, str) else cell for cell in cells), **options)


class Screen(Console):
    """Standard output."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def print(self, *objects: Any, **options: Any) -> None:
        """Print a line, or a table."""
        super().print(*(styled(one) if isinstance(one, str) else one for one in objects), **options)

    def on_broken_pipe(self) -> NoReturn:
        """The reader has gone: raise, so that :mod:`cli.errors` ends the command."""
        raise BrokenPipeError
