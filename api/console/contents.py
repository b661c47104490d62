"""Contents of messages as people read them: JSON with a line for each member, or a hex dump. Pure functions."""

from typing import NamedTuple

import msgspec

from contracts.foreign import UNREADABLE

HEX_BYTES_MAX = 4_096
TEXT_MAX = 200_000
"""Characters of JSON that are shown; Kafka takes bodies of a megabyte."""

_LINE = 16


class Contents(NamedTuple):
    """What is shown of some bytes.

    Attributes:
        kind: ``JSON``, ``text``, ``bytes``, ``empty`` or ``none``.
        size: of all of it, bytes.
        left_out: of it, characters of text or bytes that are not shown.
    """

    kind: str
    text: str
    size: int
    left_out: int = 0


def body(value: bytes | None) -> Contents:
    """A message's body: JSON with its values as they were written, or a hex dump."""
    if not value:
        return _nothing(value)
    try:
        text = msgspec.json.format(value, indent=2).decode()
    except UNREADABLE:
        dump = "\n".join(
            _line(at, value[at : at + _LINE]) for at in range(0, min(len(value), HEX_BYTES_MAX), _LINE)
        )
        return Contents("bytes", dump, len(value), max(len(value) - HEX_BYTES_MAX, 0))
    return Contents("JSON", text[:TEXT_MAX], len(value), max(len(text) - TEXT_MAX, 0))


def field(value: bytes | None) -> Contents:
    """A key, or the value of a header: text, or hex digits."""
    if not value:
        return _nothing(value)
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return Contents("bytes", value[:HEX_BYTES_MAX].hex(" "), len(value), max(len(value) - HEX_BYTES_MAX, 0))
    return Contents("text", text[:HEX_BYTES_MAX], len(value), max(len(text) - HEX_BYTES_MAX, 0))


def _nothing(value: bytes | None) -> Contents:
    return Contents("none" if value is None else "empty", "", 0)


def _line(at: int, some: bytes) -> str:
    """A line as ``hexdump -C`` writes it."""
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in some)
    left, right = some[:8].hex(" "), some[8:].hex(" ")
    return f"{at:08x}  {left:<23}  {right:<23}  |{shown}|"
