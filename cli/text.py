"""Lines on the terminal, with foreign text escaped.

Text from a topic, a database, a header, a provider or a variable may hold anything: escapes that a terminal would
interpret, line breaks that forge a line. So commands print with these functions, and tables with
:mod:`cli.screen`.
"""

import json
import sys

from contracts.redaction import hide


def plain(text: str, most: int | None = None) -> str:
    """A text of which a terminal shows every character: control and formatting characters are escaped.

    Args:
        text: any.
        most: characters to keep; what is cut is counted.
    """
    if most is not None and len(text) > most:
        text = f"{text[:most]}… ({len(text) - most:,} more characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: str = "", *, end: str = "\n") -> None:
    """Print one line and flush it."""
    print(plain(text), end=end, flush=True)


def say_json(value: object) -> None:
    """Print JSON in ASCII: a program gets every character, a terminal no escape."""
    print(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


def say_to_shell(line: str) -> None:
    """Print a line for a shell to evaluate, which is quoted already."""
    print(line)


def complain(text: str) -> None:
    """Print an error to standard error, as one line without secrets."""
    print(f"settle: {plain(hide(text))}", file=sys.stderr)
