"""Pages of lists: how many entries one has, and where the next one begins."""

from base64 import b32encode
from hashlib import sha256
from typing import Annotated

import msgspec
from litestar.params import Parameter

from api.problems import Problem

PAGE_SIZE, PAGE_MAX = 50, 500
SECONDS_MAX = 10**9
"""Of a time that a filter names, such as how long nothing has happened."""

Limit = Annotated[int, Parameter(ge=1, le=PAGE_MAX, description="How many at the most.")]
Cursor = Annotated[str | None, Parameter(max_length=100, description="As the page before gave it.")]

_MARK = "~"
_DIGEST_CHARACTERS = 8


def sealed(place: str | None, *of: object) -> str | None:
    """The cursor of a place in a list: with a digest of the list's name and filter, to which alone it belongs.

    Args:
        place: where the next page begins; None where there is none.
        of: the list's name and filter; what can be encoded as JSON.
    """
    return f"{place}{_MARK}{_digest(of)}" if place is not None else None


def opened(cursor: str | None, *of: object) -> str | None:
    """The place that a cursor names in a list.

    Raises:
        Problem: it is none, or of a list with another filter.
    """
    if not cursor:
        return None
    place, mark, digest = cursor.rpartition(_MARK)
    if not mark:
        raise Problem("invalid", f"{cursor!r} is no cursor of this list")
    if digest != _digest(of):
        raise Problem("invalid", "the cursor is of a list with another filter")
    return place


def _digest(of: object) -> str:
    found = sha256(msgspec.json.encode(of, order="deterministic")).digest()
    return b32encode(found).decode()[:_DIGEST_CHARACTERS].lower()
