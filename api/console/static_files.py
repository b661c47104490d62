"""Static files of the pages: read once, served for good under a name that changes with their contents."""

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from litestar import Response, get

from api.guard import OPEN
from api.problems import Problem

STATIC = Path(__file__).parent / "static"
PATH = "/console/static"
FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}

TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""What is served, by the end of its name; licences stay where they are."""


@cache
def contents(name: str) -> bytes:
    """A file as it is served.

    Raises:
        KeyError: there is none.
    """
    file = STATIC / name
    if file.suffix not in TYPES or file.parent != STATIC or not file.is_file():
        raise KeyError(name)
    return file.read_bytes()


@cache
def url(name: str) -> str:
    """Where a page loads a file from."""
    return f"{PATH}/{sha256(contents(name)).hexdigest()[:16]}/{name}"


@get(f"{PATH}/{{version:str}}/{{name:str}}", opt={OPEN: True}, include_in_schema=False)
async def static_file(version: str, name: str) -> Response[bytes]:
    """A file; also the sign-in page needs them."""
    try:
        found = contents(name)
    except KeyError:
        raise Problem("not-found", "there is no such file") from None
    headers = FOREVER if url(name).endswith(f"/{version}/{name}") else {}
    return Response(found, media_type=TYPES[f".{name.rpartition('.')[2]}"], headers=headers)


ROUTES: list[Any] = [static_file]
